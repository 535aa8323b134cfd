"""Test a client and a server over a slow network that loses packets, without any network.

    .venv/bin/python -m examples.in_memory_network

``serve`` and ``count`` are programs as any others: they use trio's own sockets and names. The clock
is a mock, so the seconds that pass take none.
"""

from __future__ import annotations

import trio
from trio.testing import MockClock

from zks_lwip.testing import network


async def serve() -> None:
    """Answer with the number of bytes that were sent."""

    async def handle(stream: trio.SocketStream) -> None:
        size = sum([len(data) async for data in stream])
        await stream.send_all(str(size).encode())

    await trio.serve_tcp(handle, 7000)


async def count(data: bytes) -> str:
    """Ask the server."""
    async with await trio.open_tcp_stream("server.example", 7000) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([piece async for piece in stream]).decode()


async def main() -> None:
    hosts = {"server.example": ["192.0.2.1", "2001:db8::1"], "client.example": "192.0.2.2"}
    async with network(hosts, delay=0.1, loss=0.02, seed=1) as net:
        async with trio.open_nursery() as nursery:
            with net.host("server.example"):
                nursery.start_soon(serve)
            with net.host("client.example"):
                await trio.sleep(1)
                print(await count(bytes(100_000)), "bytes arrived")
                net.link("client.example", "server.example").up = False
                try:
                    await count(b"never arrives")
                except OSError as error:
                    print("with the cable out:", error)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
