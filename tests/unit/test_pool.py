"""The tunnel: its start, its losses, its channels, and what is carried over them."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream

from zks_lwip.errors import AuthError, DnsError, TunnelError, WorkerNotFound
from zks_lwip.tunnel.backoff import Backoff
from zks_lwip.tunnel.frames import Connect, GoAway, Udp, UdpClose, UdpError
from zks_lwip.tunnel.pool import Tunnel
from zks_lwip.tunnel.session import Settings
from zks_lwip.tunnel.tcpstream import TcpStream

from .ports import on_one_port
from .tunnel_kit import Served, Worker, eventually, listening, quick, working


class Peer:
    """Notes what it is told."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.told: list[Any] = []

    def pull_into(self, view: memoryview) -> int:
        count = min(len(view), len(self.data))
        view[:count] = self.data[:count]
        del self.data[:count]
        return count

    def on_connected(self) -> None:
        self.told.append("connected")

    def on_data(self, payload: memoryview) -> None:
        self.told.append(bytes(payload))

    def on_eof(self) -> None:
        self.told.append("eof")

    def on_end(self, code: int, message: str) -> None:
        self.told.append(code)


class Datagrams:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        self.told.append((host, port, bytes(payload)))

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        self.told.append((code, host, port))

    def on_udp_close(self) -> None:
        self.told.append("close")


@asynccontextmanager
async def tunnelling(url: str, **changes: Any) -> AsyncIterator[Tunnel]:
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(quick(url, **changes))
        with trio.fail_after(60):
            await nursery.start(tunnel.run)
        yield tunnel
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tunnel_and_worker(
    settings: Settings | None = None, **changes: Any
) -> AsyncIterator[tuple[Tunnel, Worker]]:
    async with working(settings) as worker, tunnelling(worker.url, **changes) as tunnel:
        yield tunnel, worker


async def drop(served: Served) -> None:
    """Lose a WebSocket without a word."""
    await served.connection.abort()


# the start


async def test_it_starts_with_the_workers_hello() -> None:
    async with working(Settings(udp=True, streams=77)) as worker, trio.open_nursery() as nursery:
        tunnel = Tunnel(quick(worker.url))
        assert not tunnel.up and tunnel.peer is None
        hello = await nursery.start(tunnel.run)
        assert tunnel.up and tunnel.peer is hello
        assert hello.udp and hello.streams == 77
        nursery.cancel_scope.cancel()
    assert not tunnel.up


async def test_what_will_not_pass_ends_the_start() -> None:
    async with working() as worker:
        worker.token = "right"
        with trio.fail_after(30), pytest.raises(AuthError):
            await Tunnel(quick(worker.url, token="wrong")).run()
        with trio.fail_after(30), pytest.raises(WorkerNotFound):
            await Tunnel(quick(worker.url.replace("/tunnel", "/x"), token="right")).run()


async def test_an_unreachable_worker_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    (sock,) = on_one_port((socket.SOCK_STREAM, "127.0.0.1"))
    port = sock.getsockname()[1]
    caplog.set_level(logging.INFO, "zks_lwip")
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(quick(f"ws://127.0.0.1:{port}", token="s3cret"))
        started = trio.Event()

        async def start() -> None:
            await nursery.start(tunnel.run)
            started.set()

        nursery.start_soon(start)
        await eventually(lambda: tunnel.stats()["connect_failures"] >= 2)
        async with working(sock=sock):
            with trio.fail_after(30):
                await started.wait()
            nursery.cancel_scope.cancel()
    assert "refused" in caplog.text and "Trying again in" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_worker_that_breaks_the_protocol_at_the_start_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with working() as worker, trio.open_nursery() as nursery:
        good = worker.serve

        async def bad(stream: trio.SocketStream) -> None:
            from zks_lwip.tunnel.channel import accept_websocket

            worker.serve = good  # type: ignore[method-assign]
            async with trio.open_nursery() as reading:
                connection = await accept_websocket(reading, stream, authorize=worker.authorize)
                assert connection is not None
                await connection.send_message(b"\xee")
                await connection.deliver(lambda message: None)

        worker.serve = bad  # type: ignore[method-assign]

        async def serve(stream: Any) -> None:
            await worker.serve(stream)

        async with listening(serve) as url:
            with trio.fail_after(60):
                tunnel = Tunnel(quick(url))
                await nursery.start(tunnel.run)
            nursery.cancel_scope.cancel()
    assert "the protocol: " in caplog.text


async def test_after_the_start_nothing_is_fatal(caplog: pytest.LogCaptureFixture) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.token = "changed"
        await drop(worker.served[0])
        await eventually(lambda: tunnel.stats()["connect_failures"] >= 2)
        assert not tunnel.up
        worker.token = None
        await eventually(lambda: tunnel.up)
    assert "401" in caplog.text


def test_delays_double_and_are_jittered() -> None:
    backoff = Backoff(0.5, 30.0, rand=lambda: 1.0)
    assert [backoff.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.succeeded()
    assert backoff.failed() == 0.5
    backoff = Backoff(0.5, 30.0)
    for _ in range(2000):
        assert 0.25 <= backoff.failed() <= 30
    assert len({Backoff(0.5, 30.0).failed() for _ in range(20)}) > 10


# losses


async def test_streams_end_with_503_when_the_session_is_lost() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Peer(b"hello")
        stream = tunnel.open_stream("far", 1, peer)
        await eventually(lambda: b"hello" in peer.told)
        await drop(worker.served[0])
        await eventually(lambda: peer.told[-1] == 503)
        for late in (stream.mark_ready, stream.close, lambda: stream.consumed(5)):
            late()  # all harmless now
        await eventually(lambda: tunnel.up)
        again = Peer(b"again")
        tunnel.open_stream("far", 1, again)
        await eventually(lambda: b"again" in again.told)
        assert tunnel.stats()["channels_lost"] == 1
        assert peer.told == ["connected", b"hello", 503]


async def test_opens_wait_for_the_tunnel_to_come_back() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        peer = Peer(b"patient")
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: b"patient" in peer.told)


async def test_opens_wait_no_longer_than_the_grace_and_only_so_many() -> None:
    async with tunnel_and_worker(grace=1.5, max_waiting=3) as (tunnel, worker):
        worker.token = "changed"
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        began = trio.current_time()
        peers = [Peer() for _ in range(5)]
        streams = [tunnel.open_stream("far", 1, peer) for peer in peers]
        assert tunnel.stats()["waiting"] == 3
        assert [peer.told for peer in peers] == [[]] * 5  # never from inside open_stream
        streams[0].close()
        await eventually(lambda: peers[4].told)
        assert trio.current_time() - began < 1
        await eventually(lambda: peers[2].told)
        assert 1.2 < trio.current_time() - began < 10
        assert [peer.told for peer in peers] == [[], [503], [503], [503], [503]]
        assert tunnel.stats()["waiting"] == 0


async def test_what_no_frame_can_hold_is_refused_at_once() -> None:
    async with tunnel_and_worker() as (tunnel, _):
        for host, port in (("", 1), ("x" * 256, 1), ("h\0", 1), ("h", 65536), ("h", -1)):
            with pytest.raises(ValueError):
                tunnel.open_stream(host, port, Peer())


async def test_a_stopped_tunnel_ends_what_waits() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.token = "changed"
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        waiting = Peer()
        tunnel.open_stream("far", 1, waiting)
    assert waiting.told == [503]
    late = Peer()
    tunnel.open_stream("far", 1, late)
    assert late.told == [503]


# channels


async def test_more_channels_are_opened_when_one_is_full_and_closed_when_idle() -> None:
    settings = Settings(streams=3)
    async with tunnel_and_worker(settings, idle_channel=0.2) as (tunnel, worker):
        peers = [Peer(b"%d" % n) for n in range(10)]
        streams = [tunnel.open_stream("far", 1, peer) for peer in peers]
        await eventually(lambda: all(b"%d" % n in peer.told for n, peer in enumerate(peers)))
        assert tunnel.stats()["channels"] == 4
        assert max(served.session.open_streams for served in worker.served) == 3
        for stream in streams:
            stream.close()
        await eventually(lambda: tunnel.stats()["channels"] == 1)
        await eventually(lambda: [end.status for end in worker.ends] == [1000] * 3)
        assert tunnel.stats()["channels_lost"] == 0
        peer = Peer(b"on")
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: b"on" in peer.told)
        assert [item for peer in peers for item in peer.told if item == 503] == []


async def test_no_more_channels_than_allowed() -> None:
    async with tunnel_and_worker(Settings(streams=1), max_channels=2) as (tunnel, _):
        peers = [Peer(b"x") for _ in range(3)]
        streams = [tunnel.open_stream("far", 1, peer) for peer in peers]
        await eventually(lambda: b"x" in peers[1].told)
        assert tunnel.stats()["channels"] == 2 and peers[2].told == []
        streams[0].close()  # makes room for the third
        await eventually(lambda: b"x" in peers[2].told)


async def test_too_many_streams_here_means_another_channel() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        echo = worker.on_connect

        def only_one(served: Served, frame: Connect) -> None:
            if served is worker.served[0] and served.session.open_streams > 1:
                served.session.error(frame.stream, 429, "full")
            else:
                echo(served, frame)

        worker.on_connect = only_one
        peers = [Peer() for _ in range(3)]
        for peer in peers:
            tunnel.open_stream("far", 1, peer)
        await eventually(lambda: all(peer.told == ["connected"] for peer in peers))
        assert tunnel.stats()["channels"] == 2


async def test_what_has_sent_data_is_not_opened_elsewhere() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.session.error(frame.stream, 429, "full")
        peer = Peer(b"already on its way")
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: peer.told == [429])
        assert sum(isinstance(frame, Connect) for frame in worker.served[0].frames) == 1


async def test_goaway_moves_new_streams_to_a_new_channel() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        old = Peer(b"old")
        stream = tunnel.open_stream("far", 1, old)
        await eventually(lambda: b"old" in old.told)
        worker.served[0].session.goaway(1, "maintenance")
        await eventually(lambda: tunnel.stats()["channels"] == 2)
        new = Peer(b"new")
        tunnel.open_stream("far", 1, new)
        await eventually(lambda: b"new" in new.told)
        assert [each.session.open_streams for each in worker.served] == [1, 1]
        old.data += b"still here"
        stream.mark_ready()
        await eventually(lambda: b"still here" in old.told)
        stream.close()
        await eventually(lambda: tunnel.stats()["channels"] == 1)
        await eventually(lambda: worker.ends)
        assert worker.ends[0].status == 1000
        assert any(isinstance(frame, Connect) for frame in worker.served[1].frames)
        assert not any(isinstance(frame, GoAway) for frame in worker.served[1].frames)


# streams


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (111, errno.ECONNREFUSED),
        (113, errno.EHOSTUNREACH),
        (101, errno.ENETUNREACH),
        (110, errno.ETIMEDOUT),
        (403, errno.EACCES),
        (502, errno.ECONNRESET),
    ],
)
async def test_errors_of_the_far_end(code: int, number: int) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.session.error(frame.stream, code, "why")
        with pytest.raises(OSError, match="why") as caught:
            await tunnel.connect_tcp("far", 1)
        assert caught.value.errno == number
        assert tunnel.stats()["streams"] == 0


@pytest.mark.parametrize("near_first", [True, False])
async def test_streams_that_end_both_ways_are_forgotten(near_first: bool) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        ends: list[TcpStream] = []
        worker.on_connect = lambda served, frame: ends.append(served.connected(frame))
        ends.insert(0, await tunnel.connect_tcp("far", 1))
        first, second = ends if near_first else reversed(ends)
        await first.send_all(b"one")
        await first.send_eof()
        assert await second.receive_some() == b"one"
        assert await second.receive_some() == b""
        assert tunnel.stats()["streams"] == 1
        await second.send_all(b"two")
        await second.send_eof()
        assert await first.receive_some() == b"two"
        assert await first.receive_some() == b""
        await eventually(lambda: tunnel.stats()["streams"] == 0)
        assert worker.served[0].session.open_streams == 0


async def test_connect_tcp_can_be_cancelled() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: None
        with trio.move_on_after(0.1) as scope:
            await tunnel.connect_tcp("far", 1)
        assert scope.cancelled_caught
        assert tunnel.stats()["streams"] == 0
        await eventually(lambda: worker.served[0].session.open_streams == 0)


async def test_both_ends_are_half_closeable_streams() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        far: dict[str, TcpStream] = {}

        def keep(served: Served, frame: Connect) -> None:
            far[frame.host] = served.connected(frame)

        worker.on_connect = keep
        numbers = iter(range(1000))

        async def make() -> tuple[TcpStream, TcpStream]:
            host = f"far{next(numbers)}"
            near = await tunnel.connect_tcp(host, 1)
            return near, far.pop(host)

        async def make_clogged() -> tuple[TcpStream, TcpStream]:
            near, other = await make()
            for each in (near, other):
                clogged = False
                while not clogged:
                    with trio.move_on_after(0.15) as scope:
                        await each.send_all(bytes(65536))
                    clogged = scope.cancelled_caught
            return near, other

        with trio.fail_after(120):
            await check_half_closeable_stream(make, make_clogged)


async def test_a_closed_stream_does_not_stay_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from zks_lwip.tunnel import pool

    monkeypatch.setattr(pool, "_LINGER", 0.2)
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.connected(frame) and None
        stream = await tunnel.connect_tcp("far", 1)
        await stream.send_all(b"last words")
        await stream.aclose()
        await eventually(lambda: tunnel.stats()["streams"] == 0)
        await eventually(lambda: worker.served[0].peers == {})  # it was reset


# datagrams and questions


async def test_datagrams_both_ways_and_what_else_is_told() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Datagrams()
        association = tunnel.open_association(peer)
        other = tunnel.open_association(Datagrams())
        for size in (0, 1, 1472, 65507):
            assert association.send("192.0.2.1", 53, bytes(size))
        assert other.send("2001:db8::1", 5353, memoryview(b"v6"))
        await eventually(lambda: len(peer.told) == 4 and other.peer.told)
        assert [len(payload) for _, _, payload in peer.told] == [0, 1, 1472, 65507]
        assert peer.told[0][:2] == ("192.0.2.1", 53)
        assert other.peer.told == [("2001:db8::1", 5353, b"v6")]
        session = worker.served[0].session
        session.udp_error(association.identifier, 111, "192.0.2.1", 53)
        session.udp_close(association.identifier)
        await eventually(lambda: peer.told[-1] == "close")
        assert peer.told[-2] == (111, "192.0.2.1", 53)
        # it opens again, and a lost channel does it no harm either
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        assert association.send("192.0.2.1", 53, b"lost") is False
        await eventually(lambda: tunnel.up)
        assert association.send("192.0.2.1", 53, b"again")
        await eventually(lambda: peer.told[-1] == ("192.0.2.1", 53, b"again"))
        association.close()
        association.close()
        await eventually(lambda: UdpClose(association.identifier) in worker.served[1].frames)
        assert tunnel.stats()["associations"] == 1


async def test_datagrams_for_nobody_are_dropped() -> None:
    async with tunnel_and_worker() as (tunnel, _):
        tunnel.on_datagram(Udp(99, "192.0.2.1", 1, b"x"))
        tunnel.on_udp_error(UdpError(99, 111, "192.0.2.1", 1))
        tunnel.on_udp_close(UdpClose(99))
    async with tunnel_and_worker(Settings(udp=False)) as (tunnel, _):
        assert tunnel.open_association(Datagrams()).send("192.0.2.1", 1, b"x") is False


@pytest.mark.parametrize(
    "host",
    ["far.example", "192.0.2.1.", "[::1]", "fe80::1%eth0", "::ffff:192.0.2.1", "1", "\u0661"],
)
async def test_datagrams_from_what_is_no_address_are_dropped_and_counted(host: str) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Datagrams()
        association = tunnel.open_association(peer)
        assert association.send("192.0.2.1", 53, b"first")
        await eventually(lambda: peer.told)
        session = worker.served[0].session
        session.udp_error(association.identifier, 111, host, 53)
        session.send_udp(association.identifier, host, 53, b"x")
        session.send_udp(association.identifier, "192.0.2.1", 53, b"last")
        await eventually(lambda: len(peer.told) > 1)
        assert peer.told[1:] == [("192.0.2.1", 53, b"last")]
        await eventually(lambda: tunnel.stats()["datagrams_malformed"] == 2)


async def test_dns_queries_find_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zks_lwip.tunnel._questions._DNS_TIMEOUT", 60.0)
    async with tunnel_and_worker(Settings(dns=True, requests=8)) as (tunnel, worker):
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = await tunnel.dns_query(b"question %d" % number)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(ask, number)
        assert answers == {n: (b"question %d" % n)[::-1] for n in range(100)}
        assert worker.queries == 100
        assert worker.served[0].session.stats.dns_refused == 0  # never more than 8 at a time


async def test_a_dns_query_survives_its_channel() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.answers = False
        result: list[bytes] = []

        async def ask() -> None:
            result.append(await tunnel.dns_query(b"query"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: worker.queries == 1)
            worker.answers = True
            await drop(worker.served[0])
        assert result == [b"yreuq"]


async def test_dns_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from zks_lwip.tunnel import _questions

    monkeypatch.setattr(_questions, "_DNS_TIMEOUT", 0.2)
    async with tunnel_and_worker() as (tunnel, worker):
        worker.answers = False
        with pytest.raises(DnsError, match="within 0.2 s"):
            await tunnel.dns_query(b"query")
        monkeypatch.setattr(_questions, "_MOST_QUESTIONS", 0)
        with pytest.raises(DnsError, match="too many"):
            await tunnel.dns_query(b"query")
    monkeypatch.undo()
    async with tunnel_and_worker(Settings(dns=False)) as (tunnel, _):
        with pytest.raises(DnsError, match="answers no DNS"):
            await tunnel.dns_query(b"query")


async def test_echo() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        assert await tunnel.echo("192.0.2.1", b"ping") == b"ping"
        worker.answers = False
        with pytest.raises(TunnelError, match="no reply"):
            await tunnel.echo("192.0.2.1", b"ping", timeout=0.1)
    async with tunnel_and_worker(Settings(icmp=False)) as (tunnel, _):
        with pytest.raises(TunnelError, match="no reply"):
            await tunnel.echo("192.0.2.1", b"ping")


async def test_stats_are_numbers_and_outlive_channels() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Peer(b"x" * 1000)
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: b"x" * 1000 in peer.told)
        before = tunnel.stats()
        assert all(isinstance(value, int) for value in before.values())
        assert before["data_out"] == before["data_in"] == 1000
        assert before["wire_out"] > 1000
        await drop(worker.served[0])
        await eventually(lambda: tunnel.stats()["channels_opened"] == 2)
        after = tunnel.stats()
        assert after["data_out"] == 1000
        assert after["wire_out"] > before["wire_out"]
