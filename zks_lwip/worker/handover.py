"""Connections that belong to another process of the worker, given to it with their request.

A plain TCP connection is passed as a descriptor (unix(7), SCM_RIGHTS), and costs nothing from then
on. One over TLS cannot be: its keys are here. Its bytes are relayed for as long as it lives, which
costs this process about what serving it would; only sessions that come back do that, and those of
tokens that have limits of their own.
"""

from __future__ import annotations

import array
import errno
import json
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ..carrier.http import HttpRequest
from ..carrier.liveness import MAX_PATIENCE
from .auth import Principal
from .grants import Grant

__all__ = ["Handover", "decode_request", "encode_request"]

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("!IB")
_MAX_REQUEST = 256 * 1024
"""Bytes of a request as it is passed; its head has 16 KiB at most."""
_PATIENCE = 5.0
"""Seconds that the other process may take to accept, and its message to come."""
_FULL = 0.05
"""Seconds until another look whether the other process has room in its queue."""
_RELAYED = 64 * 1024

_STALLED = MAX_PATIENCE
"""Seconds in which either end of a relayed connection has to take what is at hand: the process that
serves it would have given it up, which is not seen while nothing can be passed on."""

Serve = Callable[[trio.abc.Stream, HttpRequest], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handover:
    """What one process knows of the others.

    :param index: its own number, from 0.
    :param paths: of the sockets that each listens on for connections of its sessions.
    :param fd: its own of these.
    :param prefix: what the ids of the worker's sessions begin with, before a dot; empty: neither.
    """

    index: int
    paths: tuple[Path, ...]
    fd: int
    prefix: str = ""

    @property
    def session_prefix(self) -> str:
        """What the ids of its sessions begin with, before a dot."""
        return f"{self.prefix}.{self.index}" if self.prefix else str(self.index)

    def owner(self, wanted: bytes | None, principal: Principal, grant: Grant) -> int:
        """Return the process that a request belongs to.

        :param wanted: the session that it asks for (``Zks-Session``).
        :param grant: what its token may do: where that has limits of its own, one process serves
            all its sessions, whichever it asks for, so that they hold exactly.
        """
        if grant.limited:
            return int.from_bytes(principal.digest[:8]) % len(self.paths)
        if wanted is not None:
            known = wanted.decode("latin-1")
            if self.prefix:
                known = known.removeprefix(f"{self.prefix}.")
            number, dot, _ = known.partition(".")
            if dot and number.isascii() and number.isdigit() and len(number) < 4:
                if int(number) < len(self.paths):
                    return int(number)
        return self.index

    async def give(self, owner: int, stream: trio.abc.Stream, request: HttpRequest) -> bool:
        """Give a connection away, and return when that is done, or when it has ended.

        :returns: False: the other process does not take it. It is untouched then.
        """
        fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None
        other = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with trio.fail_after(_PATIENCE):
                await _connect(other, self.paths[owner])
                await _send(other, request, fd)
        except (OSError, trio.TooSlowError) as error:
            _log.warning("process %d takes no connection: %s", owner, error or "too slow")
            other.close()
            return False
        except BaseException:
            other.close()
            raise
        if fd is not None:
            with other:
                if sys.platform == "darwin":
                    await _until_taken(other)
        else:
            await _relay(stream, trio.SocketStream(other))
        return True

    async def run(self, serve: Serve) -> None:
        """Take what others give, until cancelled.

        :param serve: serves a connection whose request has been read; closes it.
        """
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=self.fd))
        async with trio.SocketListener(sock) as listener:
            await trio.serve_listeners(partial(_take, serve=serve), [listener])


async def _connect(other: trio.socket.SocketType, path: Path) -> None:
    """Connect, also to a process whose queue is full, as after an outage when all clients come
    back: Linux says so at once then, and nothing tells when there is room."""
    while True:
        await other.connect(str(path))
        try:
            other.getpeername()
            return
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        await trio.sleep(_FULL)


async def _send(other: trio.socket.SocketType, request: HttpRequest, fd: int | None) -> None:
    body = encode_request(request)
    data = _HEADER.pack(len(body), fd is not None) + body
    ancillary = []
    if fd is not None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sent = await other.sendmsg([data], ancillary)
    while sent < len(data):
        sent += await other.send(data[sent:])


async def _until_taken(other: trio.socket.SocketType) -> None:
    """Wait until the other process has closed: macOS may lose a descriptor whose sender closes
    before it has been received (bugs.python.org/issue14669)."""
    try:
        with trio.move_on_after(_PATIENCE):
            await other.recv(1)
    except OSError as error:  # it has ended, and the connection with it
        _log.debug("a connection was given to a process that has gone: %s", error)


async def _take(stream: trio.SocketStream, *, serve: Serve) -> None:
    """Take one connection. It comes from a process of ours: the socket's directory is ours."""
    given: socket.socket | None = None
    try:
        with trio.fail_after(_PATIENCE):
            size = array.array("i", [0]).itemsize
            data, ancillary, _, _ = await stream.socket.recvmsg(
                _HEADER.size, socket.CMSG_SPACE(size)
            )
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    given = socket.socket(fileno=array.array("i", value[:size])[0])
            data += await _exactly(stream, _HEADER.size - len(data))
            length, plain = _HEADER.unpack(data)
            if length > _MAX_REQUEST or bool(plain) != (given is not None):
                raise ValueError("a request is too long, or its connection is missing")
            request = decode_request(await _exactly(stream, length))
    except (OSError, ValueError, EOFError, trio.TooSlowError, trio.BrokenResourceError) as error:
        _log.warning("a connection that another process gave was lost: %s", error)
        if given is not None:
            given.close()
        await trio.aclose_forcefully(stream)
        return
    if given is None:
        await serve(stream, request)
        return
    await trio.aclose_forcefully(stream)
    given.setblocking(False)
    await serve(trio.SocketStream(trio.socket.from_stdlib_socket(given)), request)


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise EOFError("it ended early")
        data += piece
    return data


async def _relay(client: trio.abc.Stream, owner: trio.SocketStream) -> None:
    """Carry bytes both ways until one end is over; both are closed then."""

    async def carry(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        try:
            while data := await source.receive_some(_RELAYED):
                with trio.fail_after(_STALLED):
                    await sink.send_all(data)
        except (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.TooSlowError,
        ) as error:
            _log.debug("a relayed connection ended: %s", error or "one end takes nothing")
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, owner)
            nursery.start_soon(carry, owner, client)
    finally:
        await trio.aclose_forcefully(owner)
        await trio.aclose_forcefully(client)


def encode_request(request: HttpRequest) -> bytes:
    """Return a request as :func:`decode_request` reads it."""
    values: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers
        ],
        "peer": request.peer,
        "upgrade": request.upgrade,
        "subprotocols": request.subprotocols,
        "version": request.version,
        "rest": request.rest.decode("latin-1"),
    }
    return json.dumps(values).encode()


def decode_request(data: bytes) -> HttpRequest:
    """Return the request that another process has read.

    :raises ValueError: it is none.
    """
    try:
        values = json.loads(data)
        peer = values.pop("peer")
        headers = values.pop("headers")
        return HttpRequest(
            headers=tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in headers),
            peer=None if peer is None else (peer[0], peer[1]),
            subprotocols=tuple(values.pop("subprotocols")),
            rest=values.pop("rest").encode("latin-1"),
            **values,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"that is no request: {error}") from None
