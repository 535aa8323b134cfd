"""UDP: the datagrams of each application's socket, in both directions."""

from __future__ import annotations

from collections import OrderedDict

import trio

from ._flow import Datagram
from ._stack import Stack
from ._udp_queue import DatagramQueue

__all__ = ["UdpFlow", "UdpListener"]


class UdpFlow(trio.abc.AsyncResource):
    """What one application's socket sends, and what is sent to it (endpoint-independent: RFC 4787).

    Where more datagrams wait than the queue holds, the oldest are dropped, and counted in
    :attr:`dropped`.
    """

    def __init__(self, listener: UdpListener, source: tuple[str, int], queue: int) -> None:
        self._listener = listener
        self._queue = DatagramQueue(queue, "this UDP flow")
        self.source = source
        """Address and port of the application."""

    @property
    def dropped(self) -> int:
        """Datagrams dropped because the queue was full."""
        return self._queue.dropped

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        """Wait for the next datagram.

        :returns: its payload, and the address and port it was sent to.
        :raises trio.ClosedResourceError: the flow was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        datagram = await self._queue.get()
        return bytes(datagram.payload), datagram.destination

    def send(self, payload: bytes | bytearray | memoryview, source: tuple[str, int]) -> bool:
        """Send to the application, as if from ``source``; never blocks.

        :param payload: 0 to 65507 bytes.
        :returns: False if it was dropped: out of memory, or too long.
        :raises trio.ClosedResourceError: the flow was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        :raises ValueError: ``source`` is no literal, or of the other family.
        """
        self._queue.check_open()
        return self._listener._stack.send_datagram(source, self.source, payload)

    async def aclose(self) -> None:
        """Forget the flow; the application's next datagram makes a new one. Harmless twice."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._queue.close()
        self._listener._forget(self)


class UdpListener(trio.abc.AsyncResource):
    """Every UDP socket that sends to an address and port through a stack.

    A stack may have several, and sockets of :func:`~zks_lwip.stack.open_udp`; the closest gets a
    datagram, as of :class:`~zks_lwip.stack.TcpListener`.

    :param host: an IP literal; 0.0.0.0 or ::, any of that family; None: any.
    :param port: 0: any free one; None: whatever is sent to.
    :param flows: sockets at a time; the one that has been silent for the longest time makes room.
    :param queue: datagrams that wait for one :meth:`UdpFlow.receive`.
    :raises StackError: another one has just this, ``on_datagrams`` of the stack is set, or the
        stack has ended.
    :raises ValueError: ``host`` is no literal, ``port`` no port, or ``flows`` or ``queue`` less
        than 1.
    """

    def __init__(
        self,
        stack: Stack,
        host: str | None = None,
        port: int | None = None,
        *,
        flows: int = 1024,
        queue: int = 64,
    ) -> None:
        if flows < 1 or queue < 1:
            raise ValueError(f"{flows} flows with queues of {queue}: give 1 or more of each")
        self._stack = stack
        self._flows: OrderedDict[tuple[str, int], UdpFlow] = OrderedDict()
        self._max_flows = flows
        self._queue = queue
        self._new: OrderedDict[tuple[str, int], UdpFlow] = OrderedDict()  # some of those
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False
        self._ended = False
        self._binding = stack.ports.bind(host, port, self)

    @property
    def host(self) -> str | None:
        """The address; None: any."""
        return self._binding[0]

    @property
    def port(self) -> int | None:
        """The port; None: any."""
        return self._binding[1]

    # a DatagramTaker

    def on_datagram(self, datagram: Datagram) -> None:
        """Take a datagram that has come."""
        flow = self._flows.get(datagram.source)
        if flow is None:
            if len(self._flows) >= self._max_flows:
                next(iter(self._flows.values()))._close()
            flow = UdpFlow(self, datagram.source, self._queue)
            self._flows[datagram.source] = self._new[datagram.source] = flow
            self._waiting.unpark()
        else:
            self._flows.move_to_end(datagram.source)  # the most recently used comes last
        flow._queue.put(datagram)

    def _forget(self, flow: UdpFlow) -> None:
        for flows in (self._flows, self._new):
            if flows.get(flow.source) is flow:
                del flows[flow.source]

    def on_datagram_error(self, to: tuple[str, int], number: int) -> None:
        """Do nothing: an application's socket that is gone says no more."""

    def on_stack_end(self) -> None:
        """End the tasks that wait."""
        self._ended = True
        for flow in self._flows.values():
            flow._queue.end()
        self._waiting.unpark_all()

    async def accept(self) -> UdpFlow:
        """Wait for the next application's socket that has sent a datagram.

        :raises trio.ClosedResourceError: the listener was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._new:
                return self._new.popitem(last=False)[1]
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            if self._ended:
                raise trio.BrokenResourceError("the stack has ended")
            await self._waiting.park()

    async def aclose(self) -> None:
        """Take no more datagrams, and close the flows. Harmless twice."""
        if not self._closed:
            self._closed = True
            self._stack.ports.unbind(self._binding, self)
            for flow in list(self._flows.values()):
                flow._close()
            self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()
