"""The worker as a kinder original: protocol v1 (PROTOCOL.md §9)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import pytest
import trio

from tests.kits.plain_websocket import client_message, upgrade_request
from tests.kits.ports import refused_port
from tests.kits.until import until
from tests.kits.worker import (
    FakeNameServer,
    RawClient,
    answer,
    echo,
    raw_client,
    running_worker,
    tcp_server,
)
from zks_lwip.protocol import (
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Error,
    Hello,
    Ping,
    Pong,
    Udp,
    Window,
)
from zks_lwip.worker import Limits


@asynccontextmanager
async def v1_client(address: tuple[str, int], **options: object) -> AsyncIterator[RawClient]:
    """A client that offers no subprotocol; each frame is a message of its own."""
    async with raw_client(address, greet=False, subprotocols=(), **options) as client:  # type: ignore[arg-type]
        assert client.websocket.subprotocol is None
        yield client


async def received(client: RawClient, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += (await client.expect(Data)).payload
        assert not client.frames  # one frame a message
    return bytes(data)


async def test_echo_ping_and_what_v1_lacks() -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with v1_client(address) as client:
            await client.send(Ping())
            await client.expect(Pong)
            await client.send(Udp(1, "127.0.0.1", port, b"ignored"))
            await client.open(1, "127.0.0.1", port)
            await client.send(Data(1, b"hello"))
            assert await received(client, 5) == b"hello"
            with refused_port() as refused:
                await client.send(Connect(2, "127.0.0.1", refused))
                error = await client.expect(Error)
            assert (error.stream, error.code) == (2, 111)
            await client.send(Connect(1, "127.0.0.1", port))
            assert (await client.expect(Error)).code == 409
            await client.silent(0.05)


async def test_data_before_connected_is_kept() -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with v1_client(address) as client:
            await client.send(Connect(1, "127.0.0.1", port))
            await client.send(Data(1, b"early"))
            await client.expect(Connected)
            assert await received(client, 5) == b"early"


async def test_close_of_the_client_delivers_first_and_does_not_reset() -> None:
    size = 4 << 20
    result: list[bytes] = []
    go = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await go.wait()
        result.append(b"".join([bytes(piece) async for piece in stream]))

    sent = os.urandom(1 << 16)
    async with running_worker() as (_, address), tcp_server(far) as port:
        async with v1_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            async with trio.open_nursery() as nursery:

                async def upload() -> None:
                    for _ in range(size // len(sent)):
                        await client.send(Data(1, sent))
                    await client.send(Close(1))

                nursery.start_soon(upload)
                await trio.sleep(0.05)
                go.set()
            assert (await client.expect(Close)).stream == 1
        await until(lambda: result)
    assert len(result[0]) == size
    assert hashlib.sha256(result[0]).digest() == hashlib.sha256(sent * 64).digest()


async def test_close_of_the_far_end_comes_behind_all_data() -> None:
    async def far(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(3_000_000))

    async with running_worker() as (_, address), tcp_server(far) as port:
        async with v1_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            assert await received(client, 3_000_000) == bytes(3_000_000)
            assert (await client.expect(Close)).stream == 1


async def test_a_slow_far_end_stops_the_reading() -> None:
    """1 MiB at most is held for a stream; then the WebSocket is not read, nothing is lost."""
    go = trio.Event()
    total = 0

    async def far(stream: trio.SocketStream) -> None:
        nonlocal total
        await go.wait()
        async for piece in stream:
            total += len(piece)

    async with running_worker() as (worker, address), tcp_server(far) as port:
        async with v1_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            sent = 0

            async def send() -> None:
                nonlocal sent
                while not go.is_set() and sent < 64 << 20:
                    await client.send(Data(1, bytes(1 << 16)))
                    sent += 1 << 16

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                before = 0
                while not sent or sent != before:
                    before = sent
                    await trio.sleep(0.3)
                assert sent < 64 << 20
                assert sum(account.held for account in worker.accounts.values()) <= 1 << 20
                go.set()
            with trio.fail_after(60):
                while total < sent:
                    await trio.sleep(0.01)


async def test_dns() -> None:
    server = FakeNameServer(lambda query, tcp: answer(query, "192.0.2.1"))
    async with (
        server.running(),
        running_worker(resolvers=(server.server,)) as (_, address),
        v1_client(address) as client,
    ):
        query = dns.message.make_query("example.com", "A").to_wire()
        await client.send(DnsQuery(7, query))
        response = await client.expect(DnsResponse)
        assert response.request == 7 and response.message[:2] == query[:2]


@pytest.mark.parametrize(
    "lie", [b"", b"\x02\0\0", Ping().encode() * 2, Connected(1).encode(), Hello().encode()]
)
async def test_lies(lie: bytes) -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with v1_client(address) as honest, v1_client(address) as liar:
            await honest.open(1, "127.0.0.1", port)
            await liar.send(lie)
            assert (await liar.closed())[0] == 1002
            await honest.send(Data(1, b"unharmed"))
            assert await received(honest, 8) == b"unharmed"


async def test_policy_and_tokens() -> None:
    async with running_worker(allow=()) as (_, address), v1_client(address) as client:
        await client.send(Connect(1, "127.0.0.1", 80))
        assert (await client.expect(Error)).code == 403


async def begin_message(address: tuple[str, int], size: int) -> trio.SocketStream:
    """Open a v1 session and send ``size`` bytes of a message that is longer."""
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all(upgrade_request(None))
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    assert head.startswith(b"HTTP/1.1 101 ")
    await stream.send_all(client_message(bytes(size + 1000))[:-1000])
    return stream


async def test_messages_that_never_end_have_a_bound_together() -> None:
    async with (
        running_worker(limits=Limits(held=1 << 20)) as (worker, address),
        tcp_server(echo) as port,
        v1_client(address) as honest,
    ):
        await honest.open(1, "127.0.0.1", port)
        hoarders = [await begin_message(address, 300_000 + 1000 * n) for n in range(8)]
        (account,) = worker.accounts.values()
        # Those with the most have gone; three of them and the honest one fit.
        with trio.fail_after(12):  # before their silence is taken for death
            await until(lambda: account.sessions == 4)
            await trio.sleep(1.5)
        assert account.sessions == 4
        await honest.send(Data(1, b"still here"))
        assert await received(honest, 10) == b"still here"
        for stream in hoarders:
            await stream.aclose()


async def test_stopping() -> None:
    async with running_worker(drain=60) as (worker, address), tcp_server(echo) as port:
        async with v1_client(address) as busy, v1_client(address) as idle:
            await busy.open(1, "127.0.0.1", port)
            worker.stop()
            assert (await idle.closed())[0] == 1001
            await busy.send(Connect(2, "127.0.0.1", port))
            assert (await busy.expect(Error)).code == 503
            await busy.send(Data(1, b"going on"))
            assert await received(busy, 8) == b"going on"
            await busy.send(Close(1))
            assert (await busy.closed())[0] == 1001


async def test_both_versions_at_one_worker() -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with v1_client(address) as old, raw_client(address) as new:
            await old.open(1, "127.0.0.1", port)
            await new.open(1, "127.0.0.1", port)
            await new.send(Data(1, b"new"), Window(1, 1))
            await old.send(Data(1, b"old"))
            assert await new.data(1, 3) == b"new"
            assert await received(old, 3) == b"old"
