"""TCP connections as trio streams."""

from __future__ import annotations

import trio
from trio.abc import HalfCloseableStream, Listener

from zks_lwip._conflict import ConflictDetector
from zks_lwip.errors import StackError
from zks_lwip.stack._flow import Flow, Reject
from zks_lwip.stack._stack import Stack

__all__ = ["TcpListener", "TcpStream", "connect_tcp"]

_DEFAULT_RECEIVE = 1 << 16
SEND_BUFFER = 0xFFFF << 4  # bytes: TCP_SND_BUF of lwIP's configuration


class TcpStream(HalfCloseableStream):
    """One TCP connection of lwIP, as a stream.

    Bytes that are sent count as sent when lwIP has them (its send buffer is 1 MiB); closing does
    not wait for them to arrive. Closing with received bytes unread resets the connection, as a
    kernel does.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._send_conflict = ConflictDetector("another task is sending on this stream")
        self._receive_conflict = ConflictDetector("another task is receiving on this stream")
        self._readable = trio.Event()
        self._writable = trio.Event()
        self._established = trio.Event()
        self._connected = False
        self._closed = False
        self._reset = False
        self._gone = False  # the other end, after its EOF: nothing more goes there
        self._eof_sent = False
        flow.handler = self

    @property
    def source(self) -> tuple[str, int]:
        """Address and port of the other end."""
        return self._flow.source

    @property
    def destination(self) -> tuple[str, int]:
        """Address and port of this end: what the other end connected to."""
        return self._flow.destination

    # FlowHandler

    def on_established(self) -> None:
        self._connected = True
        self._established.set()

    def on_readable(self) -> None:
        self._readable.set()

    def on_writable(self) -> None:
        self._writable.set()

    def on_reset(self) -> None:
        self._reset = True
        self._wake()

    def on_closed(self) -> None:
        self._gone = True
        self._wake()

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

        :raises trio.BrokenResourceError: the other end refused or gave up.
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
                        raise trio.BrokenResourceError("the other end has gone")
                    self._writable = trio.Event()
                    sent += self._flow.push(view[sent:])
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
        if not self._closed:
            self._closed = True
            self._flow.close()
            self._wake()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the connection at once."""
        if not self._closed:
            self._closed = True
            self._flow.abort()
            self._wake()


class TcpListener(Listener[TcpStream]):
    """Every TCP connection that comes to a stack, whatever its destination.

    :param backlog: connections that wait for :meth:`accept`; the SYNs of more are dropped, as a
        kernel does, and sent again by whoever connects.
    """

    def __init__(self, stack: Stack, *, backlog: int = 128) -> None:
        if stack.on_flow is not None:
            raise StackError("somebody takes the connections of this stack already")
        self._stack = stack
        self._send, self._receive = trio.open_memory_channel[Flow](backlog)
        stack.on_flow = self._on_flow

    def _on_flow(self, flow: Flow) -> None:
        try:
            self._send.send_nowait(flow)
        except trio.WouldBlock:
            flow.reject(Reject.SILENT)

    async def accept_flow(self) -> Flow:
        """The next connection, held: accept it by ``TcpStream(flow)`` and ``flow.accept()``, or
        reject it.
        """
        return await self._receive.receive()

    async def accept(self) -> TcpStream:
        """The next connection, its handshake done."""
        while True:
            stream = TcpStream(await self.accept_flow())
            stream._flow.accept()
            try:
                await stream.wait_established()
            except trio.BrokenResourceError:
                continue
            except BaseException:
                stream.abort()
                raise
            return stream

    async def aclose(self) -> None:
        if self._stack.on_flow == self._on_flow:
            self._stack.on_flow = None
            while True:
                try:
                    self._receive.receive_nowait().reject(Reject.RST)
                except trio.WouldBlock:
                    break
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


async def connect_tcp(
    stack: Stack, source: tuple[str, int], destination: tuple[str, int]
) -> TcpStream:
    """Open a connection from ``source``, an address of ours, to the device's side.

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
