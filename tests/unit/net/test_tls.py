"""The TLS stream against trio's own, in memory."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.kits.dns_servers import AUTHORITY, NAME, client_context, server_context
from zks_lwip.net.tls import TlsStream


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TlsStream, trio.SSLStream]]:  # type: ignore[type-arg]
    left, right = trio.testing.memory_stream_pair()
    client = TlsStream(left, client_context(), NAME)
    server = trio.SSLStream(right, server_context("h2"), server_side=True, https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    async with client:
        yield client, server


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "the end came early"
        data += part
    return bytes(data)


async def test_both_ways_at_once() -> None:
    there, back = (random.Random(seed).randbytes(1 << 20) for seed in (1, 2))
    async with pair() as (client, server):
        assert client.alpn == "h2"
        seen: dict[str, bytes] = {}

        async def take(name: str, stream: trio.abc.ReceiveStream) -> None:
            seen[name] = await receive_exactly(stream, 1 << 20)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, there)
            nursery.start_soon(server.send_all, back)
            nursery.start_soon(take, "client", client)
            nursery.start_soon(take, "server", server)
        assert seen == {"client": back, "server": there}


async def test_records_that_have_come_are_given_at_once() -> None:
    async with pair() as (client, server):
        for number in range(50):
            await server.send_all(b"%02d" % number)
        data = await client.receive_some()
        assert data == b"".join(b"%02d" % number for number in range(50))
        # No more than asked for; the rest is not lost.
        await server.send_all(b"x" * 5000)
        assert len(await client.receive_some(100)) == 100
        assert len(await client.receive_some()) == 4900


@pytest.mark.parametrize("orderly", [True, False])
async def test_the_end(orderly: bool) -> None:
    async with pair() as (client, server):
        await server.send_all(b"last")
        if orderly:
            with trio.move_on_after(0.1):
                await server.unwrap()
        await server.transport_stream.aclose()
        assert await client.receive_some() == b"last"
        assert await client.receive_some() == b""


async def test_a_broken_record() -> None:
    async with pair() as (client, server):
        await server.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError) as raised:
            await client.receive_some()
        assert isinstance(raised.value.__cause__, ssl.SSLError)
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")


@pytest.mark.parametrize("what", ["name", "end", "garbage"])
async def test_a_handshake_that_fails(what: str) -> None:
    left, right = trio.testing.memory_stream_pair()
    client = TlsStream(left, client_context(), "other.test" if what == "name" else NAME)
    causes: list[BaseException | None] = []

    async def shake() -> None:
        try:
            await client.do_handshake()
        except trio.BrokenResourceError as error:
            causes.append(error.__cause__)
        await client.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake)
        if what == "name":
            cert = AUTHORITY.issue_cert(NAME)
            server = trio.SSLStream(right, server_context("h2", cert), server_side=True)
            with pytest.raises(trio.BrokenResourceError):
                await server.do_handshake()
                await server.receive_some()
        elif what == "end":
            await right.receive_some()
            await right.aclose()
        else:
            await right.send_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    expected = {
        "name": ssl.SSLCertVerificationError, "end": ssl.SSLEOFError, "garbage": ssl.SSLError,
    }  # fmt: skip
    assert isinstance(causes[0], expected[what])
