"""Two stacks and a wire between them, with either kind of pump."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from zks_lwip.device import MemoryDevice, memory_device_pair
from zks_lwip.stack import Stack, TcpListener, TcpStream, connect_tcp, open_stack

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
        import trio

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
        # Not a socket pair: of those Linux queues ten datagrams at most.
        ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        with ends[0], ends[1]:
            for end in ends:
                end.bind(("127.0.0.1", 0))
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
            ends[0].connect(ends[1].getsockname())
            ends[1].connect(ends[0].getsockname())
            async with (
                open_stack(SocketDevice(ends[0], mtu), **options) as a,
                open_stack(SocketDevice(ends[1], mtu), **options) as b,
            ):
                yield Wire(a, b)


__all__ = ["CLIENT", "PUMPS", "SERVER", "MemoryDevice", "Wire", "wire"]
