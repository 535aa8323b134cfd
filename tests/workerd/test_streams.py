"""TCP streams through the Cloudflare Worker, as a client sees them."""

from __future__ import annotations

import os
import socket
import struct

import trio

from tests.kits.ports import refused_port
from tests.kits.until import until
from tests.kits.worker import RawClient, echo, raw_client, resuming_client, tcp_server
from tests.kits.workerd import TOKEN, Workerd
from zks_lwip.protocol import Close, Connect, Connected, Data, Eof, Error, Hello, Ping, Pong, Window


async def expect_error(client: RawClient, stream: int, code: int, text: str = "") -> None:
    error = await client.expect(Error)
    assert (error.stream, error.code) == (stream, code)
    assert text in error.message


async def test_hello(cloud: Workerd) -> None:
    async with resuming_client(cloud.address, token=TOKEN) as client:
        hello = client.hello
        assert client.websocket.subprotocol == "zks-tunnel.v2"
        assert hello.session is not None and len(hello.session) == 64
        assert (hello.streams, hello.resume, hello.keepalive) == (100, 60, 30)
        assert (hello.udp, hello.icmp, hello.dns, hello.ipv6) == (False, False, True, True)
        await client.send(Ping())
        await client.expect(Pong)


async def test_echo_and_half_close(cloud: Workerd) -> None:
    sent = os.urandom(200_000)

    async def answers_at_the_end(stream: trio.SocketStream) -> None:
        data = b"".join([bytes(piece) async for piece in stream])
        await stream.send_all(data[::-1])
        await stream.send_eof()

    async with tcp_server(echo) as port, tcp_server(answers_at_the_end) as late:
        async with raw_client(cloud.address, token=TOKEN) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Data(1, b"hello"))
            assert await client.data(1, 5) == b"hello"
            await client.send(Eof(1))
            assert (await client.expect(Eof)).stream == 1

            await client.open(2, "127.0.0.1", late)
            await upload(client, 2, sent)
            await client.send(Eof(2))
            assert await client.data(2, len(sent)) == sent[::-1]
            assert (await client.expect(Eof)).stream == 2


async def upload(client: RawClient, stream: int, payload: bytes) -> None:
    """Send it all, within the credit."""
    done = 0
    while done < len(payload):
        granted = client.hello.window + client.credit.get(stream, 0)
        if done == granted:
            await client.send(Ping())
            await client.expect(Pong)
            continue
        size = min(granted - done, len(payload) - done)
        await client.send(Data(stream, payload[done : done + size]))
        done += size


async def test_the_far_end_ends_first(cloud: Workerd) -> None:
    rest: list[bytes] = []

    async def ends(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        rest.append(b"".join([bytes(piece) async for piece in stream]))

    async with tcp_server(ends) as port, raw_client(cloud.address, token=TOKEN) as client:
        await client.open(1, "127.0.0.1", port)
        assert await client.data(1, 3) == b"bye"
        await client.expect(Eof)
        await client.send(Data(1, b"one "), Data(1, b"two"), Eof(1))
        await until(lambda: rest)
        assert rest == [b"one two"]


async def test_data_and_eof_before_connected(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
        await client.send(Connect(1, "127.0.0.1", port), Data(1, b"early"), Eof(1))
        await client.expect(Connected)
        assert await client.data(1, 5) == b"early"
        await client.expect(Eof)


async def test_refused_and_reset(cloud: Workerd) -> None:
    async def resets(stream: trio.SocketStream) -> None:
        await stream.send_all(b"x")
        await stream.receive_some(1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with tcp_server(resets) as port, raw_client(cloud.address, token=TOKEN) as client:
        with refused_port() as refused:
            await client.send(Connect(1, "127.0.0.1", refused))
            await expect_error(client, 1, 111)
        await client.send(Connect(2, "127.0.0.1", 0))
        await expect_error(client, 2, 111, "port 0")
        await client.open(3, "127.0.0.1", port)
        assert await client.data(3, 1) == b"x"
        await client.send(Data(3, b"y"))
        await expect_error(client, 3, 104)


async def test_close_ends_the_far_end(cloud: Workerd) -> None:
    ended: list[bytes] = []

    async def waits(stream: trio.SocketStream) -> None:
        ended.append(b"".join([bytes(piece) async for piece in stream]))

    async with tcp_server(waits) as port, raw_client(cloud.address, token=TOKEN) as client:
        await client.open(1, "127.0.0.1", port)
        await client.send(Close(1))
        await until(lambda: len(ended) == 1)
        # After EOF it is what close() is to a kernel: what came before is delivered
        await client.open(2, "127.0.0.1", port)
        await client.send(Data(2, bytes(60_000)), Eof(2), Close(2))
        await until(lambda: len(ended) == 2)
        assert len(ended[1]) == 60_000


async def test_close_before_connected_delivers_what_came(cloud: Workerd) -> None:
    got: list[bytes] = []

    async def takes(stream: trio.SocketStream) -> None:
        got.append(b"".join([bytes(piece) async for piece in stream]))

    async with tcp_server(takes) as port, raw_client(cloud.address, token=TOKEN) as client:
        await client.send(Connect(1, "127.0.0.1", port), Data(1, b"all of it"), Eof(1), Close(1))
        await until(lambda: got)
        assert got == [b"all of it"]
        await client.open(2, "127.0.0.1", port)  # the session goes on


async def test_bulk_within_credit(cloud: Workerd) -> None:
    size = 8 << 20
    payload = os.urandom(1 << 20) * 8

    async def source(stream: trio.SocketStream) -> None:
        await stream.send_all(payload)

    hello = Hello(window=1 << 16, max_data=20_000, resume=0)
    async with tcp_server(source) as port:
        async with raw_client(cloud.address, token=TOKEN, hello=hello) as client:
            await client.open(1, "127.0.0.1", port)
            got = bytearray()
            while len(got) < 1 << 16:
                data = await client.expect(Data)
                assert len(data.payload) <= 20_000
                got += data.payload
            await client.silent()
            assert len(got) == 1 << 16
            await client.send(Window(1, size))
            while len(got) < size:
                got += (await client.expect(Data)).payload
            await client.expect(Eof)
            assert bytes(got) == payload
