"""The stream that trio-websocket is given: it counts, remembers when the peer was last heard, and
receives straight into the buffer of :class:`~zks_lwip.tunnel.masking.FramedConnection`."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from .framing import CONTINUE, BoundedConnection
from .masking import FramedConnection

__all__ = ["Wire"]

log = logging.getLogger(__name__)

# What one receive asks for where it does not go straight into the protocol's buffer.
_RECEIVE_BYTES = 256 * 1024
_RECORD = 16 * 1024  # the most that one record of TLS holds


class Wire(trio.abc.Stream):
    """``stream`` as a WebSocket carrier."""

    def __init__(self, stream: trio.abc.Stream, protocol: BoundedConnection) -> None:
        self.stream = stream
        #: When anything last came from the peer, by trio's clock.
        self.heard = trio.current_time()
        #: Waited for before anything is read, if set.
        self.before_read: Callable[[], Awaitable[None]] | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        #: Something is being sent: the kernel does not have all of it yet.
        self.sending = False
        self._bounded = protocol
        self._protocol = protocol if isinstance(protocol, FramedConnection) else None
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        # An SSL object gives one record (16 KiB) a call, and an SSLStream goes through the
        # scheduler for each; asked directly, it gives all that has come. trio has no public way.
        self._tls: ssl.SSLObject | None = None
        if isinstance(stream, trio.SSLStream):
            self._tls = getattr(stream, "_ssl_object", None)

    async def send_all(self, data: Any) -> None:
        self.sending = True
        await self.stream.send_all(data)  # (one that fails, or is cancelled, is the last)
        self.sending = False
        self.bytes_sent += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        """What has come; CONTINUE, after others had their turns, while older bytes are left."""
        if self.before_read is not None:
            await self.before_read()
        if self._bounded.unfinished:
            await trio.lowlevel.checkpoint()
            return CONTINUE
        framed = self._protocol
        if framed is None or framed.connection is None:
            data: Any = await self.stream.receive_some(_RECEIVE_BYTES)
        elif self._socket is not None:
            data = await self._receive(framed, self._socket)
        elif self._tls is not None:
            data = await self._decrypt(framed, self._tls)
        else:
            data = await self.stream.receive_some(_RECEIVE_BYTES)
        if data:
            self.heard = trio.current_time()
            self.bytes_received += len(data)
        return data

    async def _receive(self, framed: FramedConnection, sock: trio.socket.SocketType) -> Any:
        """What the kernel has, in the protocol's buffer, which is held only while there is any."""
        if not hasattr(os, "readv"):  # Windows
            return await self.stream.receive_some(_RECEIVE_BYTES)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while True:
                buffer = framed.get_buffer()
                try:
                    size = os.readv(sock.fileno(), [buffer])
                except BlockingIOError:
                    buffer.release()
                else:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return buffer[:size]
                framed.rest()
                await trio.lowlevel.wait_readable(sock)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise trio.ClosedResourceError("this socket was already closed") from None
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def _decrypt(self, framed: FramedConnection, tls: ssl.SSLObject) -> Any:
        framed.rest()
        first = await self.stream.receive_some(_RECORD)
        size = len(first)
        if not size:
            return first
        buffer = framed.get_buffer(size)
        buffer[:size] = first
        read: Any = tls.read  # with a buffer it returns a count, whatever typeshed says
        try:
            while size < len(buffer):
                more = read(len(buffer) - size, buffer[size:])
                if not more:
                    break
                size += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:  # the stream says so too, when it is asked next
            log.debug("TLS: %s", error)
        return buffer[:size]

    async def aclose(self) -> None:
        await self.stream.aclose()
