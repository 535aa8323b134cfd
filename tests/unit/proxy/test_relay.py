"""A relay between a real socket and a stream that a test plays: the orders that are rare."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from tests.kits.proxy import everything
from tests.kits.tunnel import eventually
from zks_lwip.net.readiness import make_readiness
from zks_lwip.proxy.counters import ProxyCounters
from zks_lwip.proxy.relay import Relay


class Stream:
    """The tunnel's end, which notes what it is told."""

    def __init__(self) -> None:
        self.ready = 0
        self.taken = 0
        self.closed = False

    def mark_ready(self) -> None:
        self.ready += 1

    def consumed(self, n: int) -> None:
        self.taken += n

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def relaying(early: bytes = b"") -> AsyncIterator[tuple[Relay, Stream, trio.SocketStream]]:
    """A relay that carries, its stream, and the client, which has little room."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.connect(listener.getsockname())
        sock, _ = listener.accept()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    readiness = make_readiness()
    with sock, client:
        async with trio.open_nursery() as nursery:
            await nursery.start(readiness.run)
            relay, stream = Relay(sock, early, readiness, ProxyCounters()), Stream()
            relay.attach(stream)
            relay.on_connected()
            nursery.start_soon(relay.run)
            await trio.testing.wait_all_tasks_blocked()
            yield relay, stream, trio.SocketStream(trio.socket.from_stdlib_socket(client))
            nursery.cancel_scope.cancel()
        readiness.close()


async def test_what_waits_for_the_client_outlives_both_ends() -> None:
    """The far end has sent all and its EOF, the client its EOF, before it has read the first."""
    async with relaying() as (relay, stream, client):
        relay.on_data(memoryview(bytes(1 << 20)))
        relay.on_eof()
        assert 0 < stream.taken < 1 << 20
        await client.send_eof()
        await eventually(lambda: stream.ready > 1)
        assert relay.pull_into(memoryview(bytearray(100))) is None
        assert len(await everything(client)) == 1 << 20
        await eventually(relay.ended.is_set)
        assert stream.taken == 1 << 20 and not stream.closed and relay.why == "closed"


async def test_early_bytes_come_first_and_in_any_pieces() -> None:
    async with relaying(b"early") as (relay, stream, client):
        await client.send_all(b"late")
        await eventually(lambda: stream.ready > 1)
        view = memoryview(bytearray(2))
        got = b""
        while count := relay.pull_into(view):
            got += bytes(view[:count])
        assert got == b"earlylate"


async def test_after_its_end_everything_is_harmless() -> None:
    async with relaying() as (relay, stream, client):
        relay.abort()
        assert stream.closed and relay.ended.is_set()
        relay.on_data(memoryview(b"x"))
        relay.on_eof()
        relay.on_connected()
        relay.on_end(104, "")
        relay.abort()
        assert relay.pull_into(memoryview(bytearray(1))) == 0
        assert relay.give_socket_back() is None
