"""A WebSocket with a session on it, and peers that do not keep to the rules."""

from __future__ import annotations

import hashlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from zks_lwip.carrier.http import HttpRequest, HttpResponse
from zks_lwip.carrier.link import LinkEnd
from zks_lwip.carrier.masking import IN_C
from zks_lwip.carrier.pacing import MAX_LIMIT, MIN_LIMIT, Pacer
from zks_lwip.carrier.upgrade import Accept, accept_websocket, upgrade_websocket
from zks_lwip.carrier.versions import V2
from zks_lwip.carrier.websocket import WebSocketClosed, WsConnection
from zks_lwip.errors import AuthError, ProtocolError
from zks_lwip.net.rounds import ROUND
from zks_lwip.protocol import Connect, Connected, Data, Hello, Ping, Role, Session, Settings
from zks_lwip.tunnel.channel import Channel
from zks_lwip.tunnel.dial import connect_worker
from zks_lwip.tunnel.options import TunnelConfig
from zks_lwip.tunnel.peers import TunnelStream
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream

from ...kits import plain_websocket
from ...kits.tunnel import (
    Peer,
    Served,
    eventually,
    listening,
    quick,
    raw_server,
    read_head,
    working,
)

HELLO = Hello(session="s" * 22).encode()


class Owner:
    """A pool of one channel."""

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.refused: list[Any] = []
        self.other: list[Any] = []

    def on_ready(self, channel: Channel) -> None:
        self.ready.set()

    def on_capacity(self, channel: Channel) -> None: ...
    def on_goaway(self, channel: Channel) -> None: ...

    def on_refused(self, channel: Channel, stream: TunnelStream, code: int, message: str) -> None:
        self.refused.append((stream.peer, code, message))

    def on_datagram(self, channel: Channel, event: Any) -> None:
        self.other.append(event)

    on_datagrams = on_udp_error = on_udp_closed = on_datagram

    def on_dns_answer(self, event: Any) -> None:
        self.other.append(event)

    on_echo_reply = on_dns_answer


class Running:
    """A channel that runs in the background."""

    def __init__(self, channel: Channel, owner: Owner) -> None:
        self.channel = channel
        self.owner = owner
        self.end: LinkEnd | None = None
        self.ended = trio.Event()

    async def connect(self, host: str = "far.example", port: int = 7) -> TunnelTcpStream:
        with trio.fail_after(30):
            await self.owner.ready.wait()
        near = TunnelTcpStream(lambda handle: None)
        stream = TunnelStream(host, port, near, 0.0, lambda stream: None)
        near.attach(stream)
        self.channel.connect(stream)
        return near

    async def wait(self, seconds: float = 30) -> LinkEnd:
        with trio.fail_after(seconds):
            await self.ended.wait()
        assert self.end is not None
        return self.end


@asynccontextmanager
async def running(config: TunnelConfig, settings: Settings | None = None) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        owner = Owner()
        channel = await Channel.open(config, owner, nursery, settings=settings)
        result = Running(channel, owner)

        async def run() -> None:
            result.end = await channel.run(config)
            result.ended.set()

        nursery.start_soon(run)
        yield result
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def against(
    serve: Callable[[WsConnection], Any], **changes: Any
) -> AsyncIterator[tuple[Running, list[WsConnection]]]:
    """A channel to a worker that is played by ``serve``; gives its connections too."""
    connections: list[WsConnection] = []

    async def accept(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(
                nursery, stream, authorize=lambda _: Accept(V2.subprotocol)
            )
            assert connection is not None
            connections.append(connection)
            await serve(connection)

    async with listening(accept) as url, running(quick(url, **changes)) as channel:
        yield channel, connections


def says(*messages: bytes) -> Callable[[WsConnection], Any]:
    """Play a worker that reads HELLO, sends these, and then reads until the end."""

    async def serve(connection: WsConnection) -> None:
        await connection.receive_message()
        for message in messages:
            await connection.send_message(message)
        await connection.deliver(lambda message: None)

    return serve


# that it works


async def test_bulk_both_ways_at_once() -> None:
    block = bytes(range(256)) * 1024
    total = 40 * len(block)
    async with working() as worker, running(quick(worker.url)) as channel:
        stream = await channel.connect()
        digest, received = hashlib.sha256(), 0

        async def send() -> None:
            for _ in range(40):
                await stream.send_all(block)
            await stream.send_eof()

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for data in stream:
                    digest.update(data)
                    received += len(data)
        assert received == total
        assert digest.digest() == hashlib.sha256(block * 40).digest()
        assert channel.channel.streams == {}
        assert channel.channel.session.open_streams == 0


@pytest.fixture
def _wsproto_alone() -> Iterator[None]:
    before = IN_C.enabled
    IN_C.enabled = False
    yield
    IN_C.enabled = before


async def test_all_works_with_wsproto_alone(_wsproto_alone: None) -> None:
    block = bytes(range(256)) * 3000
    async with working() as worker, running(quick(worker.url)) as channel:
        assert not channel.channel.connection.framed_in_c
        stream = await channel.connect()
        received = bytearray()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, block)
                while len(received) < len(block):
                    received += await stream.receive_some()
        assert received == block
        channel.channel.link.close(1000, "done")
        await eventually(lambda: worker.ends and worker.ends[0].reason == "done")
        worker.token = "other"
        error: list[Exception] = []
        async with trio.open_nursery() as nursery:
            try:
                await connect_worker(quick(worker.url), nursery)
            except AuthError as caught:
                error.append(caught)
        assert error


async def test_a_stream_that_is_not_read_does_not_hold_up_another() -> None:
    async with working() as worker, running(quick(worker.url)) as channel:
        stuck, free = await channel.connect(), await channel.connect()
        await stuck.wait_connected()
        with trio.move_on_after(0.3):
            while True:  # until all credit, both ways, is spent
                await stuck.send_all(bytes(65536))
        with trio.fail_after(60):
            for number in range(50):
                await free.send_all(b"%d" % number)
                assert await free.receive_some() == b"%d" % number


async def test_closing_is_clean() -> None:
    async with working() as worker:
        async with running(quick(worker.url)) as channel:
            stream = await channel.connect()
            await stream.wait_connected()
            channel.channel.link.close(1000, "done")
            end = await channel.wait()
            assert (end.status, end.reason, end.error) == (1000, "done", None)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        await eventually(lambda: worker.ends)
        assert (worker.ends[0].status, worker.ends[0].reason) == (1000, "done")


async def test_cancelling_tells_the_peer() -> None:
    async with working() as worker:
        async with running(quick(worker.url)) as channel:
            await (await channel.connect()).wait_connected()
        await eventually(lambda: worker.ends)
        assert worker.ends[0].status == 1000


# peers that break the protocol


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((b"\x99",), "0x99"),
        ((Data(1, b"x").encode(),), "DATA"),
        ((HELLO, HELLO), "HELLO"),
        ((HELLO, b"\x02\x00\x00\x00\x01\x00\x00\xff\xffcut"), "DATA"),
        ((HELLO, Connected(7).encode()), "CONNECTED"),
        ((HELLO, Connect(1, "h", 1).encode()), "CONNECT"),
        ((b"\x40" + bytes(4) + b"\0\0\0\x02[]",), "HELLO"),
        ((HELLO, b""), "empty message"),
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_told_so(
    messages: tuple[bytes, ...], words: str
) -> None:
    async with against(says(*messages)) as (channel, connections):
        end = await channel.wait()
        assert end.status == 1002
        assert end.error is not None and words in end.reason
        await eventually(lambda: connections[0].closed_status)
        assert connections[0].closed_status == 1002
        assert words in connections[0].closed_reason


async def test_a_text_message_is_a_breach() -> None:
    async def serve(connection: WsConnection) -> None:
        await connection.receive_message()
        await connection.stream.send_all(b"\x81\x05hello")
        await connection.deliver(lambda message: None)

    async with against(serve) as (channel, connections):
        end = await channel.wait()
        assert end.status == 1002 and "text" in end.reason
        await eventually(lambda: connections[0].closed_status)
        assert connections[0].closed_status == 1002


async def test_more_data_than_credit_is_a_breach() -> None:
    async def serve(connection: WsConnection) -> None:
        await connection.receive_message()
        await connection.send_message(HELLO)
        await connection.receive_message()
        await connection.send_message(Connected(1).encode())
        for _ in range(5):
            await connection.send_message(Data(1, bytes(1024)).encode())
        await connection.deliver(lambda message: None)

    async with listening(lambda stream: accept(stream)) as url:

        async def accept(stream: Any) -> None:
            async with trio.open_nursery() as nursery:
                connection = await accept_websocket(
                    nursery, stream, authorize=lambda _: Accept(V2.subprotocol)
                )
                assert connection is not None
                await serve(connection)
                assert connection.closed_status == 1002
                assert "credit" in connection.closed_reason

        async with running(quick(url), Settings(window=4096)) as channel:
            stream = await channel.connect()
            await stream.wait_connected()
            end = await channel.wait()
            assert end.status == 1002 and "credit" in end.reason and "DATA" in end.reason
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.receive_some()


async def test_a_message_over_max_message_is_closed_with_1009() -> None:
    async with against(says(HELLO, bytes(1 << 20) + b"x")) as (channel, connections):
        end = await channel.wait()
        assert end.status == 1009
        await eventually(lambda: connections[0].closed_status)
        assert connections[0].closed_status == 1009


async def test_no_hello_in_time() -> None:
    async with against(says(), hello_timeout=0.2) as (channel, connections):
        end = await channel.wait()
        assert end.status == 1002 and "no HELLO within 0.2 s" in end.reason
        await eventually(lambda: connections[0].closed_status)
        assert connections[0].closed_status == 1002


def after_upgrade(*steps: Any, then_hang: bool = False) -> Callable[[trio.SocketStream], Any]:
    """Upgrade by hand, then go on with raw bytes."""

    async def serve(stream: trio.SocketStream) -> None:
        head = (await read_head(stream)).decode()
        await stream.send_all(plain_websocket.upgrade_response(head))
        await raw_server(*steps, then_hang=then_hang)(stream)

    return serve


@pytest.mark.parametrize(
    ("wire", "status"),
    [(b"\xff" * 40, 1002), (b"\x82\x85keyyabcde", 1002), (b"GET / HTTP/1.1\r\n\r\n", 1002)],
)
async def test_garbage_instead_of_frames(wire: bytes, status: int) -> None:
    async with listening(after_upgrade(wire, then_hang=True)) as url, running(quick(url)) as run:
        assert (await run.wait()).status == status


@pytest.mark.parametrize(
    "wire",
    [b"", b"\x82", b"\x82\x7f\0\0\0\0\0\x01\0\0" + b"x" * 100],
    ids=["between frames", "in a header", "in a payload"],
)
@pytest.mark.parametrize("silent", [True, False])
async def test_a_worker_that_stops(wire: bytes, silent: bool) -> None:
    serve = after_upgrade(plain_websocket.frame(HELLO) + wire, 0.3, then_hang=silent)
    async with listening(serve) as url:
        began = trio.current_time()
        async with running(quick(url, quiet=0.2, patience=0.3)) as run:
            end = await run.wait()
            assert end.status == 1006
            if silent:
                assert "nothing was heard" in end.reason
                assert 0.4 < trio.current_time() - began < 10
            assert end.error is None


async def test_output_of_a_round_leaves_at_its_end() -> None:
    """Without a turn of another task; what comes up outside of rounds leaves a little later."""
    async with working() as worker, running(quick(worker.url)) as channel:
        await channel.owner.ready.wait()
        peer = Peer()
        stream = TunnelStream("far", 1, peer, 0.0, lambda stream: None)
        channel.channel.connect(stream)
        await eventually(lambda: "connected" in peer.told and channel.channel.link.delivered)
        connection = channel.channel.connection
        await trio.testing.wait_all_tasks_blocked()  # one that is to send already would do so here
        before = connection.bytes_sent
        with ROUND:
            peer.data += b"now"
            stream.mark_ready()
            assert connection.bytes_sent == before
        assert connection.bytes_sent > before and not peer.data
        before = connection.bytes_sent
        peer.data += b"and later"
        stream.mark_ready()
        assert connection.bytes_sent == before
        await eventually(lambda: connection.bytes_sent > before and not peer.data)


async def test_a_peer_that_answers_pings_is_alive() -> None:
    async with (
        working() as worker,
        running(quick(worker.url, quiet=0.1, patience=0.8)) as channel,
    ):
        await trio.sleep(1.8)
        assert channel.end is None
        assert worker.served[0].connection.last_heard > trio.current_time() - 0.6


async def test_a_ping_does_not_wait_where_the_worker_reads_no_more() -> None:
    """The reader, which would have heard the pong, has failed over what the peer sent."""
    refused = trio.Event()

    def fail(message: memoryview) -> None:
        raise RuntimeError("a bug")

    async def serve(connection: WsConnection) -> None:
        await connection.receive_message()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.deliver, fail)
            await trio.testing.wait_all_tasks_blocked()
            await connection.send_message(HELLO + Ping().encode())  # a PONG comes of it
            await eventually(lambda: connection.closed_status is not None)
            nursery.cancel_scope.cancel()
        with trio.fail_after(60), pytest.raises(WebSocketClosed):
            await connection.ping()
        refused.set()

    async with against(serve, quiet=0.2):
        with trio.fail_after(30):
            await refused.wait()


async def test_what_the_peer_has_not_taken_is_not_delivered() -> None:
    """More than both kernels hold is sent to a worker that does not read for a while."""
    settings = Settings(udp=True, icmp=True, dns=True, window=1 << 30)
    async with working(settings) as worker, running(quick(worker.url)) as run:
        worker.on_connect = lambda served, frame: served.connected(frame) and None
        near = await run.connect()
        await near.wait_connected()
        link = run.channel.link
        await eventually(lambda: link.delivered)
        going_on = trio.Event()
        worker.served[0].connection.hold(going_on.wait)
        await near.send_all(b"x")  # (one read was under way already)
        with trio.move_on_after(1):
            await near.send_all(bytes(64 << 20))
        assert not link.delivered
        await trio.sleep(0.5)
        assert not link.delivered
        near.abort()
        going_on.set()
        worker.served[0].connection.hold(None)
        await eventually(lambda: link.delivered)


async def take_all(pause: Callable[[], Awaitable[None]], theirs: WsConnection) -> None:
    """Be a worker that takes what one stream sends, with a pause behind each message."""
    await theirs.receive_message()
    await theirs.send_message(Hello(session="s" * 22, window=2**31 - 1).encode())
    await theirs.receive_message()
    await theirs.send_message(Connected(1).encode())
    with suppress(WebSocketClosed):
        while await theirs.receive_message():
            await pause()


async def send_on(near: TunnelTcpStream) -> None:
    while True:
        await near.send_all(bytes(1 << 20))


async def test_a_message_is_made_when_the_kernel_takes_it() -> None:
    """So that what becomes urgent in between is in it, and not behind it."""

    async def pause() -> None:
        await trio.sleep(0.02)

    async with against(partial(take_all, pause)) as (run, _):
        near = await run.connect()
        await near.wait_connected()
        ours, pacer = run.channel.link.connection, run.channel.link.writer.pacer

        made = missing = 0  # times that a message was seen to wait, and none
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(64 << 20))
            with trio.fail_after(60):
                while made + missing < 100:
                    await trio.sleep(0.002)
                    if pacer.limit == MAX_LIMIT or not pacer.rate:
                        pass  # the path is fast, for all that is known
                    elif ours.sending and ours.bytes_sent > ours.message_bytes_sent:
                        missing += 1
                    elif ours.sending:
                        made += 1
            nursery.cancel_scope.cancel()
        assert missing > made


async def test_a_session_that_comes_late_to_its_turns_makes_larger_messages() -> None:
    """Others may need most of each pass through the loop, and the path have room all the while."""
    if sys.platform != "linux":
        pytest.skip("needs to know what the kernel holds unsent")
    slow = True

    async def pause() -> None:
        if slow:
            await trio.sleep(0.02)

    async with against(partial(take_all, pause)) as (run, _):
        near = await run.connect()
        await near.wait_connected()
        pacer = run.channel.link.writer.pacer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on, near)
            await eventually(lambda: pacer.limit == MAX_LIMIT)
            await eventually(lambda: pacer.limit == MIN_LIMIT)
            slow = False
            with trio.fail_after(60):
                while pacer.limit < MAX_LIMIT:
                    time.sleep(0.005)  # what the others do
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_session_whose_turns_are_far_apart_keeps_its_messages_large() -> None:
    """Each leaves at once, so that this end alone is what limits."""
    if sys.platform != "linux":
        pytest.skip("needs to know what the kernel holds unsent")

    async def pause() -> None:
        pass

    async with against(partial(take_all, pause)) as (run, _):
        near = await run.connect()
        await near.wait_connected()
        pacer = run.channel.link.writer.pacer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on, near)
            await eventually(lambda: pacer.limit == MAX_LIMIT)
            largest = 0
            for _ in range(40):
                time.sleep(0.05)  # what the others do
                await trio.lowlevel.checkpoint()
                largest += pacer.limit == MAX_LIMIT
            nursery.cancel_scope.cancel()
        assert largest >= 20  # the peer may be late as well


async def test_close_does_not_wait_for_a_peer_that_never_answers_it() -> None:
    async with listening(after_upgrade(then_hang=True)) as url, running(quick(url)) as run:
        began = trio.current_time()
        run.channel.link.close()
        await run.wait()
        assert trio.current_time() - began < 15


async def test_close_does_not_wait_for_a_peer_that_has_stopped_reading() -> None:
    def message(data: bytes) -> bytes:
        assert len(data) < 126
        return b"\x82" + bytes([len(data)]) + data

    hello = Hello(session="s" * 22, window=2**30).encode()
    serve = after_upgrade(message(hello), 0.2, message(Connected(1).encode()), then_hang=True)
    async with listening(serve) as url, running(quick(url)) as run:
        stream = await run.connect()
        with trio.move_on_after(1):
            while True:
                await stream.send_all(bytes(1 << 20))
        began = trio.current_time()
        run.channel.link.close()
        assert (await run.wait()).status == 1000
        assert 0.5 < trio.current_time() - began < 15


@pytest.mark.parametrize("status", [1000, 1001, 1011, 4001])
async def test_the_status_of_the_workers_close(status: int) -> None:
    async def serve(connection: WsConnection) -> None:
        await connection.receive_message()
        await connection.aclose(status, "because")

    async with against(serve) as (channel, _):
        end = await channel.wait()
        assert (end.status, end.reason) == (status, "because")


async def test_an_error_of_ours_is_not_blamed_on_the_worker() -> None:
    class Broken(Owner):
        def on_ready(self, channel: Channel) -> None:
            raise RuntimeError("a bug of ours")

    async with working() as worker, trio.open_nursery() as nursery:
        config = quick(worker.url)
        channel = await Channel.open(config, Broken(), nursery)
        with trio.fail_after(30), pytest.raises(RuntimeError, match="a bug of ours"):
            await channel.run(config)


async def test_streams_refused_on_this_channel_only() -> None:
    async with working(Settings(streams=1000)) as worker, running(quick(worker.url)) as channel:
        codes = iter([429, 503, 403])

        def refuse(served: Served, frame: Connect) -> None:
            served.session.error(frame.stream, next(codes), "no")

        worker.on_connect = refuse
        streams = [await channel.connect() for _ in range(3)]
        with pytest.raises(OSError, match="no"):
            await streams[2].wait_connected()
        assert channel.owner.refused == [(streams[0], 429, "no"), (streams[1], 503, "no")]


# the server's side


@asynccontextmanager
async def accepting(
    authorize: Callable[[HttpRequest], Any], **options: Any
) -> AsyncIterator[tuple[str, list[WsConnection | None]]]:
    results: list[WsConnection | None] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(nursery, stream, authorize=authorize, **options)
            results.append(connection)
            if connection is not None:
                await connection.deliver(lambda message: None)
                await connection.aclose()

    async with listening(serve) as url:
        yield url, results


async def ask(url: str, request: bytes) -> bytes:
    port = int(url.split(":")[2].split("/")[0])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if request:
            await stream.send_all(request)
        answer = b""
        with trio.fail_after(30):
            async for data in stream:
                answer += data
        return answer


async def test_plain_requests_get_plain_answers() -> None:
    seen: list[HttpRequest] = []

    def authorize(request: HttpRequest) -> HttpResponse | Accept:
        seen.append(request)
        return HttpResponse(200, b"ok\n") if request.path == "/health?x=1" else Accept()

    async with accepting(authorize) as (url, results):
        answer = await ask(url, b"GET /health?x=1 HTTP/1.1\r\nHost: h\r\nX-Y: z\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nok\n")
        assert (seen[0].method, seen[0].upgrade, seen[0].header(b"x-y")) == ("GET", False, b"z")
        assert seen[0].peer is not None and seen[0].peer[0] == "127.0.0.1"
        assert answer.count(b"Content-Type: text/plain") == 1
        answer = await ask(url, b"HEAD /health?x=1 HTTP/1.0\r\n\r\n")
        assert b" 200 " in answer and answer.endswith(b"\r\n\r\n")
        answer = await ask(url, b"GET /tunnel HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b" 426 " in answer
        await eventually(lambda: results == [None, None, None])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 30 + b"\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, b" 400 "),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAA\r\n\r\n",
            b" 426 ",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b" 400 ",
        ),
    ],
)
async def test_requests_that_break_the_rules(request_: bytes, status: bytes) -> None:
    async with accepting(lambda request: Accept()) as (url, results):
        assert status in (await ask(url, request_)).partition(b"\r\n")[0]
        await eventually(lambda: results == [None])


async def test_a_client_that_says_nothing_is_dropped() -> None:
    async with accepting(lambda request: Accept(), timeout=0.2) as (url, results):
        assert await ask(url, b"") == b""
        assert await ask(url, b"GET / HT") == b""
        await eventually(lambda: results == [None, None])


async def test_receiving_one_by_one_holds_the_peer_up() -> None:
    async with trio.open_nursery() as nursery:
        got: list[bytes] = []
        go = trio.Event()

        async def serve(stream: trio.SocketStream) -> None:
            async with trio.open_nursery() as reading:
                connection = await accept_websocket(reading, stream, authorize=lambda _: Accept())
                assert connection is not None
                await go.wait()
                with pytest.raises(WebSocketClosed):
                    while True:
                        got.append(await connection.receive_message())

        async with listening(serve) as url:
            port = int(url.split(":")[2].split("/")[0])
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            client = await upgrade_websocket(nursery, stream, host="h", path="/")
            sent = 0
            with trio.move_on_after(0.3):
                while True:
                    await client.send_message(b"%08d" % sent + bytes(1 << 19))
                    sent += 1
            assert sent < 60  # the kernel's buffers, and no more
            go.set()
            await eventually(lambda: len(got) >= sent)
            assert [int(message[:8]) for message in got[:sent]] == list(range(sent))
            await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_worker_refuses_text_and_closed_connections_say_so() -> None:
    errors: list[Exception] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(
                nursery, stream, authorize=lambda _: Accept(V2.subprotocol)
            )
            assert connection is not None
            for _ in range(2):
                try:
                    await connection.receive_message()
                except (ProtocolError, WebSocketClosed) as error:
                    errors.append(error)
                    await connection.aclose(1002, "text")

    async with listening(serve) as url, trio.open_nursery() as nursery:
        client = await connect_worker(quick(url), nursery)
        await client.stream.send_all(b"\x81\x84\0\0\0\0text")
        with pytest.raises(WebSocketClosed, match=r"1002 \(text\)"):
            await client.receive_message()
        with pytest.raises(WebSocketClosed):
            await client.send_message(b"late")
        with pytest.raises(WebSocketClosed):
            await client.ping()
        await client.aclose()
        await eventually(lambda: len(errors) == 2)
    assert [type(error) for error in errors] == [ProtocolError, WebSocketClosed]


# message sizes


def test_a_message_takes_ten_milliseconds() -> None:
    pacer = Pacer()
    assert pacer.limit == MIN_LIMIT
    now = 0.0
    for _ in range(40):  # 10 MB/s
        size = pacer.limit
        pacer.sent(size, now, now + size / 10e6)
        now += size / 10e6
    assert 90_000 < pacer.limit < 110_000
    for _ in range(10):  # falls to 100 KB/s
        size = pacer.limit
        pacer.sent(size, now, now + size / 1e5)
        now += size / 1e5
    assert pacer.limit == MIN_LIMIT
    for _ in range(100):  # nothing holds it up
        pacer.sent(pacer.limit, now, now + 1e-5)
        now += 1e-5
    assert pacer.limit == MAX_LIMIT


def test_a_message_that_was_made_for_the_room_there_is_says_nothing_by_leaving_at_once() -> None:
    pacer = Pacer()
    for number in range(10):
        pacer.sent(pacer.limit, number * 1e-3, number * 1e-3 + 1e-5, full=True)
    assert pacer.limit == MIN_LIMIT


@pytest.mark.parametrize("busy", [False, True])
def test_a_pause_counts_only_where_the_carrier_had_something_to_send(busy: bool) -> None:
    pacer = Pacer()
    now = 0.0
    for pause in [0.0] * 10 + [0.05] * 30:
        now += pause
        assert busy or pacer.is_late(now) == (pause > 0)
        pacer.sent(pacer.limit, now, now + 0.0005, late=0.0 if busy else pause)
        now += 0.0005
    assert (pacer.limit == MAX_LIMIT) != busy


def test_what_this_end_is_late_by_is_not_taken_for_a_slow_path() -> None:
    pacer = Pacer()
    now = 0.0

    def send(rate: float, late: float, part: int = 2) -> None:
        nonlocal now
        size = pacer.limit // part
        then = now + size / rate + late
        pacer.sent(size, now, then, full=True, idle=late)
        now = then

    for _ in range(30):
        send(5e6, 0.0)
    assert 45_000 < pacer.limit < 55_000
    for _ in range(30):
        send(5e6, 0.03)
    assert 45_000 < pacer.limit < 55_000
    for _ in range(10):
        send(1e9, 0.03, part=8)  # there is not more to say
    assert 45_000 < pacer.limit < 55_000
    for _ in range(10):
        send(1e9, 0.03)
    assert pacer.limit == MAX_LIMIT
    for _ in range(30):
        send(5e6, 0.03)
    assert 45_000 < pacer.limit < 55_000


def test_pauses_are_not_taken_for_a_slow_path() -> None:
    pacer = Pacer()
    now = 0.0
    for _ in range(50):
        pacer.sent(100, now, now + 1e-5)
        pacer.idle()
        now += 1.0
    assert pacer.limit == MIN_LIMIT and pacer.rate == 0
    for _ in range(20):
        pacer.sent(pacer.limit, now, now + 1e-5)
        now += 1e-5
    assert pacer.limit == MAX_LIMIT


async def test_the_kernel_is_told_to_hold_little_back() -> None:
    from zks_lwip.carrier.pacing import TCP_NOTSENT_LOWAT

    if TCP_NOTSENT_LOWAT is None:
        pytest.skip("this system has no TCP_NOTSENT_LOWAT")
    async with working() as worker, running(quick(worker.url)) as channel:
        await channel.connect()
        sock = channel.channel.connection.stream.socket  # type: ignore[attr-defined]
        assert sock.getsockopt(6, TCP_NOTSENT_LOWAT) == MIN_LIMIT
        assert channel.channel.session.role is Role.CLIENT
        assert isinstance(channel.channel.session, Session)


async def test_bulk_over_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    block = bytes(range(256)) * 1000
    async with (
        working(tls=context) as worker,
        running(quick(worker.url, ca_file=tmp_path / "ca.pem")) as channel,
    ):
        stream = await channel.connect()

        async def send() -> None:
            for number in range(20):
                await stream.send_all(bytes([number]) + block)
            await stream.send_eof()

        received = bytearray()
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for data in stream:
                    received += data
        assert received == b"".join(bytes([number]) + block for number in range(20))
        channel.channel.link.close(1000, "done")
        assert (await channel.wait()).status == 1000
        await eventually(lambda: worker.ends and worker.ends[0].reason == "done")
