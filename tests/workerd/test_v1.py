"""The Cloudflare Worker as a kinder original: protocol v1 (PROTOCOL.md §9)."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.message
import pytest
import trio

from tests.kits.doh_server import doh_server
from tests.kits.ports import refused_port
from tests.kits.until import until
from tests.kits.worker import RawClient, answer, echo, raw_client, tcp_server
from tests.kits.workerd import TOKEN, Workerd, running_workerd
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
)


@asynccontextmanager
async def v1_client(cloud: Workerd) -> AsyncIterator[RawClient]:
    """A client that offers no subprotocol; each frame is a message of its own."""
    async with raw_client(cloud.address, token=TOKEN, greet=False, subprotocols=()) as client:
        assert client.websocket.subprotocol is None
        yield client


async def received(client: RawClient, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += (await client.expect(Data)).payload
        assert not client.frames  # one frame a message
    return bytes(data)


async def test_echo_ping_and_what_v1_lacks(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, v1_client(cloud) as client:
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
        await client.send(Connect(3, "169.254.169.254", 80))
        assert (await client.expect(Error)).code == 403
        await client.silent(0.05)


async def test_data_before_connected_is_kept(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, v1_client(cloud) as client:
        await client.send(Connect(1, "127.0.0.1", port))
        await client.send(Data(1, b"early"))
        await client.expect(Connected)
        assert await received(client, 5) == b"early"


async def test_close_of_the_client_delivers_first(cloud: Workerd) -> None:
    size = 4 << 20
    result: list[bytes] = []
    go = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await go.wait()
        result.append(b"".join([bytes(piece) async for piece in stream]))

    sent = os.urandom(1 << 16)
    async with tcp_server(far) as port, v1_client(cloud) as client:
        await client.open(1, "127.0.0.1", port)
        for _ in range(size // len(sent)):
            await client.send(Data(1, sent))
        await client.send(Close(1))
        assert (await client.expect(Close)).stream == 1
        go.set()
        await until(lambda: result)
    assert hashlib.sha256(result[0]).digest() == hashlib.sha256(sent * 64).digest()


async def test_close_of_the_far_end_comes_behind_all_data(cloud: Workerd) -> None:
    rest: list[bytes] = []

    async def far(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(3_000_000))
        await stream.send_eof()
        rest.append(b"".join([bytes(piece) async for piece in stream]))

    async with tcp_server(far) as port, v1_client(cloud) as client:
        await client.open(1, "127.0.0.1", port)
        assert await received(client, 3_000_000) == bytes(3_000_000)
        assert (await client.expect(Close)).stream == 1
        # what the client still has to say is taken
        await client.send(Data(1, b"rest"))
        await client.send(Close(1))
        await until(lambda: rest)
        assert rest == [b"rest"]


async def test_a_reset_is_an_error_before_its_close(cloud: Workerd) -> None:
    async def resets(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with tcp_server(resets) as port, v1_client(cloud) as client:
        await client.open(1, "127.0.0.1", port)
        await client.send(Data(1, b"x"))
        error = await client.expect(Error)
        assert (error.stream, error.code) == (1, 104)
        assert (await client.expect(Close)).stream == 1


async def test_a_lost_client_ends_its_far_ends(cloud: Workerd) -> None:
    ended: list[int] = []

    async def far(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass
        ended.append(1)

    async with tcp_server(far) as port, v1_client(cloud) as client:
        await client.open(1, "127.0.0.1", port)
        await client.lose()
        await until(lambda: ended)


async def test_a_far_end_that_takes_nothing_is_given_up(cloud: Workerd) -> None:
    go = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await go.wait()

    async with tcp_server(far) as port, v1_client(cloud) as client:
        await client.open(1, "127.0.0.1", port)
        error: list[Error] = []

        async with trio.open_nursery() as nursery:

            async def read() -> None:
                error.append(await client.expect(Error))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            for _ in range(1024):
                await client.send(Data(1, bytes(1 << 16)))
            await trio.sleep_forever()
        assert (error[0].stream, error[0].code) == (1, 502)
        assert (await client.expect(Close)).stream == 1
        go.set()


async def test_what_a_client_does_not_take_is_bounded(tmp_path: Path) -> None:
    """A client that answers PING is not sent more than it has taken, by much."""
    sent = 0
    size = 64 << 20

    async def source(stream: trio.SocketStream) -> None:
        nonlocal sent
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        for _ in range(size >> 16):
            await stream.send_all(bytes(1 << 16))
            sent += 1 << 16

    with running_workerd(tmp_path) as cloud:
        async with tcp_server(source) as port, v1_client(cloud) as client:
            await client.open(1, "127.0.0.1", port)
            some = len(await received(client, 1 << 20))
            before = -1
            while sent != before:
                before = sent
                await trio.sleep(0.5)
            assert sent < 32 << 20
            assert some + len(await received(client, size - some)) == size


async def test_dns(tmp_path: Path) -> None:
    async with doh_server(lambda query, tcp: answer(query, "192.0.2.1")) as server:
        with running_workerd(tmp_path, RESOLVER=server.url) as cloud:
            async with v1_client(cloud) as client:
                query = dns.message.make_query("example.com", "A").to_wire()
                await client.send(DnsQuery(7, query))
                response = await client.expect(DnsResponse)
                assert response.request == 7 and response.message[:2] == query[:2]


@pytest.mark.parametrize(
    "lie", [b"", b"\x02\0\0", Ping().encode() * 2, Connected(1).encode(), Hello().encode()]
)
async def test_lies(cloud: Workerd, lie: bytes) -> None:
    async with tcp_server(echo) as port, v1_client(cloud) as honest, v1_client(cloud) as liar:
        await honest.open(1, "127.0.0.1", port)
        await liar.send(lie)
        assert (await liar.closed())[0] == 1002
        await honest.send(Data(1, b"unharmed"))
        assert await received(honest, 8) == b"unharmed"
