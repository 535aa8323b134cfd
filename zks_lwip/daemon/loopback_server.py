"""The control channel over loopback (:mod:`.loopback`): the end of an instance."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
from pathlib import Path

import trio

from ..net.listen import listen
from .loopback import CLIENT, SERVER, SIZE, Meeting

__all__ = ["admit", "listen_at"]


def listen_at(path: Path) -> tuple[socket.socket, Meeting]:
    """Listen, and write the file in a folder that is closed to others.

    :raises OSError, ConfigError: that cannot be.
    """
    listener, (_, port) = listen("127.0.0.1", 0)
    try:
        meeting = Meeting(port, secrets.token_bytes(SIZE))
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
    nonces = theirs + secrets.token_bytes(SIZE)
    await stream.send_all(nonces[SIZE:] + meeting.proof(SERVER, nonces))
    return hmac.compare_digest(await _exactly(stream), meeting.proof(CLIENT, nonces))


async def _exactly(stream: trio.abc.Stream) -> bytes:
    data = b""
    while len(data) < SIZE:
        part = await stream.receive_some(SIZE - len(data))
        if not part:
            raise trio.BrokenResourceError
        data += part
    return data
