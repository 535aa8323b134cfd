"""The control channel where Python has no unix sockets, on Windows: TCP on loopback, and a secret.

Instead of a socket a file lies at the path: the port, and a secret that is new with each instance.
Administrators alone may read it, and who knows the secret is one. Any user can connect, and once an
instance has died, any user can listen at its port: each end proves first that it knows the secret,
and neither shows it. What follows is as on a unix socket.

An end sends 32 random bytes, the server also its proof (HMAC-SHA256 of both ends' bytes), and the
client then its own. The server's part is in :mod:`.loopback_server`.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CLIENT", "SERVER", "SIZE", "Meeting", "connect_to", "read_meeting"]

SIZE = 32
"""Bytes of the secret, of a nonce and of a proof."""
SERVER, CLIENT = b"zks-lwip control server", b"zks-lwip control client"
"""The roles of the ends."""
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
    if type(port) is not int or not 0 < port < 65536 or len(secret) != SIZE:
        raise ConnectionRefusedError(f"{path} does not say where an instance listens")
    return Meeting(port, secret)


def connect_to(path: Path, patience: float) -> socket.socket:
    """Return a connection to the instance whose file this is; blocks.

    :param patience: seconds that it has to prove what it is, and for which it may be silent later.
    :raises ConnectionRefusedError: none runs: what listens there, if anything, is another program.
    :raises OSError: the file cannot be read.
    """
    meeting = read_meeting(path)
    connection = socket.create_connection(("127.0.0.1", meeting.port), timeout=patience)
    try:
        mine = secrets.token_bytes(SIZE)
        connection.sendall(mine)
        said, end = b"", time.monotonic() + patience
        while len(said) < 2 * SIZE and (part := connection.recv(2 * SIZE - len(said))):
            said += part
            connection.settimeout(max(0.001, end - time.monotonic()))  # also if byte by byte
        connection.settimeout(patience)
        nonces = mine + said[:SIZE]
        if not hmac.compare_digest(said[SIZE:], meeting.proof(SERVER, nonces)):
            raise ConnectionRefusedError("what listens there is another program")
        connection.sendall(meeting.proof(CLIENT, nonces))
    except BaseException as error:
        connection.close()
        if isinstance(error, (ConnectionResetError, BrokenPipeError)):
            raise ConnectionRefusedError("what listens there is another program") from error
        raise
    return connection
