"""TCP connections as trio streams."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio
from trio.abc import HalfCloseableStream

from .._util import ConflictDetector
from ..errors import StackError
from ..net.names import join_host_port
from ._flow import Flow
from ._stack import Stack

__all__ = ["TcpStream", "connect_tcp", "open_tcp_stream"]

_DEFAULT_RECEIVE = 1 << 16  # bytes
SEND_BUFFER = 0xFFFF << 4  # bytes: TCP_SND_BUF of lwIP's configuration


class TcpStream(HalfCloseableStream):
    """One TCP connection of lwIP, as a stream.

    Bytes that are sent count as sent when lwIP has them (its send buffer is 1 MiB); closing does
    not wait for them to arrive. Closing with received bytes unread resets the connection, as a
    kernel does.

    :param on_handshake: called once, with the stream and whether its handshake is done; False: it
        will not be.
    """

    def __init__(
        self, flow: Flow, *, on_handshake: Callable[[TcpStream, bool], None] | None = None
    ) -> None:
        self._flow = flow
        self._on_handshake = on_handshake
        self._send_conflict = ConflictDetector("another task is sending on this stream")
        self._receive_conflict = ConflictDetector("another task is receiving on this stream")
        self._readable = trio.Event()
        self._writable = trio.Event()
        self._established = trio.Event()
        self._connected = False
        self._closed = False
        self._reset = False
        self._gone = False  # the peer, after its EOF: nothing more goes there
        self._eof_sent = False
        self.bytes_sent = 0
        """Bytes that lwIP has taken so far, which a cancelled :meth:`send_all` does not say."""
        flow.handler = self

    @property
    def flow(self) -> Flow:
        """The flow below. Its handler is this stream."""
        return self._flow

    @property
    def source(self) -> tuple[str, int]:
        """Address and port of the peer."""
        return self._flow.source

    @property
    def destination(self) -> tuple[str, int]:
        """Address and port of this end: what the peer connected to."""
        return self._flow.destination

    # FlowHandler

    def on_established(self) -> None:
        """Take note that the handshake is done."""
        self._connected = True
        self._established.set()
        self._tell_handshake(True)

    def on_readable(self) -> None:
        """Wake the task that receives."""
        self._readable.set()

    def on_writable(self) -> None:
        """Wake the task that sends."""
        self._writable.set()

    def on_reset(self) -> None:
        """Take note that it was reset, and wake the tasks that wait."""
        self._reset = True
        self._wake()
        self._tell_handshake(False)

    def on_closed(self) -> None:
        """Take note that nothing more can be sent, and wake the tasks that wait."""
        self._gone = True
        self._wake()
        self._tell_handshake(False)

    def _tell_handshake(self, done: bool) -> None:
        callback, self._on_handshake = self._on_handshake, None
        if callback is not None:
            callback(self, done)

    def _wake(self) -> None:
        self._established.set()
        self._readable.set()
        self._writable.set()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._reset:
            raise trio.BrokenResourceError("the connection was reset")

    # trio.abc.HalfCloseableStream

    async def wait_established(self) -> None:
        """Wait until the handshake is done.

        A reset that came after the handshake is for the next call on the stream to tell.

        :raises trio.BrokenResourceError: the peer refused or gave up.
        """
        await self._established.wait()
        if self._closed or not self._connected:
            self._check_open()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._eof_sent:
                raise trio.ClosedResourceError("send_eof was called on this stream")
            with memoryview(data).cast("B") as view:
                sent = 0
                while sent < len(view):
                    if self._gone:
                        raise trio.BrokenResourceError("the peer has gone")
                    self._writable = trio.Event()
                    taken = self._flow.push(view[sent:])
                    self.bytes_sent += taken
                    sent += taken
                    if sent < len(view):
                        await self._writable.wait()
                        self._check_open()

    async def wait_send_all_might_not_block(self) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._writable = trio.Event()
            self._flow.push(b"")
            if self._flow.unacked() > SEND_BUFFER // 2:
                await self._writable.wait()
                self._check_open()

    async def send_eof(self) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._eof_sent = True
            self._flow.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with self._receive_conflict:
            if max_bytes is None:
                max_bytes = _DEFAULT_RECEIVE
            elif max_bytes < 1:
                raise ValueError("max_bytes must be 1 or more")
            await trio.lowlevel.checkpoint()
            buffer = bytearray(max_bytes)
            while True:
                self._check_open()
                self._readable = trio.Event()
                count = self._flow.pull_into(buffer)
                if count is None:
                    return b""
                if count:
                    return bytes(memoryview(buffer)[:count])
                await self._readable.wait()

    async def aclose(self) -> None:
        """Send FIN, and forget the connection. Harmless twice."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """Do what :meth:`aclose` does, without a checkpoint."""
        if not self._closed:
            self._closed = True
            self._flow.close()
            self._wake()

    def abort(self) -> None:
        """Reset the connection at once."""
        if not self._closed:
            self._closed = True
            self._flow.abort()
            self._wake()


async def connect_tcp(
    stack: Stack, source: tuple[str, int], destination: tuple[str, int]
) -> TcpStream:
    """Open a connection from an address and port of one's choice; see :func:`open_tcp_stream`.

    :param source: address and port of this end.
    :param destination: address and port of the peer.
    :returns: the stream; its ``source`` is the peer.
    :raises trio.BrokenResourceError: it was refused, or not answered.
    :raises StackError: the four-tuple is in use, or the stack is full.
    """
    stream = TcpStream(stack.connect(source, destination))
    try:
        await stream.wait_established()
    except BaseException:
        stream.abort()
        raise
    return stream


async def open_tcp_stream(
    stack: Stack, address: str, port: int, *, source: tuple[str | None, int] = (None, 0)
) -> TcpStream:
    """Open a connection to an address on the device's side, and wait until it is established.

    Cancel it to wait for less than the stack does, which is about 6 s where nothing answers.

    :param address: of the peer, an IP literal.
    :param port: of the peer, 1 to 65535.
    :param source: address and port of this end; None, and 0: one of the stack's own addresses (or
        any, where it has none), and a free ephemeral port (RFC 6056).
    :returns: the stream; its ``source`` is the peer.
    :raises ConnectionRefusedError: nothing listens there.
    :raises TimeoutError: nothing answers.
    :raises PermissionError: ICMP says that it is prohibited.
    :raises OSError: ICMP says ENETUNREACH or EHOSTUNREACH.
    :raises StackError: the port is in use, the stack is full, or it has ended.
    :raises ValueError: an address that is no literal, or two families.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port that can be connected to")
    flow = stack.connect((source[0] or stack.source_for(address), source[1]), (address, port))
    stream = TcpStream(flow)
    try:
        await stream.wait_established()
    except trio.BrokenResourceError:
        where = join_host_port(address, port)
        raise connect_error(flow.failure, where) from None
    except BaseException:
        stream.abort()
        raise
    return stream


def connect_error(failure: int | None, where: str) -> OSError | StackError:
    """Return why a connection was not made.

    :param failure: an errno; None: the stack has ended.
    :param where: address and port, for the message.
    """
    if failure is None:
        return StackError(f"{where}: the stack has ended")
    return OSError(failure, f"{where}: {os.strerror(failure)}")
