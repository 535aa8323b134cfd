"""The tunnel: its start, its losses, its channels, and what is carried over them."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

from zks_lwip.errors import AuthError, DnsError, TunnelError, WorkerNotFound
from zks_lwip.protocol import (
    DatagramsReceived,
    Settings,
    StreamOpened,
    UdpClosed,
    UdpErrorReceived,
    datagrams_of,
    encode_udp,
)
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel
from zks_lwip.tunnel.udp import Associations

from ...kits.ports import on_one_port
from ...kits.session import datagram
from ...kits.tunnel import (
    Datagrams,
    Peer,
    Served,
    drop,
    eventually,
    listening,
    quick,
    tunnel_and_worker,
    working,
)

# streams that are not marked


async def test_a_peer_without_bytes_is_not_asked_for_any() -> None:
    async with tunnel_and_worker() as (tunnel, _):
        peer = Peer(b"later")
        stream = tunnel.open_stream("far", 1, peer, marked=False)
        await eventually(lambda: "connected" in peer.told)
        assert peer.data == b"later"
        stream.mark_ready()
        await eventually(lambda: b"later" in peer.told)


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
    told = [each.getMessage() for each in caplog.records if "Trying again in" in each.getMessage()]
    assert len(told) >= 2 and "refused" in told[0]
    assert all(each.startswith("Still no connection to worker ws://127") for each in told[1:])
    assert "s3cret" not in caplog.text


async def test_a_worker_that_breaks_the_protocol_at_the_start_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with working() as worker, trio.open_nursery() as nursery:
        good = worker.serve

        async def bad(stream: trio.SocketStream) -> None:
            from zks_lwip.carrier.upgrade import accept_websocket

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


# streams


async def test_what_no_frame_can_hold_is_refused_at_once() -> None:
    async with tunnel_and_worker() as (tunnel, _):
        for host, port in (("", 1), ("x" * 256, 1), ("h\0", 1), ("h", 65536), ("h", -1)):
            with pytest.raises(ValueError):
                tunnel.open_stream(host, port, Peer())


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
        ends: list[TunnelTcpStream] = []
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
        far: dict[str, TunnelTcpStream] = {}

        def keep(served: Served, frame: StreamOpened) -> None:
            far[frame.host] = served.connected(frame)

        worker.on_connect = keep
        numbers = iter(range(1000))

        async def make() -> tuple[TunnelTcpStream, TunnelTcpStream]:
            host = f"far{next(numbers)}"
            near = await tunnel.connect_tcp(host, 1)
            return near, far.pop(host)

        async def make_clogged() -> tuple[TunnelTcpStream, TunnelTcpStream]:
            near, other = await make()
            for each in (near, other):

                async def fill() -> None:
                    while True:
                        await each.send_all(bytes(65536))  # noqa: B023

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fill)
                    await wait_all_tasks_blocked(0.03)
                    nursery.cancel_scope.cancel()
            return near, other

        with trio.fail_after(120):
            await check_half_closeable_stream(make, make_clogged)


async def test_a_closed_stream_does_not_stay_for_ever() -> None:
    async with tunnel_and_worker(linger=0.2) as (tunnel, worker):
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
        await eventually(lambda: UdpClosed(association.identifier) in worker.served[1].events)
        assert tunnel.stats()["associations"] == 1


class Sink:
    """Takes the datagrams of several associations."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str, int, bytes]] = []

    def deliver(self, frames: memoryview, associations: tuple[int, ...]) -> int:
        for one, _ in datagrams_of(frames):
            assert one.association in associations
            payload = bytes(one.payload)
            self.taken.append((one.association, one.host, one.port, payload))
        return 1


async def test_many_datagrams_at_once_go_and_come_as_frames() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        sink, alone = Sink(), Datagrams()
        ids = [tunnel.open_association(Datagrams(), sink).identifier for _ in range(3)]
        sent = [(ids[n % 3], "192.0.2.1", n, b"%d" % n) for n in range(90)]
        frames = b"".join(encode_udp(*one) for one in sent)
        size = sum(len(payload) for *_, payload in sent)
        await eventually(lambda: tunnel.up)
        for _ in range(2):  # at first, none of them is on a channel
            assert tunnel.send_datagrams(frames, 90, size, ids) == (90, size)
        await eventually(lambda: len(sink.taken) == 180)
        assert sink.taken == sent * 2
        assert tunnel.stats()["datagrams_malformed"] > 0  # as the sink says
        # of one that has no sink, its peer takes them, also where others are among them
        other = tunnel.open_association(alone)
        mixed = [(ids[0], "192.0.2.1", 1, b"a"), (other.identifier, "192.0.2.2", 2, b"b")] * 2
        frames = b"".join(encode_udp(*one) for one in mixed)
        assert tunnel.send_datagrams(frames, 4, 4, [ids[0], other.identifier]) == (4, 4)
        await eventually(lambda: len(alone.told) == 2)
        assert alone.told == [("192.0.2.2", 2, b"b")] * 2
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        assert tunnel.send_datagrams(frames, 4, 4, [ids[0], other.identifier]) == (0, 0)


class FakeChannel:
    """One that takes every datagram."""

    def __init__(self, worker: str = "") -> None:
        self.worker = worker
        self.session: Any = self

    def send_udp(self, *_: Any) -> bool:
        return True


def test_a_worker_is_not_heard_about_what_another_was_asked() -> None:
    one, another, liar = FakeChannel("honest"), FakeChannel("honest"), FakeChannel("liar")
    associations = Associations(lambda: one, lambda _: True, lambda channel: channel.worker)
    sink, peer = Sink(), Datagrams()
    identifier = associations.open(peer, sink).identifier
    silent = associations.open(Datagrams(), sink).identifier
    frames = encode_udp(identifier, "192.0.2.1", 1, b"x")
    batch = DatagramsReceived(memoryview(frames), 1, 1, (identifier,))
    for channel in (one, liar):  # before it was sent to any worker
        associations.on_datagram(channel, datagram(silent, "192.0.2.1", 1, b"x"))
    assert associations.strange == 2
    assert associations.send_frames(frames, 1, 1, [identifier]) == (1, 1)
    associations.on_datagram(liar, datagram(identifier, "192.0.2.1", 1, b"x"))
    associations.on_datagrams(liar, batch)
    associations.on_udp_error(liar, UdpErrorReceived(identifier, 111, "192.0.2.1", 1))
    associations.on_udp_closed(liar, UdpClosed(identifier))
    assert (associations.strange, peer.told, sink.taken) == (6, [], [])
    associations.on_datagrams(another, batch)  # another channel to the same worker
    associations.on_datagram(one, datagram(identifier, "192.0.2.1", 1, b"x"))
    associations.on_udp_closed(one, UdpClosed(identifier))
    assert sink.taken == [(identifier, "192.0.2.1", 1, b"x")]
    assert peer.told == [("192.0.2.1", 1, b"x"), "close"] and associations.strange == 6


def test_a_channel_does_not_end_an_association_that_has_gone_to_another() -> None:
    """What it has of it is idle there, and dropped after some minutes."""
    first, second = FakeChannel(), FakeChannel()
    living = [first]
    associations = Associations(
        lambda: living[-1], lambda channel: channel in living, lambda channel: channel.worker
    )
    peer = Datagrams()
    association = associations.open(peer)
    assert association.send("192.0.2.1", 1, b"x")
    living[:] = [second]
    assert association.send("192.0.2.1", 1, b"x")
    living[:] = [first, second]  # its session was resumed
    associations.on_udp_closed(first, UdpClosed(association.identifier))
    associations.on_datagram(first, datagram(association.identifier, "192.0.2.1", 1, b"late"))
    assert peer.told == [("192.0.2.1", 1, b"late")]
    associations.on_udp_closed(second, UdpClosed(association.identifier))
    assert peer.told[-1] == "close"


async def test_datagrams_for_no_association_are_dropped() -> None:
    associations = Associations(lambda: None, lambda channel: False, lambda channel: None)
    channel = FakeChannel()
    associations.on_datagram(channel, datagram(99, "192.0.2.1", 1, b"x"))
    associations.on_udp_error(channel, UdpErrorReceived(99, 111, "192.0.2.1", 1))
    associations.on_udp_closed(channel, UdpClosed(99))
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


async def test_dns_queries_find_their_answers() -> None:
    settings = Settings(dns=True, requests=8)
    async with tunnel_and_worker(settings, dns_timeout=60.0) as (tunnel, worker):
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


async def test_dns_queries_without_a_task() -> None:
    """As many as the worker takes; one that is given up, answered or lost makes room."""
    settings = Settings(dns=True, requests=2)
    async with tunnel_and_worker(settings) as (tunnel, worker):
        answers: list[bytes | None] = []
        assert tunnel.start_dns_query(b"one", answers.append) is not None
        assert tunnel.start_dns_query(b"two", answers.append) is not None
        assert tunnel.start_dns_query(b"three", answers.append) is None
        await eventually(lambda: len(answers) == 2)
        assert sorted(answers, key=str) == [b"eno", b"owt"]
        worker.answers = False
        give_up = tunnel.start_dns_query(b"four", answers.append)
        assert give_up is not None
        assert tunnel.start_dns_query(b"five", answers.append) is not None
        await eventually(lambda: worker.queries == 4)
        give_up()
        give_up()
        assert tunnel.start_dns_query(b"six", answers.append) is not None
        assert tunnel.start_dns_query(b"seven", answers.append) is None
        await eventually(lambda: len(answers) == 3)  # the worker still has the one given up
        await drop(worker.served[0])
        await eventually(lambda: answers[3:] == [None])
        worker.answers = True
        assert await tunnel.dns_query(b"eight") == b"thgie"
    async with tunnel_and_worker(Settings(dns=False)) as (tunnel, _):
        assert tunnel.start_dns_query(b"query", answers.append) is None
    async with tunnel_and_worker(max_dns_queries=0) as (tunnel, _):
        assert tunnel.start_dns_query(b"query", answers.append) is None


async def test_dns_errors() -> None:
    async with tunnel_and_worker(dns_timeout=0.2) as (tunnel, worker):
        worker.answers = False
        with pytest.raises(DnsError, match="within 0.2 s"):
            await tunnel.dns_query(b"query")
    async with tunnel_and_worker(max_dns_queries=0) as (tunnel, _):
        with pytest.raises(DnsError, match="too many"):
            await tunnel.dns_query(b"query")
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
