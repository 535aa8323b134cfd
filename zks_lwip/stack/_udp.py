"""UDP: the datagrams of one local address and port, in both directions."""

from __future__ import annotations

from collections import deque

import trio

from zks_lwip.errors import StackError
from zks_lwip.stack._flow import Datagram
from zks_lwip.stack._stack import Stack

__all__ = ["UdpFlow", "UdpListener"]


class UdpFlow:
    """What one application's socket sends, and what is sent to it (endpoint-independent: RFC 4787).

    Datagrams that nobody takes are dropped, the oldest first, and counted in :attr:`dropped`.
    """

    def __init__(self, listener: UdpListener, source: tuple[str, int], queue: int) -> None:
        self._listener = listener
        self._queue: deque[Datagram] = deque()
        self._most = queue
        self._arrived = trio.Event()
        self._closed = False
        self.source = source
        """Address and port of the application."""
        self.dropped = 0
        """Datagrams dropped because the queue was full."""

    def _put(self, datagram: Datagram) -> None:
        if len(self._queue) >= self._most:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(datagram)
        self._arrived.set()

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        """The next datagram: its payload, and what it was sent to.

        :raises trio.ClosedResourceError: the flow was closed.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise trio.ClosedResourceError("this UDP flow was closed")
            self._arrived = trio.Event()
            await self._arrived.wait()
        datagram = self._queue.popleft()
        return bytes(datagram.payload), datagram.destination

    def send(self, payload: bytes, source: tuple[str, int]) -> bool:
        """Send to the application, as if from ``source``; False: dropped."""
        if self._closed:
            raise trio.ClosedResourceError("this UDP flow was closed")
        return self._listener._stack.send_datagram(source, self.source, payload)

    def close(self) -> None:
        """Forget the flow; the application's next datagram makes a new one."""
        self._closed = True
        self._queue.clear()
        self._arrived.set()
        self._listener._flows.pop(self.source, None)


class UdpListener:
    """Every UDP socket that sends through a stack.

    :param flows: sockets at a time; the one that has been silent for the longest time makes room.
    :param queue: datagrams that wait for one :meth:`UdpFlow.receive`.
    """

    def __init__(self, stack: Stack, *, flows: int = 1024, queue: int = 64) -> None:
        if stack.on_datagrams is not None:
            raise StackError("somebody takes the datagrams of this stack already")
        self._stack = stack
        self._flows: dict[tuple[str, int], UdpFlow] = {}
        self._most = flows
        self._queue = queue
        self._send, self._receive = trio.open_memory_channel[UdpFlow](flows)
        stack.on_datagrams = self._on_datagrams

    def _on_datagrams(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            flow = self._flows.pop(datagram.source, None)
            if flow is None:
                if len(self._flows) >= self._most:
                    next(iter(self._flows.values())).close()
                flow = UdpFlow(self, datagram.source, self._queue)
                try:
                    self._send.send_nowait(flow)
                except trio.WouldBlock:
                    continue  # nobody accepts: dropped, as by a full socket
            self._flows[datagram.source] = flow  # the most recently used comes last
            flow._put(datagram)

    async def accept(self) -> UdpFlow:
        """The next application's socket that has sent a datagram."""
        while True:
            flow = await self._receive.receive()
            if not flow._closed:
                return flow

    def close(self) -> None:
        """Take no more datagrams."""
        if self._stack.on_datagrams == self._on_datagrams:
            self._stack.on_datagrams = None
        for flow in list(self._flows.values()):
            flow.close()
        self._send.close()
        self._receive.close()
