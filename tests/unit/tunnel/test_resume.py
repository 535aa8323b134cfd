"""Sessions that outlive their WebSockets: what applications see of a network that fails."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio

from zks_lwip.carrier.http import HttpRequest, HttpResponse
from zks_lwip.carrier.upgrade import Accept
from zks_lwip.protocol import EofReceived, Hello, Settings
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.cutter import Cutter, Fate, How, cutting
from ...kits.tunnel import Peer, Worker, drop, eventually, tunnel_and_worker, tunnelling, working

RESUMING = Settings(udp=True, icmp=True, dns=True, resume=60)


@asynccontextmanager
async def cut_path(
    settings: Settings = RESUMING, **changes: Any
) -> AsyncIterator[tuple[Tunnel, Worker, Cutter]]:
    """A tunnel, a worker that resumes, and the path between them."""
    changes.setdefault("gone", 60.0)  # a slow machine takes its time
    async with working(settings) as worker:
        port = int(worker.url.rsplit(":", 1)[1].split("/")[0])
        async with cutting(port) as path, tunnelling(path.url(), **changes) as tunnel:
            yield tunnel, worker, path


async def talk(stream: TunnelTcpStream, text: bytes, seconds: float = 30) -> None:
    """Say something to a far end that repeats it."""
    with trio.fail_after(seconds):
        await stream.send_all(text)
        came = b""
        while len(came) < len(text):
            more = await stream.receive_some()
            assert more, "a clean end of a stream that was cut"
            came += more
    assert came == text


async def test_a_reset_is_not_noticed() -> None:
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        for number in range(5):
            path.reset()
            await talk(stream, b"after %d" % number)
        assert tunnel.stats()["sessions_resumed"] == 5
        assert tunnel.stats()["channels_lost"] == tunnel.stats()["sessions_lost"] == 0
        assert len(worker.served) == 1
        (session,) = tunnel.sessions()
        assert session["resumes"] == 5 and session["resumable"] == 60
        assert session["lost_seconds"] is None and session["streams"] == 1
        await eventually(lambda: tunnel.sessions()[0]["unacknowledged"] == 0)


@pytest.mark.parametrize("early", [True, False])
async def test_the_request_of_another_websocket_says_hello(early: bool) -> None:
    """A worker that does not know of it waits for the frame."""
    async with cut_path() as (tunnel, worker, path):
        worker.early = early
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        for number in range(3):
            path.reset()
            await talk(stream, b"after %d" % number)
        said = [request.header(b"zks-hello") for request in worker.requests]
        assert said[0] is None and all(said[1:])
        attempts = [Hello.decode(each).attempt for each in said[1:] if each is not None]
        assert attempts == sorted(set(attempts))
        assert tunnel.stats()["sessions_resumed"] == 3
        assert len(worker.served) == 1


async def test_a_break_and_its_end_are_told_at_one_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zks_lwip")
    async with cut_path() as (tunnel, _, path):
        await talk(await tunnel.connect_tcp("far", 1), b"before")
        path.reset()
        await eventually(lambda: tunnel.stats()["sessions_resumed"] == 1)
        told = [each for each in caplog.records if each.name == "zks_lwip.tunnel.outcomes"]
        (lost,) = (each for each in told if "Resuming its session" in each.getMessage())
        (again,) = (each for each in told if "is up again" in each.getMessage())
        assert lost.levelno == again.levelno == logging.WARNING


@pytest.mark.parametrize("status", [1001, 1011, 1012, 1013])
async def test_a_close_that_says_so_is_not_noticed(status: int) -> None:
    async with cut_path() as (tunnel, worker, _):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        worker.served[0].link.take_away(status, "restarting")
        await talk(stream, b"after")
        assert tunnel.stats()["sessions_resumed"] == 1


@pytest.mark.parametrize("status", [1000, 1002, 1008, 4001])
async def test_any_other_close_ends_the_session(status: int) -> None:
    async with cut_path() as (tunnel, worker, _):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        worker.served[0].link.take_away(status, "no more")
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await eventually(lambda: tunnel.up)
        assert tunnel.stats()["sessions_resumed"] == 0
        assert tunnel.stats()["channels_lost"] == 1
        assert tunnel.stats()["sessions_lost"] == (status != 1000)
        await talk(await tunnel.connect_tcp("far", 1), b"anew")
        assert len(worker.served) == 2


async def test_a_breach_ends_the_session() -> None:
    async with cut_path() as (tunnel, worker, _):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        await worker.served[0].connection.send_message(b"\xee")
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await eventually(lambda: len(worker.served) == 2 and tunnel.up)
        assert tunnel.stats()["sessions_resumed"] == 0


async def test_a_session_that_the_worker_has_forgotten_is_reset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        waiting = Peer()
        worker.on_connect = lambda served, event: None
        tunnel.open_stream("far", 2, waiting)
        await eventually(lambda: worker.served[0].session.open_streams == 2)
        worker.on_connect = worker.echo
        worker.forget()
        path.reset()
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError, match="does not hold it"):
            await stream.receive_some()
        await eventually(lambda: bool(waiting.told))  # on a slow machine, not in the same pass
        assert waiting.told == [503]
        await eventually(lambda: tunnel.up)
        await talk(await tunnel.connect_tcp("far", 1), b"anew")
        assert tunnel.stats()["sessions_lost"] == 1
        assert tunnel.stats()["channels_opened"] == 1
        assert len(worker.served) == 2
    assert "did not hold the session any more" in caplog.text


async def test_all_streams_of_a_forgotten_session_end_although_the_next_is_lost_at_once() -> None:
    """The network changes again while the first of them are told."""
    async with cut_path() as (tunnel, worker, path):
        worker.on_connect = lambda served, event: None
        peers = [_Slow(tunnel) for _ in range(20)]
        for peer in peers:
            tunnel.open_stream("far", 2, peer)
        await eventually(lambda: worker.served[0].session.open_streams == len(peers))
        worker.on_connect = worker.echo
        worker.forget()
        path.reset()
        await eventually(lambda: tunnel.stats()["sessions_resumed"] == 1)
        assert [peer.told for peer in peers] == [[503]] * len(peers)
        await talk(await tunnel.connect_tcp("far", 1), b"anew")
        assert tunnel.stats()["streams"] == 1
        assert tunnel.stats()["sessions_lost"] == 1


async def test_bytes_are_exact_over_many_cuts_both_ways() -> None:
    block = bytes(range(256)) * 256
    total = 600
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        digest, received = hashlib.sha256(), 0

        async def send() -> None:
            for _ in range(total):
                await stream.send_all(block)
            await stream.send_eof()

        async def cut() -> None:
            while True:
                for how in (How.RESET, How.CLOSE):
                    await trio.sleep(0.02)
                    before = tunnel.stats()["sessions_resumed"]
                    path.cut(how)
                    await eventually(partial(resumed_since, before))

        def resumed_since(before: int) -> bool:
            return bool(tunnel.stats()["sessions_resumed"] > before)

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut)
                async with trio.open_nursery() as sending:
                    sending.start_soon(send)
                    async for data in stream:
                        digest.update(data)
                        received += len(data)
                nursery.cancel_scope.cancel()
        assert received == total * len(block)
        assert digest.digest() == hashlib.sha256(block * total).digest()
        assert tunnel.stats()["sessions_resumed"] > 3
        assert tunnel.stats()["sessions_lost"] == 0


async def test_a_blackhole_is_not_noticed_and_short(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zks_lwip")
    async with cut_path(suspicious=0.3) as (tunnel, _, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.blackhole()
        await stream.send_all(b"in it")
        await trio.sleep(1.5)
        path.restore()
        began = trio.current_time()
        with trio.fail_after(30):
            assert await stream.receive_some() == b"in it"
        assert trio.current_time() - began < 1.0
        await talk(stream, b"after")


async def test_a_path_that_dies_in_silence_is_replaced_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By a second WebSocket beside the first, which is not given up before."""
    caplog.set_level(logging.INFO, "zks_lwip")
    async with cut_path(suspicious=0.4) as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.lose()
        began = trio.current_time()
        await talk(stream, b"after")
        assert 0.4 <= trio.current_time() - began < 5
        assert tunnel.stats()["sessions_resumed"] == 1
        assert len(worker.served) == 1
        made = len(path.connections)  # the second may have had companions, on a busy machine
        assert made >= 2
        await trio.sleep(1)
        assert len(path.connections) == made
    assert "nothing was heard from it for 0." in caplog.text


async def test_a_path_that_comes_back_is_kept() -> None:
    async with cut_path(suspicious=0.3) as (tunnel, _, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.open = trio.Event()  # bytes wait; new connections are taken, and wait likewise
        await stream.send_all(b"in it")
        await eventually(lambda: len(path.connections) > 1)
        path.open.set()
        with trio.fail_after(30):
            assert await stream.receive_some() == b"in it"
        await talk(stream, b"after")
        assert tunnel.up and len(tunnel.sessions()) == 1


async def test_after_an_outage_that_was_too_long_streams_are_reset_and_new_ones_work() -> None:
    times = {"suspicious": 0.3, "quiet": 0.3, "patience": 0.5}
    async with cut_path(resume=1, **times) as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.blackhole()
        await stream.send_all(b"in it")
        with trio.fail_after(30):
            while True:
                try:
                    assert await stream.receive_some() != b"", "a clean end"
                except trio.BrokenResourceError:
                    break
        assert tunnel.stats()["sessions_lost"] == 1
        await trio.sleep(1)
        path.restore()
        began = trio.current_time()
        await talk(await tunnel.connect_tcp("far", 1), b"anew")
        assert trio.current_time() - began < 2
        assert len(worker.served) == 2


async def test_what_is_new_waits_in_an_outage_and_is_refused_after_the_grace() -> None:
    async with cut_path(grace=0.5) as (tunnel, _, path):
        stream = await tunnel.connect_tcp("far", 1)
        path.refuse()
        await eventually(lambda: not tunnel.up)
        assert tunnel.carriers == []
        began = trio.current_time()
        with trio.fail_after(30), pytest.raises(OSError):
            await tunnel.connect_tcp("far", 2)
        assert 0.3 < trio.current_time() - began < 5
        assert tunnel.hopeless
        assert not tunnel.open_association(_NoPeer()).send("192.0.2.1", 1, b"x")
        path.restore()
        await talk(stream, b"after")
        assert tunnel.up and not tunnel.hopeless
        assert tunnel.stats()["sessions_resumed"] == 1


class _Slow(Peer):
    """A local end whose connection has to be made anew, as soon as it is told that it is over."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self._tunnel = tunnel

    def on_end(self, code: int, message: str) -> None:
        super().on_end(code, message)
        time.sleep(0.004)  # more than a WebSocket has at a time
        self._tunnel.reconnect("another network")


class _NoPeer:
    def on_datagram(self, host: str, port: int, payload: memoryview) -> None: ...
    def on_udp_error(self, code: int, host: str, port: int) -> None: ...
    def on_udp_close(self) -> None: ...


async def test_a_new_stream_is_opened_once_the_session_is_resumed() -> None:
    async with cut_path() as (tunnel, worker, path):
        path.refuse()
        await eventually(lambda: not tunnel.up)
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                await talk(await tunnel.connect_tcp("far", 2), b"late")

            nursery.start_soon(connect)
            await eventually(lambda: tunnel.stats()["waiting"] == 1)
            path.restore()
        assert len(worker.served) == 1
        assert tunnel.stats()["channels_opened"] == 1


async def test_a_refusal_delays_and_retry_does_not_wait() -> None:
    async with cut_path(backoff=(30.0, 30.0)) as (tunnel, _, path):
        stream = await tunnel.connect_tcp("far", 1)
        path.refuse()
        await eventually(lambda: tunnel.stats()["connect_failures"])
        path.restore()
        await trio.sleep(0.3)
        assert not tunnel.up and tunnel.stats()["connect_failures"] == 1
        tunnel.retry()
        await talk(stream, b"after", 5)


async def test_a_session_is_gone_with_its_worker() -> None:
    """Where no process listens any more, nothing is waited for."""
    async with cut_path(gone=0.2) as (tunnel, _, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.refuse()
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError, match="nothing listens"):
            await stream.receive_some()
        assert tunnel.stats()["sessions_lost"] == 1
        path.restore()
        await talk(await tunnel.connect_tcp("far", 1), b"anew")


async def test_another_network_keeps_the_session() -> None:
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.lose()  # the old way is no way any more
        tunnel.reconnect("the network has changed")
        await talk(stream, b"after", 5)
        assert tunnel.stats()["sessions_resumed"] == 1
        assert len(worker.served) == 1


async def test_attempts_that_are_lost_half_way_are_repeated() -> None:
    fates = [Fate(up=0), Fate(up=1), Fate(up=200), Fate(down=0), Fate(down=50)]
    fates += [Fate(up=n) for n in (330, 340, 400)] + [Fate(down=n) for n in (200, 220, 300, 400)]
    fates += [Fate(down=220, how=How.SILENCE), Fate(up=1, how=How.SILENCE)]
    async with cut_path(suspicious=0.3, upgrade_timeout=1.0, backoff=(0.01, 0.05)) as (
        tunnel,
        worker,
        path,
    ):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.fates = list(fates)
        path.reset()
        while path.fates:
            await talk(stream, b"after")
        assert len(worker.served) == 1
        assert tunnel.stats()["sessions_lost"] == 0


async def test_a_worker_that_takes_connections_and_says_nothing() -> None:
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.hang()
        path.reset()
        await trio.sleep(1.2)
        assert len(path.connections) < 6
        path.restore()
        await talk(stream, b"after")
        assert len(worker.served) == 1


async def test_without_resuming_a_session_ends_with_its_websocket() -> None:
    async with cut_path(resume=0) as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        assert tunnel.sessions()[0]["resumable"] == 0
        path.reset()
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await eventually(lambda: tunnel.up)
        assert len(worker.served) == 2
        assert tunnel.stats()["sessions_resumed"] == tunnel.stats()["sessions_lost"] == 0


async def test_datagrams_and_questions_go_on_after_it() -> None:
    async with cut_path() as (tunnel, worker, path):
        worker.answers = False
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await tunnel.dns_query(b"query"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: worker.queries == 1)
            worker.answers = True
            path.reset()
        assert answers == [b"yreuq"]
        assert len(worker.served) == 1


async def test_a_stopped_tunnel_does_not_wait_for_what_is_lost() -> None:
    with trio.fail_after(30):
        async with cut_path() as (tunnel, _, path):
            peer = Peer(b"x")
            tunnel.open_stream("far", 1, peer)
            await eventually(lambda: b"x" in peer.told)
            path.blackhole()
            path.lose()
            tunnel.reconnect("for the test")
            await eventually(lambda: not tunnel.up)
    assert peer.told[-1] == 503


async def test_a_worker_that_wants_it_hears_of_open_streams() -> None:
    """The client says something every ``keepalive`` seconds, but for nothing it says nothing."""
    async with cut_path(replace(RESUMING, keepalive=1)) as (tunnel, worker, _):
        stats = worker.served[0].session.stats
        before = stats.messages_in
        await trio.sleep(1.3)
        assert stats.messages_in == before
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"x")
        await eventually(lambda: tunnel.sessions()[0]["unacknowledged"] == 0)
        await trio.sleep(0.3)
        before = stats.messages_in
        await trio.sleep(2.2)
        assert 2 <= stats.messages_in - before <= 3


async def test_a_loss_touches_the_streams_of_its_channel_only() -> None:
    async with cut_path(replace(RESUMING, streams=1)) as (tunnel, worker, path):
        streams = [await tunnel.connect_tcp("far", 1) for _ in range(3)]
        for stream in streams:
            await talk(stream, b"before")
        assert tunnel.stats()["channels"] == 3
        path.refuse_new()
        path.connections[1].cut()
        await eventually(lambda: tunnel.stats()["channels_resuming"] == 1)
        assert tunnel.up
        await talk(streams[0], b"meanwhile")
        await talk(streams[2], b"meanwhile")
        path.restore()
        for stream in streams:
            await talk(stream, b"after")
        assert [session["resumes"] for session in tunnel.sessions()] == [0, 1, 0]
        assert len(worker.served) == 3


async def test_new_streams_do_not_wait_for_one_of_several_sessions_that_is_refused() -> None:
    """Behind a front end the process that holds it may hang, while others take new sessions."""
    async with tunnel_and_worker(replace(RESUMING, streams=4), grace=60.0) as (tunnel, worker):
        streams = [await tunnel.connect_tcp("far", 1) for _ in range(8)]
        lost = worker.served[1]

        def refuse(request: HttpRequest) -> Accept | HttpResponse:
            if request.header(b"zks-session") is not None:
                return HttpResponse(503)
            return Worker.authorize(worker, request)

        worker.authorize = refuse  # type: ignore[method-assign]
        for stream in streams[5:]:
            stream.abort()
        await drop(lost)
        await eventually(lambda: tunnel.stats()["channels_resuming"] == 1)
        with trio.fail_after(20):
            async with await tunnel.connect_tcp("far", 1) as stream:
                await talk(stream, b"another way")
        assert tunnel.stats()["channels_resuming"] == 1 and len(worker.served) == 3
        await talk(streams[0], b"untouched")


async def test_new_streams_do_not_wait_for_a_session_that_is_refused() -> None:
    """As by a front end whose worker of that session is dead: the request without it goes to
    another."""
    async with cut_path() as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")

        def refuse(request: HttpRequest) -> Accept | HttpResponse:
            if request.header(b"zks-session") is not None:
                return HttpResponse(502)
            return Worker.authorize(worker, request)

        worker.authorize = refuse  # type: ignore[method-assign]
        path.reset()
        await eventually(lambda: tunnel.stats()["channels_resuming"] == 1)
        with trio.fail_after(20):
            async with await tunnel.connect_tcp("far", 1) as other:
                await talk(other, b"another way")
        assert tunnel.stats()["channels_resuming"] == 1 and len(worker.served) == 2
        del worker.authorize  # type: ignore[method-assign]
        await talk(stream, b"it was not forgotten")
        assert tunnel.stats()["sessions_resumed"] == 1
        assert tunnel.stats()["sessions_lost"] == 0


@pytest.mark.parametrize("what", ["query", "datagram"])
async def test_a_path_that_dies_under_what_is_not_acknowledged_is_replaced_soon(what: str) -> None:
    async with cut_path(suspicious=0.4) as (tunnel, worker, path):
        association = tunnel.open_association(_NoPeer())

        async def ask() -> None:
            if what == "query":
                await tunnel.dns_query(bytes(20))

        def say() -> None:
            if what == "datagram":
                association.send("192.0.2.1", 1, b"x")

        await ask()
        say()
        await eventually(lambda: not tunnel.sessions()[0]["unacknowledged"])
        path.lose()
        say()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: tunnel.stats()["sessions_resumed"] == 1, 10)
            nursery.cancel_scope.cancel()
        assert len(worker.served) == 1


async def test_a_query_while_a_path_is_watched_for_a_stream_is_watched_for() -> None:
    """Nothing is sent after the query: what was looked at when it left was another thing."""
    async with cut_path(suspicious=1.0, dns_timeout=60.0) as (tunnel, worker, path):
        await talk(await tunnel.connect_tcp("far", 1), b"before")
        await eventually(lambda: not tunnel.sessions()[0]["unacknowledged"])
        path.lose()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tunnel.dns_query, bytes(20))
            await eventually(lambda: tunnel.stats()["sessions_resumed"] == 1, 15)
            nursery.cancel_scope.cancel()
        assert len(worker.served) == 1


async def test_another_token_reaches_a_channel_that_was_being_opened() -> None:
    async with tunnel_and_worker(replace(RESUMING, streams=1), token="old") as (tunnel, worker):
        first = await tunnel.connect_tcp("far", 1)

        def renew(request: HttpRequest) -> Accept | HttpResponse:
            if len(worker.served) == 1:
                tunnel.renew(["new"])
            return Worker.authorize(worker, request)

        worker.authorize = renew  # type: ignore[method-assign]
        second = await tunnel.connect_tcp("far", 1)
        worker.token = "new"
        for served in worker.served[:2]:
            await drop(served)
        await talk(first, b"after", 10)
        await talk(second, b"after", 10)
        assert len(worker.served) == 2


async def test_the_end_of_an_upload_outlives_its_channels_idleness() -> None:
    """Its application is gone, and knows nothing but that all was taken."""
    uploads: list[bytes | None] = []

    async def take_all(far: TunnelTcpStream) -> None:
        await far.send_eof()
        try:
            uploads.append(b"".join([data async for data in far]))
        except trio.BrokenResourceError:
            uploads.append(None)

    async with cut_path(replace(RESUMING, streams=1), idle_channel=0.3, suspicious=60.0) as (
        tunnel,
        worker,
        path,
    ):
        await talk(await tunnel.connect_tcp("far", 1), b"the first channel is needed")
        worker.on_connect = lambda served, event: worker.nursery.start_soon(
            take_all, served.connected(event)
        )
        stream = await tunnel.connect_tcp("far", 2)
        with trio.fail_after(30):
            assert await stream.receive_some() == b""
        path.open = trio.Event()  # nothing passes for now
        await stream.send_all(b"the end")
        await stream.aclose()
        await eventually(lambda: [each["streams"] for each in tunnel.sessions()] == [1, 0])
        path.refuse_new()
        path.connections[1].cut()
        path.open.set()
        await eventually(lambda: tunnel.stats()["channels_resuming"] == 1)
        await trio.sleep(0.8)
        path.restore()
        await eventually(lambda: uploads)
        assert uploads == [b"the end"]
        await eventually(lambda: tunnel.stats()["channels"] == 1)


async def test_what_was_closed_in_an_outage_is_sent_behind_it() -> None:
    async with cut_path(linger=0.3) as (tunnel, worker, path):
        stream = await tunnel.connect_tcp("far", 1)
        await talk(stream, b"before")
        path.refuse()
        await eventually(lambda: not tunnel.up)
        await stream.send_all(b"behind")
        await stream.aclose()
        await trio.sleep(0.8)
        path.restore()
        await eventually(lambda: tunnel.up and not tunnel.stats()["streams"])
        await eventually(lambda: EofReceived in [type(event) for event in worker.served[0].events])


async def test_an_idle_channel_that_is_lost_is_let_go() -> None:
    """What is not needed is closed, with a WebSocket or without."""
    async with cut_path(replace(RESUMING, streams=1), idle_channel=0.3) as (tunnel, _, path):
        streams = [await tunnel.connect_tcp("far", 1) for _ in range(2)]
        for stream in streams:
            await talk(stream, b"before")
        await eventually(lambda: not tunnel.sessions()[1]["unacknowledged"])
        path.refuse_new()
        path.connections[1].cut()
        await eventually(lambda: tunnel.stats()["channels_resuming"] == 1)
        streams[1].abort()
        await eventually(lambda: tunnel.stats()["channels"] == 1)
        await talk(streams[0], b"still there")
        assert tunnel.stats()["channels_lost"] == 0


async def test_a_session_is_looked_for_where_it_was() -> None:
    """Its worker's name may lead elsewhere now, or nowhere while there is no network."""
    asked: list[str] = []

    async def resolve(name: str) -> list[str]:
        asked.append(name)
        if len(asked) > 1:
            raise OSError("no network")
        return ["127.0.0.1"]

    async with working(RESUMING) as worker:
        port = int(worker.url.rsplit(":", 1)[1].split("/")[0])
        async with cutting(port) as path:
            url = path.url().replace("127.0.0.1", "worker.test")
            async with tunnelling(url, resolve=resolve, plaintext=True) as tunnel:
                stream = await tunnel.connect_tcp("far", 1)
                for number in range(3):
                    await talk(stream, b"%d" % number)
                    path.reset()
                await talk(stream, b"after")
        assert asked == ["worker.test"]
        assert len(worker.served) == 1
