"""A tunnel with several workers: the nearest, the next when it fails, and back again."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from zks_lwip.carrier.http import HttpResponse
from zks_lwip.errors import AuthError, TunnelError
from zks_lwip.protocol import DatagramReceived, Settings, UdpClosed
from zks_lwip.tunnel.endpoint import parse_worker_url
from zks_lwip.tunnel.options import TunnelConfig, WorkerEndpoint
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.cutter import Cutter, cutting
from ...kits.ports import on_one_port
from ...kits.tunnel import (
    Datagrams,
    Peer,
    Worker,
    drop,
    eventually,
    listening,
    quick,
    raw_server,
    working,
)

RESUMING = Settings(udp=True, dns=True, resume=60)


def several(*urls: str, **changes: Any) -> TunnelConfig:
    first, *others = urls
    endpoints = (WorkerEndpoint(url=parse_worker_url(url)) for url in others)
    options = {"check_every": 0.05, "settle": (0.3, 5.0), **changes}
    return quick(first, others=tuple(endpoints), **options)


@asynccontextmanager
async def tunnel_over(config: TunnelConfig) -> AsyncIterator[Tunnel]:
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(config)
        with trio.fail_after(60):
            await nursery.start(tunnel.run)
        yield tunnel
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def far_and_near(tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker, Path]]:
    """Two workers with TLS, the first of them 0.2 s further away than the second."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with working() as far, working() as near:

        async def slowly(stream: trio.abc.Stream) -> None:
            await trio.sleep(0.2)  # the handshake of TLS is part of the first read
            await far.serve(stream)

        async with (
            listening(slowly, tls=server) as far.url,
            listening(near.serve, tls=server) as near.url,
        ):
            yield far, near, ca_file


def datagrams(worker: Worker) -> int:
    """How many the worker has got."""
    events = [event for served in worker.served for event in served.events]
    return sum(isinstance(event, DatagramReceived) for event in events)


@contextmanager
def away(worker: Worker) -> Iterator[None]:
    """The worker serves no new client meanwhile."""
    good = worker.authorize
    worker.authorize = lambda request: HttpResponse(503)  # type: ignore[method-assign]
    yield
    worker.authorize = good  # type: ignore[method-assign]


def tunnels_asked_of(worker: Worker) -> int:
    """How many tunnels the worker was asked for; checks are something else."""
    return len([each for each in worker.requests if each.path == "/tunnel"])


@asynccontextmanager
async def once_asked(first: Worker, second: Worker) -> AsyncIterator[None]:
    """The second worker, at another URL now, says nothing until the first was asked for a tunnel.

    Else a busy machine may make the second seem nearer, and the first would not be asked.
    """

    async def late(stream: trio.abc.Stream) -> None:
        await eventually(lambda: tunnels_asked_of(first))
        await second.serve(stream)

    async with listening(late) as second.url:
        yield


async def echoed(tunnel: Tunnel, text: bytes = b"hello") -> float:
    """Open a stream, have something echoed, and return how long that took."""
    began = trio.current_time()
    peer = Peer(text)
    stream = tunnel.open_stream("far", 1, peer)
    await eventually(lambda: text in peer.told)
    stream.close()
    return trio.current_time() - began


async def test_the_nearest_is_in_use_whatever_the_order(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        async with tunnel_over(several(far.url, near.url, ca_file=ca_file)) as tunnel:
            assert str(tunnel.worker) == near.url
            await echoed(tunnel)
            assert len(near.served) == 1 and not far.served
            await eventually(lambda: all(each["connect_seconds"] for each in tunnel.workers()))
            first, second = tunnel.workers()
            assert first["connect_seconds"] > 0.2 > second["connect_seconds"]
            assert (first["worker"], first["in_use"], first["channels"]) == (far.url, False, 0)
            assert (second["worker"], second["in_use"], second["channels"]) == (near.url, True, 1)


async def test_each_gets_its_own_token() -> None:
    async with working() as one, working() as two:
        one.token, two.token = "first", "second"
        for urls in ((one, two), (two, one)):
            first, second = urls
            assert first.token is not None
            config = quick(
                first.url,
                token=first.token,
                others=(WorkerEndpoint(url=parse_worker_url(second.url), token=second.token),),
            )
            async with tunnel_over(config) as tunnel:
                await echoed(tunnel)


async def test_one_that_upgrades_and_says_nothing_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the start, and when it has to be the next."""
    async with working() as mute, working() as other, once_asked(mute, other):
        mute.mute = True
        async with tunnel_over(several(mute.url, other.url, check_every=60.0)) as tunnel:
            with trio.fail_after(8):  # and not only when its HELLO is late
                await echoed(tunnel)
            assert str(tunnel.worker) == other.url
            assert any("does not begin a session" in each.message for each in caplog.records)
            mute.mute = False
            other.mute = True
            await drop(other.served[0])
            with trio.fail_after(8):
                await echoed(tunnel)


async def test_when_it_goes_away_the_next_takes_over_at_once() -> None:
    async with working() as one, working() as two, trio.open_nursery() as nursery:
        (sock,) = on_one_port((socket.SOCK_STREAM, "127.0.0.1"))
        up = trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            with up:
                async with listening(one.serve, sock=sock) as url:
                    task_status.started(url)
                    await trio.sleep_forever()

        one.url = await nursery.start(serve)
        config = several(one.url, two.url, backoff=(0.5, 1.0))
        async with started(config, without=two) as tunnel:
            await echoed(tunnel)
            assert str(tunnel.worker) == one.url
            old = Peer(b"old")
            tunnel.open_stream("far", 1, old)
            await eventually(lambda: b"old" in old.told)
            up.cancel()
            for served in one.served:
                await drop(served)
            await eventually(lambda: old.told[-1] == 503)
            assert await echoed(tunnel, b"over there") < 5  # (0.5 s on a quiet machine)
            assert str(tunnel.worker) == two.url
            assert tunnel.stats()["worker_switches"] == 1
            kept = Peer(b"kept")
            tunnel.open_stream("far", 1, kept)
            await eventually(lambda: b"kept" in kept.told)
            assert [each["problem"] == "" for each in tunnel.workers()] == [False, True]
            assert 503 not in kept.told
        nursery.cancel_scope.cancel()


async def test_streams_stay_where_they_are_when_new_ones_go_elsewhere(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        config = several(far.url, near.url, ca_file=ca_file, backoff=(0.05, 0.1), idle_channel=0.2)
        async with tunnel_over(config) as tunnel:
            near.token = "no more"
            await drop(near.served[0])
            await eventually(lambda: str(tunnel.worker) == far.url and tunnel.up)
            staying = Peer(b"staying")
            stream = tunnel.open_stream("far", 1, staying)
            await eventually(lambda: b"staying" in staying.told)
            near.token = None
            tunnel.retry()
            assert str(tunnel.worker) == far.url
            assert 503 not in staying.told
            stream.close()


async def test_it_goes_back_to_the_nearer_one_after_a_while(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        config = several(far.url, near.url, ca_file=ca_file, idle_channel=0.2)
        async with tunnel_over(config) as tunnel:
            await eventually(lambda: all(each["connect_seconds"] for each in tunnel.workers()))
            with away(near):
                lost = trio.current_time()
                await drop(near.served[0])
                await eventually(lambda: str(tunnel.worker) == far.url and tunnel.up)
            staying = Peer(b"staying")
            tunnel.open_stream("far", 1, staying)
            # (What was attempted while it was away may arrive when it is back, or has before.)
            await eventually(lambda: str(tunnel.worker) == near.url)
            assert trio.current_time() - lost > 0.3, "not before it has been well for a while"
            await eventually(lambda: b"staying" in staying.told)
            served = len(near.served)
            await echoed(tunnel)
            assert 503 not in staying.told, "its session stays with its worker"
            assert tunnel.stats()["worker_switches"] == 2
            await trio.sleep(0.5)
            assert tunnel.stats()["worker_switches"] == 2 and len(near.served) == served


async def test_a_worker_that_takes_connections_and_says_nothing_is_passed_over() -> None:
    async with (
        listening(raw_server(None, b"HTTP/1.1 200 OK\r\n\r\n")) as well,
        working() as two,
        listening(raw_server(None, then_hang=True)) as mute,
    ):
        began = trio.current_time()
        async with tunnel_over(several(mute, two.url)) as tunnel:
            assert str(tunnel.worker) == two.url
            assert trio.current_time() - began < 10  # not a time limit of the first's
        async with tunnel_over(several(well, two.url)) as tunnel:  # no worker: a page
            assert str(tunnel.worker) == two.url


async def test_one_that_refuses_the_token_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with working() as one, working() as two, once_asked(one, two):
        one.token = "another"
        async with tunnel_over(several(one.url, two.url)) as tunnel:
            assert str(tunnel.worker) == two.url
            await echoed(tunnel)
            await trio.sleep(0.3)
            assert tunnels_asked_of(one) == 1
            (record,) = [each for each in caplog.records if "401" in each.message]
            assert record.levelno == logging.WARNING and one.url in record.message
            assert "The other workers are used." in record.message
            assert "401" in tunnel.workers()[0]["problem"]


async def test_where_all_refuse_it_ends_with_one_error() -> None:
    async with working() as one, working() as two:
        one.token = two.token = "another"
        with trio.fail_after(60), pytest.raises(AuthError) as caught:
            await Tunnel(several(one.url, two.url)).run()
        assert "none of the 2 workers can be used" in str(caught.value)
        assert one.url in str(caught.value) and two.url in str(caught.value)
        two.token = None
        wrong = two.url.replace("/tunnel", "/other")
        with trio.fail_after(60), pytest.raises(TunnelError, match="no worker at"):
            await Tunnel(several(one.url, wrong)).run()


async def test_one_that_refuses_and_one_that_is_away_are_tried_again() -> None:
    (sock,) = on_one_port((socket.SOCK_STREAM, "127.0.0.1"))
    port = sock.getsockname()[1]
    async with working() as one, trio.open_nursery() as nursery:
        one.token = "another"
        tunnel = Tunnel(several(one.url, f"ws://127.0.0.1:{port}"))
        nursery.start_soon(tunnel.run)
        await eventually(lambda: tunnel.stats()["connect_failures"] >= 4)
        async with working(sock=sock):
            await eventually(lambda: tunnel.up)
            assert tunnel.worker.port == port
            nursery.cancel_scope.cancel()


async def test_an_association_keeps_its_worker_as_long_as_that_is_there(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        config = several(far.url, near.url, ca_file=ca_file, idle_channel=0.2)
        async with tunnel_over(config) as tunnel:
            with away(near):
                await drop(near.served[0])
                await eventually(lambda: str(tunnel.worker) == far.url and tunnel.up)
            told = Datagrams()
            association = tunnel.open_association(told)
            assert association.send("192.0.2.1", 53, b"first")
            await eventually(lambda: told.told)
            await eventually(lambda: str(tunnel.worker) == near.url)
            await trio.sleep(0.6)
            assert association.send("192.0.2.1", 53, b"second")
            await eventually(lambda: len(told.told) == 2)
            assert datagrams(far) == 2 and datagrams(near) == 0
            other = tunnel.open_association(Datagrams())
            assert other.send("192.0.2.1", 53, b"of another")
            await eventually(lambda: datagrams(near) == 1)
            await drop(far.served[-1])
            await eventually(lambda: tunnel.stats()["channels"] == 1)
            assert association.send("192.0.2.1", 53, b"third")
            await eventually(lambda: len(told.told) == 3 and datagrams(near) == 2)
            association.close()
            await eventually(lambda: UdpClosed(association.identifier) in near.served[-1].events)


async def test_an_association_stays_with_a_worker_that_takes_no_more_sessions(
    tmp_path: Path,
) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        near.settings = Settings(udp=True, streams=1)
        near.max_sessions = 1
        config = several(far.url, near.url, ca_file=ca_file, backoff=(1.0, 1.0))
        async with tunnel_over(config) as tunnel:
            association = tunnel.open_association(Datagrams())
            assert association.send("192.0.2.1", 53, b"first")
            streams = [tunnel.open_stream("far", 1, Peer(b"hello")) for _ in range(2)]
            await eventually(lambda: far.served and far.served[-1].events and tunnel.up)
            assert tunnel.stats()["worker_switches"]
            assert association.send("192.0.2.1", 53, b"of the same call")
            await eventually(lambda: datagrams(near) == 2)
            assert datagrams(far) == 0
            for stream in streams:
                stream.close()


async def test_a_channel_that_only_associations_kept_is_closed_after_them(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        config = several(far.url, near.url, ca_file=ca_file, idle_channel=0.2)
        async with tunnel_over(config) as tunnel:
            with away(near):
                await drop(near.served[0])
                await eventually(lambda: str(tunnel.worker) == far.url and tunnel.up)
            association = tunnel.open_association(Datagrams())
            assert association.send("192.0.2.1", 53, b"first")
            await eventually(lambda: str(tunnel.worker) == near.url)
            await trio.sleep(0.6)
            assert tunnel.stats()["channels"] == 2
            association.close()
            await eventually(lambda: tunnel.stats()["channels"] == 1)
            assert str(tunnel.worker) == near.url


@asynccontextmanager
async def cut_path_and_another(
    **changes: Any,
) -> AsyncIterator[tuple[Tunnel, Cutter, Worker, Worker]]:
    """A tunnel to the first of two workers that resume, over a path that can be cut."""
    async with working(RESUMING) as one, working(RESUMING) as two:
        port = int(one.url.rsplit(":", 1)[1].split("/")[0])
        async with (
            cutting(port) as path,
            started(several(path.url(), two.url, **changes), without=two) as tunnel,
        ):
            assert tunnel.worker.port == path.port
            yield tunnel, path, one, two


@asynccontextmanager
async def started(config: TunnelConfig, without: Worker) -> AsyncIterator[Tunnel]:
    """A tunnel that has begun with the other worker; both are well now."""
    with ExitStack() as absent:
        absent.enter_context(away(without))
        async with tunnel_over(config) as tunnel:
            absent.close()
            await eventually(lambda: not any(each["problem"] for each in tunnel.workers()))
            yield tunnel


async def talk(stream: TunnelTcpStream, text: bytes) -> None:
    """Say something to a far end that repeats it."""
    with trio.fail_after(30):
        await stream.send_all(text)
        came = b""
        while len(came) < len(text):
            more = await stream.receive_some()
            assert more, "a clean end of a stream that was cut"
            came += more
    assert came == text


async def test_a_session_that_is_resumed_at_once_moves_nothing() -> None:
    async with cut_path_and_another() as (tunnel, path, one, two):
        stream = await tunnel.connect_tcp("far", 1)
        for number in range(5):
            await talk(stream, b"over and over %d" % number)
            path.reset()
        await talk(stream, b"still there")
        assert tunnel.worker.port == path.port
        assert tunnel.stats()["sessions_resumed"] == 5
        assert not two.served or len(one.served) == 1  # (a busy machine: not resumed at once)


async def test_while_a_session_waits_to_be_resumed_new_streams_go_to_another_worker() -> None:
    async with cut_path_and_another(suspicious=0.5) as (tunnel, path, one, two):
        old = await tunnel.connect_tcp("far", 1)
        await talk(old, b"before")
        path.blackhole()
        await old.send_all(b"while nothing passes")
        began = trio.current_time()
        with trio.fail_after(30):
            new = await tunnel.connect_tcp("far", 1)  # asked of the first one in vain
        assert trio.current_time() - began < 10, "the silence of a WebSocket takes 25 s to be over"
        await talk(new, b"by the other one")
        assert len(two.served) == 1 and tunnel.worker.port != path.port
        assert tunnel.stats()["streams_moved"] == 1
        sent_before = Peer(b"sent, and not connected")
        tunnel.open_stream("far", 1, sent_before)
        await eventually(lambda: b"sent, and not connected" in sent_before.told)
        path.restore()
        with trio.fail_after(30):
            assert await old.receive_some(20) == b"while nothing passes"
        await talk(old, b"and on")
        await talk(new, b"and on")
        assert tunnel.stats()["sessions_lost"] == 0 and len(one.served) == len(two.served) == 1


async def test_questions_that_a_silent_worker_was_asked_are_asked_again_elsewhere() -> None:
    async with cut_path_and_another(suspicious=0.5, dns_timeout=25.0) as (tunnel, path, one, two):
        old = await tunnel.connect_tcp("far", 1)
        await talk(old, b"before")
        path.blackhole()
        await old.send_all(b"while nothing passes")
        began = trio.current_time()
        await tunnel.dns_query(bytes(12))
        assert trio.current_time() - began < 15, "the silence of a WebSocket takes 25 s to be over"
        assert (one.queries, two.queries) == (0, 1)


async def test_a_network_that_was_away_is_held_against_no_worker() -> None:
    async with working(RESUMING) as one, working(RESUMING) as two:
        ports = [int(each.url.rsplit(":", 1)[1].split("/")[0]) for each in (one, two)]
        async with (
            cutting(ports[0]) as first,
            cutting(ports[1]) as second,
            started(several(first.url(), second.url(), suspicious=0.5), without=two) as tunnel,
        ):
            stream = await tunnel.connect_tcp("far", 1)
            await talk(stream, b"before")
            first.blackhole()
            second.blackhole()
            tunnel.reconnect("another network")
            await trio.sleep(1.5)
            assert not tunnel.up
            first.restore()
            await talk(stream, b"after")
            assert tunnel.worker.port == first.port
            second.restore()
            await trio.sleep(0.5)
            assert tunnel.worker.port == first.port
            assert tunnel.workers()[0]["problem"] == ""


async def test_v1_where_every_stream_has_a_websocket_of_its_own() -> None:
    async with working() as one, working() as two:
        one.v1 = two.v1 = True
        async with started(several(one.url, two.url, protocol="v1"), without=two) as tunnel:
            await echoed(tunnel)
            kept = Peer(b"kept")
            tunnel.open_stream("far", 1, kept)
            await eventually(lambda: b"kept" in kept.told)
            with away(one):
                await echoed(tunnel, b"by the other one")
                assert two.served
            assert kept.told == ["connected", b"kept"], "it has one of its own"


async def test_what_the_worker_in_use_can_do_is_known(tmp_path: Path) -> None:
    async with far_and_near(tmp_path) as (far, near, ca_file):
        far.settings, near.settings = Settings(udp=False), Settings(udp=True)
        async with tunnel_over(several(far.url, near.url, ca_file=ca_file)) as tunnel:
            assert tunnel.peer is not None and tunnel.peer.udp
            near.token = "no more"
            await drop(near.served[0])
            await eventually(lambda: str(tunnel.worker) == far.url and tunnel.up)
            assert not tunnel.peer.udp
