"""The control channel where Python has no unix sockets, on Windows: TCP on loopback, and a secret.

Instead of a socket a file lies at the path: the port, and a secret that is new with each instance.
Administrators alone may read it, and who knows the secret is one. Any user can connect, and once an
instance has died, any user can listen at its port: each end proves first that it knows the secret,
and neither shows it. What follows is as on a unix socket.

An end sends 32 random bytes, the server also its proof (HMAC-SHA256 of both ends' bytes), and the
client then its own.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ..net.listen import listen

__all__ = ["IS_USED", "Meeting", "admit", "connect_to", "listen_at", "read_meeting"]

IS_USED = sys.platform == "win32"
"""Whether it is what this system has."""
_SIZE = 32
_SERVER, _CLIENT = b"zks-lwip control server", b"zks-lwip control client"
_MAX_FILE = 1024


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where an instance listens, and what both ends know."""

    port: int
    secret: bytes = field(repr=False)

    def proof(self, role: bytes, nonces: bytes) -> bytes:
        """Return what only an end that knows the secret can send."""
        return hmac.digest(self.secret, role + nonces, "sha256")


def read_meeting(path: Path) -> Meeting:
    """Read the file of an instance.

    :raises OSError: it is not there, or may not be read.
    :raises ConnectionRefusedError: it is none: its writer has died half-way.
    """
    with open(path, "rb") as file:
        data = file.read(_MAX_FILE)
    try:
        told = json.loads(data)
        port, secret = told["port"], bytes.fromhex(told["secret"])
    except (ValueError, KeyError, TypeError):
        port, secret = 0, b""
    if type(port) is not int or not 0 < port < 65536 or len(secret) != _SIZE:
        raise ConnectionRefusedError(f"{path} does not say where an instance listens")
    return Meeting(port, secret)


def listen_at(path: Path) -> tuple[socket.socket, Meeting]:
    """Listen, and write the file in a folder that is closed to others.

    :raises OSError, ConfigError: that cannot be.
    """
    listener, (_, port) = listen("127.0.0.1", 0)
    try:
        meeting = Meeting(port, secrets.token_bytes(_SIZE))
        new = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with open(fd, "wb") as file:
            file.write(json.dumps({"port": port, "secret": meeting.secret.hex()}).encode())
        os.replace(new, path)
    except BaseException:
        listener.close()
        raise
    return listener, meeting


async def admit(stream: trio.abc.Stream, meeting: Meeting) -> bool:
    """Prove to a client that this is the instance, and return whether the client knows the secret.

    :raises trio.BrokenResourceError: it has hung up.
    """
    theirs = await _exactly(stream)
    nonces = theirs + secrets.token_bytes(_SIZE)
    await stream.send_all(nonces[_SIZE:] + meeting.proof(_SERVER, nonces))
    return hmac.compare_digest(await _exactly(stream), meeting.proof(_CLIENT, nonces))


async def _exactly(stream: trio.abc.Stream) -> bytes:
    data = b""
    while len(data) < _SIZE:
        part = await stream.receive_some(_SIZE - len(data))
        if not part:
            raise trio.BrokenResourceError
        data += part
    return data


def connect_to(path: Path, patience: float) -> socket.socket:
    """Return a connection to the instance whose file this is; blocks.

    :param patience: seconds that it has to prove what it is, and for which it may be silent later.
    :raises ConnectionRefusedError: none runs: what listens there, if anything, is another program.
    :raises OSError: the file cannot be read.
    """
    meeting = read_meeting(path)
    connection = socket.create_connection(("127.0.0.1", meeting.port), timeout=patience)
    try:
        mine = secrets.token_bytes(_SIZE)
        connection.sendall(mine)
        said, end = b"", time.monotonic() + patience
        while len(said) < 2 * _SIZE and (part := connection.recv(2 * _SIZE - len(said))):
            said += part
            connection.settimeout(max(0.001, end - time.monotonic()))  # also if byte by byte
        connection.settimeout(patience)
        nonces = mine + said[:_SIZE]
        if not hmac.compare_digest(said[_SIZE:], meeting.proof(_SERVER, nonces)):
            raise ConnectionRefusedError("what listens there is another program")
        connection.sendall(meeting.proof(_CLIENT, nonces))
    except BaseException as error:
        connection.close()
        if isinstance(error, (ConnectionResetError, BrokenPipeError)):
            raise ConnectionRefusedError("what listens there is another program") from error
        raise
    return connection
