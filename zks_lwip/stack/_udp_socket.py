"""UDP sockets of a stack: what a program of its own sends and receives."""

from __future__ import annotations

import os

import trio

from ._flow import Datagram
from ._ports import WILDCARDS
from ._stack import Stack
from ._udp_queue import DatagramQueue

__all__ = ["UdpSocket", "open_udp"]


class UdpSocket(trio.abc.AsyncResource):
    """A UDP socket at an address and port of a stack; made by :func:`open_udp`."""

    def __init__(self, stack: Stack, host: str | None, port: int, queue: int) -> None:
        self._stack = stack
        self._queue = DatagramQueue(queue, "this UDP socket")
        self._binding = stack.ports.bind(host, port, self)

    @property
    def host(self) -> str | None:
        """The address; None: any."""
        return self._binding[0]

    @property
    def port(self) -> int:
        """The port."""
        assert self._binding[1] is not None
        return self._binding[1]

    @property
    def dropped(self) -> int:
        """Datagrams dropped because the queue was full."""
        return self._queue.dropped

    def send(self, payload: bytes | bytearray | memoryview, destination: tuple[str, int]) -> bool:
        """Send a datagram; never blocks.

        :param payload: 0 to 65507 bytes.
        :param destination: an IP literal, and a port.
        :returns: False if it was dropped: out of memory, or too long.
        :raises trio.ClosedResourceError: the socket was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        :raises ValueError: an address that is no literal, or of the other family.
        """
        self._queue.check_open()
        host = self.host
        if host is None or host in WILDCARDS.values():
            host = self._stack.source_for(destination[0])
        return self._stack.send_datagram((host, self.port), destination, payload)

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        """Wait for the next datagram.

        :returns: its payload, and the address and port of its sender.
        :raises OSError: an ICMP error has come for one that was sent, such as
            :exc:`ConnectionRefusedError`; its ``filename`` is where that was sent to.
        :raises trio.ClosedResourceError: the socket was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        datagram = await self._queue.get()
        return bytes(datagram.payload), datagram.source

    # a DatagramTaker

    def on_datagram(self, datagram: Datagram) -> None:
        """Take a datagram that has come."""
        self._queue.put(datagram)

    def on_datagram_error(self, to: tuple[str, int], number: int) -> None:
        """Take an error about a datagram that was sent."""
        self._queue.put(OSError(number, os.strerror(number), f"{to[0]} port {to[1]}"))

    def on_stack_end(self) -> None:
        """End the tasks that wait."""
        self._queue.end()

    async def aclose(self) -> None:
        """Give the port back. Harmless twice."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """Do what :meth:`aclose` does, without a checkpoint."""
        self._queue.close()
        self._stack.ports.unbind(self._binding, self)


def open_udp(stack: Stack, host: str | None = None, port: int = 0, *, queue: int = 64) -> UdpSocket:
    """Open a UDP socket.

    :param host: an IP literal; 0.0.0.0 or ::, any of that family; None: any. With these, what is
        sent has one of the stack's own addresses (or any, where it has none).
    :param port: 1 to 65535, or 0: a free ephemeral one.
    :param queue: datagrams that wait for :meth:`UdpSocket.receive`, 1 or more; where there are
        more, the oldest are dropped.
    :raises StackError: the port is in use, ``on_datagrams`` of the stack is set, or the stack has
        ended.
    :raises ValueError: ``host`` is no literal, ``port`` no port, or ``queue`` less than 1.
    """
    return UdpSocket(stack, host, port, queue)
