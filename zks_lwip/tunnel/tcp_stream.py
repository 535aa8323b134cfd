"""A stream of the tunnel as a trio stream, for what talks through the tunnel itself."""

from __future__ import annotations

import errno
import operator
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import trio

__all__ = ["ERRNO", "StreamHandle", "TunnelTcpStream"]

_BUFFER = 256 * 1024
"""Bytes that may wait to be sent: as many as one message may hold."""

#: ERROR codes (PROTOCOL.md §4) that are errno values of Linux, as those of this system.
ERRNO = {
    101: errno.ENETUNREACH,
    104: errno.ECONNRESET,
    110: errno.ETIMEDOUT,
    111: errno.ECONNREFUSED,
    113: errno.EHOSTUNREACH,
    403: errno.EACCES,
}


class StreamHandle(Protocol):
    """What :class:`~zks_lwip.tunnel.peers.TunnelStream` is to its peer."""

    def mark_ready(self) -> None: ...
    def consumed(self, n: int, /) -> None: ...
    def close(self) -> None: ...


class TunnelTcpStream(trio.abc.HalfCloseableStream):
    """The peer of a tunnel stream, with the interface of a TCP connection.

    As a socket's, its close is graceful, and a reset if more comes from the far end.

    :param linger: called with the handle when the stream is closed before the far end has finished.
    """

    def __init__(self, linger: Callable[[Any], None]) -> None:
        self._linger = linger
        self._handle: StreamHandle | None = None
        self._connected = False
        self._failure: OSError | None = None
        self._received: deque[bytes] = deque()
        self._received_eof = False
        self._outgoing = bytearray()
        self._send_eof = False
        self._closed = False
        self._news = trio.lowlevel.ParkingLot()
        self._sending = False
        self._receiving = False

    def attach(self, handle: StreamHandle) -> None:
        """Give it its end of the stream; to be called once, at once."""
        self._handle = handle

    # a StreamPeer

    def pull_into(self, view: memoryview) -> int | None:
        """Give the session bytes to send; None: the end of them."""
        size = min(len(view), len(self._outgoing))
        if size:
            with memoryview(self._outgoing) as whole, whole[:size] as first:
                view[:size] = first
            del self._outgoing[:size]
            self._news.unpark_all()
        elif self._send_eof:
            return None
        return size

    def on_connected(self) -> None:
        """Take note that the far end is connected."""
        self._connected = True
        self._news.unpark_all()

    def on_data(self, payload: memoryview) -> None:
        """Take bytes of the far end; a copy is kept."""
        if self._closed:
            self.abort()
            return
        self._received.append(bytes(payload))
        self._news.unpark_all()

    def on_eof(self) -> None:
        """Take note that the far end sends no more."""
        self._received_eof = True
        self._news.unpark_all()

    def on_end(self, code: int, message: str) -> None:
        """Take note that it is over, or was refused."""
        number = ERRNO.get(code, errno.ECONNRESET)
        self._failure = OSError(number, message or os.strerror(number))
        self._news.unpark_all()

    # a trio stream

    async def wait_connected(self) -> None:
        """Wait until the far end is connected.

        :raises OSError: it will not be.
        """
        while not self._connected and self._failure is None:
            await self._news.park()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """End both directions at once; the far end sees a reset."""
        self._closed = True
        self._outgoing.clear()
        self._received.clear()
        if self._handle is not None:
            self._handle.close()
        self._news.unpark_all()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._failure is not None:
            raise trio.BrokenResourceError(f"the stream was reset: {self._failure}")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._send_eof and not self._closed:
                raise trio.ClosedResourceError("end of stream was already sent")
            self._check_sendable()
            with memoryview(data).cast("B") as view:
                done = 0
                while done < len(view):
                    await self._wait_for_room()
                    part = view[done : done + _BUFFER - len(self._outgoing)]
                    self._outgoing += part
                    done += len(part)
                    assert self._handle is not None
                    self._handle.mark_ready()
            # The others have their turns when the bytes are on their way.
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def _wait_for_room(self) -> None:
        self._check_sendable()
        while len(self._outgoing) >= _BUFFER:
            await self._news.park()
            self._check_sendable()

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            while len(self._outgoing) >= _BUFFER and self._failure is None:
                await self._news.park()
                if self._closed:
                    raise trio.ClosedResourceError("this stream was closed")
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._send_eof:
            self._send_eof = True
            assert self._handle is not None
            self._handle.mark_ready()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("this stream was closed")
                if self._received:
                    break
                if self._received_eof:
                    return b""
                if self._failure is not None:
                    raise trio.BrokenResourceError(f"the stream was reset: {self._failure}")
                await self._news.park()
            data = self._received.popleft()
            if max_bytes is not None and len(data) > max_bytes:
                self._received.appendleft(data[max_bytes:])
                data = data[:max_bytes]
            assert self._handle is not None
            self._handle.consumed(len(data))
            return data
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            assert self._handle is not None
            if self._received or self._failure is not None:
                self.abort()
            else:
                self._send_eof = True
                self._handle.mark_ready()
                self._linger(self._handle)
            self._news.unpark_all()
        await trio.lowlevel.checkpoint()
