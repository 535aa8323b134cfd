"""Two stacks and a wire between them, with either kind of pump."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from zks_lwip.device import MemoryDevice, memory_device_pair
from zks_lwip.stack import Flow, Stack, TcpListener, TcpStream, connect_tcp, open_stack

PUMPS = ["task"] if os.name == "nt" else ["task", "thread"]

CLIENT = {4: "10.0.0.1", 6: "fd00::1"}
SERVER = {4: "203.0.113.7", 6: "2001:db8::7"}


@dataclass
class SocketDevice:
    """One of two connected UDP sockets: a descriptor that the C pump can read and write."""

    socket: socket.socket
    mtu: int
    framing: str = "raw"

    @property
    def fd(self) -> int:
        return self.socket.fileno()


@dataclass
class Wire:
    """Two running stacks; ``a`` is the client's."""

    a: Stack
    b: Stack
    port: int = 30000

    async def connect(self, listener: TcpListener, family: int = 4) -> tuple[TcpStream, TcpStream]:
        """A connection from a to b; both ends."""
        self.port += 1
        ends: list[TcpStream] = []

        async def accept() -> None:
            ends.append(await listener.accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            client = await connect_tcp(self.a, (CLIENT[family], self.port), (SERVER[family], 80))
        return client, ends[0]


@asynccontextmanager
async def wire(pump: str, mtu: int = 1500, **options: object) -> AsyncIterator[Wire]:
    """Two stacks that reach each other."""
    if pump == "task":
        left, right = memory_device_pair(mtu)
        async with open_stack(left, **options) as a, open_stack(right, **options) as b:
            yield Wire(a, b)
    else:
        with sockets() as ends:
            async with (
                open_stack(SocketDevice(ends[0], mtu), **options) as a,
                open_stack(SocketDevice(ends[1], mtu), **options) as b,
            ):
                yield Wire(a, b)


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected UDP sockets. (Of a socket pair's packets Linux queues ten at most.)"""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b,
    ):
        for end in (a, b):
            end.bind(("127.0.0.1", 0))
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        yield a, b


@dataclass
class BusyProbe:
    """A stack on a C pump that holds every SYN, while no task of trio's runs."""

    stack: Stack
    socket: socket.socket
    flows: list[Flow] = field(default_factory=list)

    def send(self, packet: bytes, until: Callable[[], bool]) -> None:
        """Send to the stack without a checkpoint; return when ``until()`` is so."""
        self.socket.send(packet)
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.0001)

    def counter(self, name: str) -> int:
        return self.stack.stats()[name]


@asynccontextmanager
async def busy_probe(**options: Any) -> AsyncIterator[BusyProbe]:
    """What the C pump's thread does while Python is busy."""
    with sockets() as (ours, theirs):
        async with open_stack(SocketDevice(ours, 1500), **options) as stack:
            result = BusyProbe(stack, theirs)
            stack.on_flow = result.flows.append
            await trio.testing.wait_all_tasks_blocked()  # the pump's thread has started
            yield result


__all__ = ["CLIENT", "PUMPS", "SERVER", "BusyProbe", "MemoryDevice", "Wire", "busy_probe", "wire"]
