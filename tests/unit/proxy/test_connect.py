"""TCP through the proxy: real sockets on loopback, a real tunnel, a worker that a test scripts."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.kits.cutter import Cutter, cutting
from tests.kits.proxy import (
    ask,
    asked,
    connected,
    everything,
    exactly,
    proxying,
    reply,
    request,
    reset,
    through,
)
from tests.kits.tunnel import (
    Served,
    Worker,
    eventually,
    tunnel_and_worker,
    tunnelling,
    working,
)
from zks_lwip.net.readiness import Readiness, TaskReadiness, make_readiness
from zks_lwip.protocol import Code, Settings, StreamOpened
from zks_lwip.proxy import ProxyServer
from zks_lwip.tunnel import TunnelTcpStream

both_kinds = pytest.mark.parametrize("readiness", [make_readiness, TaskReadiness])
Kind = Callable[[], Readiness]
BIG = array("I", range(1 << 20)).tobytes()


@asynccontextmanager
async def world(
    readiness: Kind = make_readiness, **config: Any
) -> AsyncIterator[tuple[ProxyServer, Worker]]:
    async with (
        tunnel_and_worker() as (tunnel, worker),
        proxying(tunnel, readiness=readiness(), **config) as server,
    ):
        yield server, worker


class Far:
    """Far ends of a worker, as streams, in the order in which they were asked for."""

    def __init__(self, worker: Worker) -> None:
        self.opened: list[StreamOpened] = []
        self.streams: list[TunnelTcpStream] = []
        worker.on_connect = self._connect

    def _connect(self, served: Served, event: StreamOpened) -> None:
        self.opened.append(event)
        self.streams.append(served.connected(event))

    async def stream(self) -> TunnelTcpStream:
        await eventually(lambda: self.streams)
        return self.streams.pop(0)


@both_kinds
async def test_bytes_go_both_ways(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        stream = await through(server, "far.example", 80)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(BIG)
                await stream.send_eof()

            nursery.start_soon(send)
            got = await everything(stream)
        assert hashlib.sha256(got).digest() == hashlib.sha256(BIG).digest()
        await eventually(lambda: server.stats()["flows"] == 0)
        counters = server.counters
        assert (counters.bytes_up, counters.bytes_down) == (len(BIG), len(BIG))
        assert (counters.connects, counters.connected, counters.resets) == (1, 1, 0)
        await stream.aclose()


async def test_the_worker_is_given_the_name() -> None:
    async with world() as (server, worker):
        far = Far(worker)
        hosts = ["far.example", "bücher.example", "192.0.2.1", "2001:db8::1"]
        for host in hosts:
            stream = await through(server, host, 8080)
            await stream.aclose()
        assert [(event.host, event.port) for event in far.opened] == [(h, 8080) for h in hosts]


@both_kinds
async def test_half_close_in_both_orders(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        far = Far(worker)
        for client_first in (True, False):
            stream = await through(server, "far.example", 80)
            other = await far.stream()
            one, two = (stream, other) if client_first else (other, stream)
            await one.send_all(b"first")
            await one.send_eof()
            assert await everything(two) == b"first"
            await two.send_all(b"second")
            await two.send_eof()
            assert await everything(one) == b"second"
            await eventually(lambda: server.stats()["flows"] == 0)
            await stream.aclose()
        assert server.counters.resets == 0


@both_kinds
async def test_what_is_sent_in_advance_arrives(readiness: Kind) -> None:
    """Greeting, request, bytes and end in one piece, before anything was answered."""
    async with world(readiness) as (server, worker):
        far = Far(worker)
        stream = await connected(server)
        await stream.send_all(b"\x05\x01\x00" + request(1, "far.example", 80) + b"early" * 100)
        await stream.send_eof()
        other = await far.stream()
        assert await everything(other) == b"early" * 100
        await other.send_all(b"late")
        await other.send_eof()
        assert await exactly(stream, 2) == b"\x05\x00"
        assert (await reply(stream))[0] == 0
        assert await everything(stream) == b"late"
        await stream.aclose()


async def test_a_far_end_that_speaks_first() -> None:
    async with world() as (server, worker):

        def banner(served: Served, event: StreamOpened) -> None:
            far = served.connected(event)
            worker.nursery.start_soon(far.send_all, b"SSH-2.0-x\r\n")

        worker.on_connect = banner
        stream = await through(server, "far.example", 22)
        assert await exactly(stream, 11) == b"SSH-2.0-x\r\n"
        await stream.aclose()


@both_kinds
async def test_a_reset_by_the_far_end(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80)
        other = await far.stream()
        await other.send_all(b"some")
        assert await exactly(stream, 4) == b"some"
        other.abort()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await eventually(lambda: server.counters.resets == 1 and not server.stats()["flows"])


@both_kinds
async def test_a_reset_by_the_client(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80)
        other = await far.stream()
        await stream.send_all(b"some")
        assert await exactly(other, 4) == b"some"
        reset(stream)
        with pytest.raises(trio.BrokenResourceError):
            await other.receive_some()
        await eventually(lambda: server.counters.resets == 1 and not server.stats()["flows"])


async def test_a_reset_by_a_client_after_its_end() -> None:
    """Nothing is read from it any more: the kernel's error alone tells."""
    async with world() as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80)
        other = await far.stream()
        await stream.send_eof()
        assert await everything(other) == b""
        reset(stream)
        await other.wait_send_all_might_not_block()
        await eventually(lambda: not server.stats()["flows"])
        with pytest.raises(trio.BrokenResourceError):
            await other.send_all(b"x")


async def test_a_reset_by_a_client_whose_upload_is_held_up() -> None:
    async with world() as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80)
        other = await far.stream()
        with trio.move_on_after(1):
            await stream.send_all(bytes(64 << 20))  # the far end reads nothing
        reset(stream)
        await eventually(lambda: not server.stats()["flows"])
        with contextlib.suppress(trio.BrokenResourceError):
            await everything(other)
        assert server.counters.resets == 1


@both_kinds
async def test_a_reset_while_the_worker_connects(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        opened: list[StreamOpened] = []
        worker.on_connect = lambda served, event: opened.append(event)
        stream = await connected(server)
        await stream.send_all(b"\x05\x01\x00" + request(1, "far.example", 80))
        await eventually(lambda: opened)
        reset(stream)
        await eventually(lambda: not server.stats()["flows"])


async def test_a_client_that_is_gone_leaves_its_upload_to_the_far_end() -> None:
    """It has sent all and closed; what comes back resets it, and takes nothing away."""
    async with world() as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80)
        other = await far.stream()
        size = 1 << 20  # more than the credit, less than what kernels hold
        await stream.send_all(bytes(size))
        await stream.aclose()
        await other.send_all(b"not wanted any more")
        assert len(await everything(other)) == size
        await eventually(lambda: not server.stats()["flows"])


@both_kinds
async def test_a_slow_reader_holds_up_the_far_end(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80, SO_RCVBUF=1 << 16)
        other = await far.stream()
        sent = 0
        with trio.move_on_after(1):
            while True:
                await other.send_all(bytes(1 << 16))
                sent += 1 << 16
        assert sent < 40 << 20, "what is not read is kept"
        other_done = trio.Event()

        async def finish() -> None:
            await other.send_eof()
            other_done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            got = len(await everything(stream))
        assert got >= sent and other_done.is_set()
        await stream.aclose()


@both_kinds
async def test_a_far_end_that_reads_nothing_holds_up_the_client(readiness: Kind) -> None:
    async with world(readiness) as (server, worker):
        far = Far(worker)
        stream = await through(server, "far.example", 80, SO_SNDBUF=1 << 16)
        other = await far.stream()
        with trio.move_on_after(1) as stalled:
            await stream.send_all(bytes(64 << 20))
        assert stalled.cancelled_caught
        assert server.counters.bytes_up < 40 << 20
        other.abort()
        await eventually(lambda: not server.stats()["flows"])
        await trio.aclose_forcefully(stream)


CODES = [
    (101, 3, 502, "destination_ip_unroutable"),
    (104, 5, 502, "connection_terminated"),
    (110, 6, 504, "connection_timeout"),
    (111, 5, 502, "connection_refused"),
    (113, 4, 502, "destination_ip_unroutable"),
    (403, 2, 403, "destination_ip_prohibited"),
    (429, 1, 503, "connection_limit_reached"),
    (502, 4, 502, "destination_unavailable"),
    (503, 1, 503, "destination_unavailable"),
    (65000, 4, 502, "destination_unavailable"),
]


@pytest.mark.parametrize(("code", "socks", "status", "error"), CODES)
async def test_a_refusal_is_told_in_both_languages(
    code: int, socks: int, status: int, error: str
) -> None:
    async with world() as (server, worker):
        worker.on_connect = lambda served, event: served.session.error(
            event.stream, Code(code) if code in {each.value for each in Code} else code, "because"
        )
        stream, answer = await asked(server, 1, "far.example", 80)
        assert answer == (socks, "0.0.0.0", 0)
        assert await everything(stream) == b""
        await stream.aclose()
        for head in ("CONNECT far.example:80", "GET http://far.example/"):
            stream = await connected(server)
            await stream.send_all(f"{head} HTTP/1.1\r\nHost: far.example\r\n\r\n".encode())
            text = (await everything(stream)).decode()
            assert text.startswith(f"HTTP/1.1 {status} "), text
            assert f"Proxy-Status: zks-lwip; error={error}\r\n" in text
            assert "\r\n\r\nfar.example:80: " in text
            await stream.aclose()
        assert server.counters.refused[code] == 3


async def test_a_worker_that_never_answers() -> None:
    async with world(connect_timeout=0.2) as (server, worker):
        opened: list[StreamOpened] = []
        worker.on_connect = lambda served, event: opened.append(event)
        stream, answer = await asked(server, 1, "far.example", 80)
        assert answer[0] == 6 and len(opened) == 1
        await stream.aclose()


async def test_connect_of_http_is_the_same_tunnel() -> None:
    async with world() as (server, worker):
        far = Far(worker)
        stream = await connected(server)
        head = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n"
        await stream.send_all(head + b"early")
        answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await exactly(stream, len(answer)) == answer
        other = await far.stream()
        assert (far.opened[0].host, far.opened[0].port) == ("2001:db8::1", 443)
        assert await exactly(other, 5) == b"early"
        await other.send_all(b"back")
        await other.send_eof()
        assert await everything(stream) == b"back"
        await stream.aclose()


async def test_all_are_reset_when_the_proxy_ends() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        async with proxying(tunnel) as server:
            stream = await trio.open_tcp_stream(*server.address)
            assert (await ask(stream, 1, "far.example", 80))[0] == 0
            await stream.send_all(b"x")
            assert await exactly(stream, 1) == b"x"
            waiting = await trio.open_tcp_stream(*server.address)
            await eventually(lambda: server.stats()["handshakes"] == 1)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert await waiting.receive_some() == b""
        with pytest.raises(OSError):
            await trio.open_tcp_stream(*server.address)
        await stream.aclose()
        await waiting.aclose()


async def test_the_limit_of_connections() -> None:
    async with world(max_flows=2) as (server, worker):
        held = [await through(server, "far.example", 80) for _ in range(2)]
        _, (code, _, _) = await asked(server, 1, "far.example", 80)
        assert code == 1 and server.counters.over_limit == 1
        stream = await connected(server)
        await stream.send_all(b"CONNECT far.example:80 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"503 Service Unavailable" in await everything(stream)
        await held.pop().send_eof()
        await eventually(lambda: server.stats()["flows"] == 1)
        await through(server, "far.example", 80)


@asynccontextmanager
async def cut_path(seconds: int) -> AsyncIterator[tuple[ProxyServer, Cutter]]:
    """A proxy, and the path between its tunnel and a worker that keeps sessions for so long."""
    async with working(Settings(udp=True, dns=True, resume=seconds)) as worker:
        port = int(worker.url.rpartition(":")[2].partition("/")[0])
        async with (
            cutting(port) as path,
            tunnelling(path.url(), gone=60.0) as tunnel,
            proxying(tunnel) as server,
        ):
            yield server, path


async def test_a_client_does_not_notice_that_the_websocket_was_lost() -> None:
    async with cut_path(60) as (server, path):
        stream = await through(server, "far.example", 80)
        data = BIG[: 1 << 20]
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                assert await exactly(stream, 1000) == data[:1000]
                path.reset()
                assert await exactly(stream, len(data) - 1000) == data[1000:]
        assert server.counters.resets == 0


async def test_a_session_that_is_lost_is_no_end_of_a_stream() -> None:
    async with cut_path(0) as (server, path):
        stream = await through(server, "far.example", 80)
        await stream.send_all(b"x")
        assert await exactly(stream, 1) == b"x"
        path.reset()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
