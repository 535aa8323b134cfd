"""The Cloudflare Worker within what its platform allows: connects, streams, memory, a budget."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import dns.message
import pytest
import trio

from tests.kits.doh_server import doh_server
from tests.kits.plain_websocket import BINARY, CLOSE, client_message, close_reason, read_frame
from tests.kits.session_client import SessionClient
from tests.kits.worker import answer, echo, raw_client, resuming_client, tcp_server
from tests.kits.workerd import TOKEN, Workerd, running_workerd
from zks_lwip.protocol import (
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Eof,
    Error,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Unknown,
    Window,
)

PLATFORM = (Path(__file__).parent / "platform.js").read_text()
SILENT = 60001
"""A port that never answers on that platform."""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Workerd]:
    """The platform of today: open connections do not count."""
    with running_workerd(tmp_path, modules={"sockets.js": PLATFORM}) as cloud:
        yield cloud


@pytest.fixture
def counting_platform(tmp_path: Path) -> Iterator[Workerd]:
    """One that counts open connections, too."""
    assert "COUNTS_OPEN = false" in PLATFORM
    text = PLATFORM.replace("COUNTS_OPEN = false", "COUNTS_OPEN = true")
    with running_workerd(tmp_path, modules={"sockets.js": text}) as cloud:
        yield cloud


def most_connecting(cloud: Workerd) -> int:
    """How many were connecting at most at a time."""
    return max(map(int, re.findall(r"connecting (\d+)", cloud.log.read_text())))


async def test_open_connections_are_not_limited(platform: Workerd) -> None:
    async with tcp_server(echo) as port, raw_client(platform.address, token=TOKEN) as client:
        await client.send(*(Connect(n + 1, "127.0.0.1", port) for n in range(60)))
        assert {(await client.expect(Connected)).stream for _ in range(60)} == {*range(1, 61)}
        assert most_connecting(platform) <= 5
        await client.send(Data(60, b"last"))
        assert await client.data(60, 4) == b"last"


@pytest.mark.slow
async def test_five_connect_at_a_time_the_others_wait(platform: Workerd) -> None:
    async with tcp_server(echo) as port, raw_client(platform.address, token=TOKEN) as client:
        await client.send(*(Connect(n + 1, "127.0.0.1", SILENT) for n in range(8)))
        await client.send(Connect(9, "127.0.0.1", port))
        began = trio.current_time()
        codes = {}
        for _ in range(9):
            frame = await client.receive()
            assert isinstance(frame, Connected | Error)
            codes[frame.stream] = 0 if isinstance(frame, Connected) else frame.code
        assert trio.current_time() - began > 9.5
        assert most_connecting(platform) == 5
        assert [codes[stream] for stream in range(1, 6)] == [110] * 5
        # They have waited for their turn in vain, which says nothing of the far end
        assert {codes[stream] for stream in range(6, 9)} <= {429, 110}
        assert codes[9] in (0, 429)
        await client.open(10, "127.0.0.1", port)


@pytest.mark.slow
async def test_a_silent_far_end_among_many_open_ones(platform: Workerd) -> None:
    async with tcp_server(echo) as port, raw_client(platform.address, token=TOKEN) as client:
        await client.send(*(Connect(n + 1, "127.0.0.1", port) for n in range(20)))
        for _ in range(20):
            await client.expect(Connected)
        await client.send(Connect(21, "127.0.0.1", SILENT))
        assert (await client.expect(Error)).code == 110
        await client.open(22, "127.0.0.1", port)


async def test_a_platform_that_counts_open_connections(counting_platform: Workerd) -> None:
    cloud = counting_platform
    async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
        for stream in range(1, 7):
            await client.open(stream, "127.0.0.1", port)
        began = trio.current_time()
        await client.send(Connect(7, "127.0.0.1", port))
        error = await client.expect(Error)
        assert error.code == 429 and "connect no further" in error.message
        assert trio.current_time() - began > 4.5
        await client.send(Connect(8, "127.0.0.1", port))
        error = await client.expect(Error)
        assert error.code == 429 and "no room" in error.message
        await client.send(Data(6, b"x"))
        assert await client.data(6, 1) == b"x"
        await client.send(Close(3))
        await client.open(9, "127.0.0.1", port)


async def test_as_many_streams_as_hello_says(tmp_path: Path) -> None:
    with running_workerd(tmp_path, STREAMS="5") as cloud:
        async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
            assert client.hello.streams == 5
            for stream in range(1, 6):
                await client.open(stream, "127.0.0.1", port)
            await client.send(Connect(6, "127.0.0.1", port))
            assert (await client.expect(Error)).code == 429
            await client.send(Close(1))
            await client.open(7, "127.0.0.1", port)


async def test_two_hundred_short_connections(platform: Workerd) -> None:
    client = SessionClient(TOKEN)
    async with tcp_server(echo) as port, trio.open_nursery() as nursery:
        nursery.start_soon(client.run, platform.address)
        await client.until(lambda: client.session.can_connect)
        limit = trio.CapacityLimiter(40)

        async def one(number: int) -> None:
            async with limit:
                stream = client.open("127.0.0.1", port, b"%d" % number)
                await client.until(lambda: client.over(stream))
                assert bytes(client.received[stream]) == b"%d" % number
                assert stream not in client.resets

        async with trio.open_nursery() as streams:
            for number in range(200):
                streams.start_soon(one, number)
        assert most_connecting(platform) <= 5
        nursery.cancel_scope.cancel()


async def test_a_known_budget_ends_in_goaway(tmp_path: Path) -> None:
    async with doh_server(lambda query, tcp: answer(query, "192.0.2.1")) as server:
        with running_workerd(tmp_path, SUBREQUESTS="20", RESOLVER=server.url) as cloud:
            async with (
                tcp_server(echo) as port,
                resuming_client(cloud.address, token=TOKEN) as client,
            ):
                for stream in range(1, 10):
                    await client.open(stream, "127.0.0.1", port)
                await client.send(Connect(10, "127.0.0.1", port))
                assert (await client.expect(GoAway)).code == 503
                await client.expect(Connected)
                await client.send(Connect(11, "127.0.0.1", port))
                assert (await client.expect(Error)).code == 503
                # what is open goes on, names are resolved for as long as there are some left
                await client.send(Data(10, b"x"))
                assert await client.data(10, 1) == b"x"
                query = dns.message.make_query("a.example", "A").to_wire()
                await client.send(DnsQuery(1, query))
                await client.expect(DnsResponse)
                await client.lose()
            async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
                assert again.hello.session == client.hello.session
                await again.expect(GoAway)  # it is said again


async def test_a_budget_that_is_not_told(tmp_path: Path) -> None:
    """The platform refuses a connect: the client is sent to another object."""
    text = PLATFORM.replace("SUBREQUESTS = Infinity", "SUBREQUESTS = 3")
    with running_workerd(tmp_path, modules={"sockets.js": text}) as cloud:
        async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
            for stream in range(1, 4):
                await client.open(stream, "127.0.0.1", port)
            await client.send(Connect(4, "127.0.0.1", port))
            seen = [await client.receive(), await client.receive()]
            assert sorted(type(frame).__name__ for frame in seen) == ["Error", "GoAway"]
            assert {frame.code for frame in seen} == {503}  # type: ignore[union-attr]
            await client.send(Data(3, b"x"))
            assert await client.data(3, 1) == b"x"


# --- memory -----------------------------------------------------------------------------------

ROOM = 96 << 20
"""Bytes that workerd may grow by: what is sent ahead of a client, twice, and V8's garbage."""
STALLED = int(os.environ.get("ZKS_TEST_STALLED", "20"))
"""Seconds for which clients do not read a fast source, at least; 60 and more by hand."""


def plain_client(cloud: Workerd, *frames: Frame) -> socket.socket:
    """A client by hand, with little room for what it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.connect(cloud.address)
    request = (
        "GET /tunnel HTTP/1.1\r\nHost: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: zks-tunnel.v2\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    )
    sock.sendall(request.encode())
    assert sock.recv(4096).startswith(b"HTTP/1.1 101")
    for frame in frames:
        sock.sendall(client_message(frame.encode()))
    return sock


@pytest.mark.slow
async def test_clients_that_do_not_read_a_fast_source(tmp_path: Path) -> None:
    """One whose ACKs say what it has, and one that is asked by PING."""
    sent = {0: 0, 60: 0}

    async def source(resume: int, stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(1 << 16))  # which kernels take by themselves
            sent[resume] += 1 << 16

    with running_workerd(tmp_path) as cloud, ExitStack() as stack:
        async with (
            tcp_server(partial(source, 0)) as never,
            tcp_server(partial(source, 60)) as later,
            tcp_server(echo) as good,
            raw_client(cloud.address, token=TOKEN) as client,
        ):
            before = cloud.memory
            for resume, port in ((0, never), (60, later)):
                hello = Hello(window=1 << 30, max_data=1 << 18, resume=resume)
                sock = stack.enter_context(plain_client(cloud, hello))
                sock.recv(4096)
                for stream in range(1, 21):
                    sock.sendall(client_message(Connect(stream, "127.0.0.1", port).encode()))
            most = still = second = 0
            with trio.fail_after(230 + STALLED):
                while second < STALLED or still < 10:
                    second += 1
                    was = dict(sent)
                    await client.open(second, "127.0.0.1", good)  # no other token is harmed
                    await trio.sleep(1)
                    still = still + 1 if was == sent else 0
                    most = max(most, cloud.memory - before)
            print(
                f"{second} s: {most >> 20} MiB at most, {(cloud.memory - before) >> 20} at the end"
            )
            assert most < 2 * ROOM
            assert all(sent.values()), "the control"


FLOODS = {
    "PING": [Ping()] * 4000,
    "CONNECT": [Connect(n, "10.0.0.1", 9) for n in range(1, 20_000)],
    "DNS_QUERY": [DnsQuery(1, b"x" * 20)] * 20_000,
    "unknown": [Unknown(0x60, 1, b"")] * 50_000,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_client_that_asks_and_does_not_read(tmp_path: Path, kind: str) -> None:
    """Answers to what it asks for must not pile up."""
    with running_workerd(tmp_path) as cloud:
        async with raw_client(cloud.address, token=TOKEN) as client:
            flood = client_message(b"".join(frame.encode() for frame in FLOODS[kind]))
            with plain_client(cloud, Hello(window=1 << 20, resume=60)) as sock:
                before = cloud.memory
                sock.settimeout(60)
                for _ in range((50 << 20) // len(flood)):
                    await trio.to_thread.run_sync(sock.sendall, flood)
                assert cloud.memory - before < ROOM
                if kind != "unknown":  # to which there is no answer
                    opcode = BINARY
                    while opcode != CLOSE:
                        opcode, payload = await trio.to_thread.run_sync(read_frame, sock)
                    assert close_reason(payload)[0] == 1002
            await client.send(Ping())
            await client.expect(Pong)


async def test_far_ends_that_take_nothing(tmp_path: Path) -> None:
    """What clients may send without its being taken is bounded by the credit, in all."""
    go = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await go.wait()

    async def taking(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    with running_workerd(tmp_path) as cloud:
        async with (
            tcp_server(far) as port,
            tcp_server(taking) as other,
            raw_client(cloud.address, token=TOKEN) as client,
        ):

            async def upload(streams: range, most: int) -> int:
                """Send what the credit allows, until there is none or that is enough."""
                total = quiet = 0
                credit = dict.fromkeys(streams, client.hello.window)
                while quiet < 5 and total < most:
                    sent = 0
                    for stream in credit:
                        size = credit[stream] + client.credit.pop(stream, 0)
                        credit[stream] = 0
                        for begin in range(0, size, 60_000):
                            await client.send(Data(stream, bytes(min(60_000, size - begin))))
                        sent += size
                    total += sent
                    quiet = quiet + 1 if not sent else 0
                    await client.send(Ping())
                    await client.expect(Pong)
                    await trio.sleep(0.02)
                return total

            # As much that is taken first: what V8 has not collected yet is no difference then
            await client.open(1, "127.0.0.1", other)
            await upload(range(1, 2), 64 << 20)
            before = cloud.memory
            for stream in range(2, 22):
                await client.open(stream, "127.0.0.1", port)
            total = await upload(range(2, 22), 1 << 30)
            assert total < 256 << 20 and cloud.memory - before < ROOM  # kernels have most of it
            go.set()


async def test_streams_that_end_before_they_are_delivered(tmp_path: Path) -> None:
    """What ended streams still have to deliver is bounded, too: the oldest is given up."""
    go = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        await go.wait()

    with running_workerd(tmp_path) as cloud:
        async with tcp_server(far) as port, raw_client(cloud.address, token=TOKEN) as client:
            before = cloud.memory
            for stream in range(1, 301):
                await client.send(Connect(stream, "127.0.0.1", port))
                frame = await client.receive()
                if isinstance(frame, Error):  # those that linger count as streams
                    assert frame.code == 429
                    continue
                assert isinstance(frame, Connected)
                await client.send(*(Data(stream, bytes(16_384)) for _ in range(4)))
                await client.send(Eof(stream), Close(stream), Window(1, 1))
            assert cloud.memory - before < ROOM
            await client.send(Ping())
            await client.expect(Pong)
            go.set()
