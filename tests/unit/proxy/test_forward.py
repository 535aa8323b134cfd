"""Requests for http:// URLs: one request an origin, framed by h11 on both sides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio

from tests.kits.proxy import connected, everything, exactly, proxying, reset
from tests.kits.tunnel import eventually, tunnelling
from tests.kits.worker import running_worker, tcp_server
from zks_lwip.proxy import ProxyServer

Origin = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def world(origin: Origin) -> AsyncIterator[tuple[ProxyServer, str]]:
    """A proxy, and the authority of an origin."""
    async with (
        tcp_server(origin) as port,
        running_worker() as (_, where),
        tunnelling(f"ws://127.0.0.1:{where[1]}") as tunnel,
        proxying(tunnel) as server,
    ):
        yield server, f"127.0.0.1:{port}"


def answering(*pieces: bytes | float, heads: list[bytes] | None = None) -> Origin:
    """An origin that reads a head and sends these pieces; a number is a pause (s)."""

    async def origin(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = await stream.receive_some(4096)
            if not piece:
                return
            head += piece
        if heads is not None:
            heads.append(head)
        for each in pieces:
            if isinstance(each, bytes):
                await stream.send_all(each)
            else:
                await trio.sleep(each)

    return origin


async def got(
    server: ProxyServer, data: bytes, *, method: str = "GET"
) -> tuple[h11.Response, bytes, bool]:
    """Head and body of the response as h11 sees them, and whether they are whole."""
    stream = await connected(server)
    await stream.send_all(data)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    body, head = b"", None
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            try:
                client.receive_data(await stream.receive_some(1 << 16))
            except trio.BrokenResourceError:
                assert head is not None
                return head, body, False
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            assert await everything(stream) == b"", "the connection ends with the response"
            return head, body, True


def get(where: str, path: str = "/x", version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} http://{where}{path} HTTP/{version}\r\nHost: other\r\n\r\n".encode()


async def test_a_page() -> None:
    heads: list[bytes] = []
    page = (
        b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nX-Odd-Case: Yes\r\nKeep-Alive: 5\r\n\r\nhello"
    )
    async with world(answering(page, heads=heads)) as (server, where):
        head, body, whole = await got(server, get(where, "/a?b=c"))
        assert (head.status_code, bytes(head.reason), body, whole) == (200, b"Fine", b"hello", True)
        raw = head.headers.raw_items()
        assert (b"X-Odd-Case", b"Yes") in raw and (b"Connection", b"close") in raw
        assert b"keep-alive" not in dict(head.headers)
        request = heads[0]
        assert request.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: " + where.encode() + b"\r\n")
        assert b"Connection: close\r\n" in request
        assert b"via" not in request.lower() and b"proxy" not in request.lower()
        await eventually(lambda: not server.stats()["flows"])


BODIES = {
    "length": b"Content-Length: 6\r\n\r\nabcdef",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3;x=y\r\ndef\r\n0\r\nA: b\r\n\r\n",
    "close": b"\r\nabcdef",
}


@pytest.mark.parametrize("framing", BODIES)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_every_framing_of_a_response(framing: str, version: str) -> None:
    async with world(answering(b"HTTP/1.1 200 OK\r\n" + BODIES[framing])) as (server, where):
        _, body, whole = await got(server, get(where, version=version))
        assert (body, whole) == (b"abcdef", True)


async def test_a_head_has_no_body() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with world(answering(page)) as (server, where):
        head, body, whole = await got(server, get(where, method="HEAD"), method="HEAD")
        assert dict(head.headers)[b"content-length"] == b"1000" and (body, whole) == (b"", True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_goes_up(framing: str) -> None:
    received: list[bytes] = []

    async def origin(stream: trio.SocketStream) -> None:
        server = h11.Connection(h11.SERVER)
        body = b""
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                server.receive_data(await stream.receive_some(4096))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        received.append(body)
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with world(origin) as (server, where):
        data = f"POST http://{where}/ HTTP/1.1\r\nHost: x\r\n".encode() + BODIES[framing]
        head, _, whole = await got(server, data + b"GET http://elsewhere/ HTTP/1.1\r\n\r\n")
        assert head.status_code == 204 and whole
        assert received == [b"abcdef"], "what follows is not the origin's"


async def test_interim_responses_pass() -> None:
    page = b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with world(answering(*page)) as (server, where):
        stream = await connected(server)
        await stream.send_all(
            f"POST http://{where}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            "Content-Length: 3\r\n\r\n".encode()
        )
        assert (await exactly(stream, 25)).startswith(b"HTTP/1.1 100 Continue\r\n")
        await stream.send_all(b"abc")
        assert (await everything(stream)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_answer_before_the_body_is_read() -> None:
    page = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
    async with world(answering(page)) as (server, where):
        stream = await connected(server)
        head = f"POST http://{where}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        await stream.send_all(head.encode() + bytes(100_000))
        got = b""
        try:
            async for piece in stream:
                got += piece
        except trio.BrokenResourceError:
            pass  # we have sent what was not read
        assert got.startswith(b"HTTP/1.1 413 ") and got.endswith(b"no!")


@pytest.mark.parametrize(
    "page", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
async def test_what_is_not_http_is_a_bad_gateway(page: bytes) -> None:
    async with world(answering(page)) as (server, where):
        head, body, _ = await got(server, get(where))
        assert head.status_code == 502
        assert body.decode().startswith(f"{where}: what answers is not HTTP (")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_response_that_is_cut_is_no_whole_one(framing: str) -> None:
    page = b"HTTP/1.1 200 OK\r\n" + BODIES[framing]
    cut = page[: page.index(b"def")]
    async with world(answering(cut)) as (server, where):
        head, body, whole = await got(server, get(where))
        assert head.status_code == 200 and not whole
        assert server.counters.resets == 1


async def test_a_client_that_goes_away_resets_the_origin() -> None:
    ended: list[str] = []
    began = trio.Event()

    async def origin(stream: trio.SocketStream) -> None:
        began.set()
        try:
            while True:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(10_000))
                await trio.sleep(0.01)
        except trio.BrokenResourceError:
            ended.append("reset")

    async with world(origin) as (server, where):
        stream = await connected(server)
        await stream.send_all(get(where))
        await began.wait()
        reset(stream)
        await eventually(lambda: ended == ["reset"])
        await eventually(lambda: not server.stats()["flows"])


async def test_a_reset_by_the_client_is_seen_while_the_origin_thinks() -> None:
    ended: list[bytes | None] = []

    async def origin(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
            ended.append(b"")
        except trio.BrokenResourceError:
            ended.append(None)

    async with world(origin) as (server, where):
        stream = await connected(server)
        await stream.send_all(get(where))
        await eventually(lambda: server.counters.bytes_up)
        reset(stream)
        await eventually(lambda: ended == [None])


async def test_a_large_page() -> None:
    size = 3_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    async with world(answering(head, bytes(size))) as (server, where):
        _, body, whole = await got(server, get(where))
        assert len(body) == size and whole
