"""The tunnel to an original Worker (PROTOCOL.md §9): a WebSocket for every stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from zks_lwip.errors import ConfigError, WorkerNotFound
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.hostile_worker import Conversation, HostileWorker
from ...kits.plain_websocket import close_frame
from ...kits.tunnel import Datagrams, Peer, Worker, drop, eventually, quick, working


@asynccontextmanager
async def tunnel_and_worker(**changes: Any) -> AsyncIterator[tuple[Tunnel, Worker]]:
    async with working() as worker, trio.open_nursery() as nursery:
        worker.v1 = True
        tunnel = Tunnel(quick(worker.url, protocol="v1", **changes))
        with trio.fail_after(60):
            await nursery.start(tunnel.run)
        yield tunnel, worker
        nursery.cancel_scope.cancel()


async def test_v1_is_spoken_only_when_told() -> None:
    async with working() as worker:
        worker.v1 = True
        with pytest.raises(WorkerNotFound, match="`protocol` to v1"):
            await Tunnel(quick(worker.url)).run()
    with pytest.raises(ConfigError, match="v3"):
        quick("wss://worker.example", protocol="v3")


async def test_it_offers_no_subprotocol_and_knows_what_v1_lacks() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        assert worker.requests[0].subprotocols == ()
        assert tunnel.peer is not None
        assert tunnel.peer.dns and not tunnel.peer.udp and not tunnel.peer.icmp
        assert tunnel.open_association(Datagrams()).send("192.0.2.1", 1, b"x") is False


async def test_every_stream_has_a_websocket_of_its_own() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peers = [Peer() for _ in range(12)]
        streams = [tunnel.open_stream("far", 1, peer) for peer in peers]
        await eventually(lambda: all(peer.told for peer in peers))
        for number, (peer, stream) in enumerate(zip(peers, streams, strict=True)):
            peer.data += b"%d" % number
            stream.mark_ready()
        await eventually(lambda: all(b"%d" % n in peer.told for n, peer in enumerate(peers)))
        assert tunnel.stats()["channels"] == 13
        assert max(served.session.open_streams for served in worker.served) == 1
        assert worker.served[0].session.open_streams == 0  # this one is for questions
        for stream in streams:
            stream.close()
        await eventually(lambda: tunnel.stats()["channels"] == 1)
        await eventually(lambda: [end.status for end in worker.ends] == [1000] * 12)
        assert tunnel.up and tunnel.stats()["channels_lost"] == 0


async def test_questions_are_answered_beside_a_stream_that_is_stuck() -> None:
    async with tunnel_and_worker() as (tunnel, _):
        stuck = await tunnel.connect_tcp("far", 1)
        with trio.move_on_after(0.5):
            while True:
                await stuck.send_all(bytes(65536))
        with trio.fail_after(4):
            assert await tunnel.dns_query(b"abc") == b"cba"


async def test_all_data_comes_before_the_end() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        ends: list[TunnelTcpStream] = []
        worker.on_connect = lambda served, frame: ends.append(served.connected(frame))
        near = await tunnel.connect_tcp("far", 1)
        (far,) = ends
        block = bytes(range(256)) * 4096

        async def send() -> None:
            for _ in range(4):
                await far.send_all(block)
            await far.send_eof()

        received = bytearray()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for data in near:
                    received += data
        assert received == block * 4
        await near.aclose()
        await eventually(lambda: tunnel.stats()["streams"] == 0)
        await eventually(lambda: tunnel.stats()["channels"] == 1)


async def test_a_slow_reader_holds_its_worker_up() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        ends: list[TunnelTcpStream] = []
        worker.on_connect = lambda served, frame: ends.append(served.connected(frame))
        near = await tunnel.connect_tcp("far", 1)
        sent = 0
        with trio.move_on_after(1):
            while True:
                await ends[0].send_all(bytes(65536))
                sent += 65536
        assert sent < 40 << 20  # the kernel's buffers and 1 MiB, not what was asked for
        received = 0
        with trio.fail_after(60):
            while received < sent - 65536:
                received += len(await near.receive_some())


async def test_losing_one_stream_harms_no_other() -> None:
    async with tunnel_and_worker(backoff=(60.0, 60.0)) as (tunnel, worker):
        first, second = Peer(b"one"), Peer(b"two")
        for peer in (first, second):
            stream = tunnel.open_stream("far", 1, peer)
            await eventually(lambda peer=peer: "connected" in peer.told)
            stream.mark_ready()
        await eventually(lambda: b"one" in first.told and b"two" in second.told)
        carrier = next(each for each in worker.served[1:] if each.session.open_streams)
        await drop(carrier)
        await eventually(lambda: 503 in (*first.told, *second.told))
        assert [503 in peer.told for peer in (first, second)].count(True) == 1
        assert tunnel.up
        third = Peer()
        began = trio.current_time()
        tunnel.open_stream("far", 1, third)
        await eventually(lambda: "connected" in third.told)
        assert trio.current_time() - began < 20


async def test_errors_of_v1() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.session.error(frame.stream, 502, "no")
        peer = Peer()
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: peer.told == [502])
        await eventually(lambda: tunnel.stats()["channels"] == 1)


async def test_a_worker_that_speaks_v2_frames_breaks_v1() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Peer()
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: "connected" in peer.told)
        carrier = next(each for each in worker.served if each.session.open_streams)
        await carrier.connection.send_message(b"\x47" + bytes(8))
        await eventually(lambda: 503 in peer.told)
        await eventually(lambda: any(end.status == 1002 for end in worker.ends))
        assert tunnel.up


async def test_a_worker_whose_close_comes_with_its_upgrade_is_not_stormed() -> None:
    """Its channel has ended before it was one; there are pauses, which grow, all the same."""

    def script(talk: Conversation) -> None:
        talk.upgrade(None, close_frame(1000, ""))
        talk.listen()

    lost: list[float] = []
    with HostileWorker(script) as worker:
        async with trio.open_nursery() as nursery:
            tunnel = Tunnel(quick(worker.url, protocol="v1", backoff=(0.1, 5.0)))
            nursery.start_soon(tunnel.run)
            while len(lost) < 5:
                await eventually(lambda: tunnel.stats()["channels_lost"] > len(lost))
                lost.append(trio.current_time())
            nursery.cancel_scope.cancel()
    # Each delay is at least half of what it would be without jitter.
    assert lost[-1] - lost[0] > (0.1 + 0.2 + 0.4 + 0.8) / 2 * 0.9, lost


HELLO = b"\x16\x03\x01\x00\x05hello"


@pytest.mark.parametrize(
    ("asked", "answer", "reported"),
    [
        (HELLO, b"\x16\x03\x03", False),
        (HELLO, b"\x15\x03\x03", False),
        (HELLO, b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        (HELLO, b"", True),  # CLOSE
        (HELLO, None, True),  # CLOSE before anything else, at the worker's other end
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\n", b"", False),
    ],
)
async def test_tls_that_gets_no_tls_back_is_reported_once(
    asked: bytes, answer: bytes | None, reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with tunnel_and_worker() as (tunnel, worker):

        def serve(served: Any, frame: Any) -> None:
            far = served.connected(frame)

            async def run() -> None:
                await far.receive_some()
                if answer is None:
                    served.session.close(frame.stream)
                elif answer:
                    await far.send_all(answer)
                else:
                    await far.send_eof()

            worker.nursery.start_soon(run)

        worker.on_connect = serve
        for port in (443, 443, 8443):
            peer = Peer(asked)
            stream = tunnel.open_stream("192.0.2.7", port, peer)
            await eventually(lambda peer=peer: "connected" in peer.told)
            stream.mark_ready()
            await eventually(lambda peer=peer: len(peer.told) > 1)
            assert peer.told[1] == (answer or "eof")
            stream.close()
        lines = [each.message for each in caplog.records if "443" in each.message]
        assert len(lines) == reported
        assert "v2 worker" in "".join(lines) or not reported
        assert "192.0.2.7" not in "".join(
            each.message for each in caplog.records if each.levelname != "DEBUG"
        )


async def test_tls_that_gets_silence_is_reported_when_the_application_gives_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with tunnel_and_worker(tls_patience=1.0) as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.connected(frame) and None
        for wait in (0, 1.1):
            peer = Peer(HELLO)
            stream = tunnel.open_stream("192.0.2.7", 443, peer)
            await eventually(lambda peer=peer: "connected" in peer.told)
            stream.mark_ready()
            await eventually(lambda peer=peer: not peer.data)
            await trio.sleep(wait)
            stream.close()
            assert ("v2 worker" in caplog.text) is bool(wait)


async def test_a_lost_session_is_no_sign_of_missing_tls(caplog: pytest.LogCaptureFixture) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        worker.on_connect = lambda served, frame: served.connected(frame) and None
        peer = Peer(HELLO)
        stream = tunnel.open_stream("192.0.2.7", 443, peer)
        await eventually(lambda: "connected" in peer.told)
        stream.mark_ready()
        await eventually(lambda: not peer.data)
        await drop(next(each for each in worker.served if each.session.open_streams))
        await eventually(lambda: 503 in peer.told)
        assert "v2 worker" not in caplog.text


TIMES = {"quiet": 0.3, "patience": 0.6}
LARGE = 6_000_000  # more than kernels and both ends hold


@pytest.mark.parametrize("upload", [True, False])
async def test_who_is_held_up_is_not_taken_for_dead(upload: bool) -> None:
    """An end that does not read cannot answer pings; that is v1's backpressure, not its death."""
    async with tunnel_and_worker(**TIMES) as (tunnel, worker):
        worker.link_options.update(TIMES)
        ends: list[TunnelTcpStream] = []
        worker.on_connect = lambda served, frame: ends.append(served.connected(frame))
        near = await tunnel.connect_tcp("far", 1)
        source, sink = (near, ends[0]) if upload else (ends[0], near)
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send_all, bytes(LARGE))
            await trio.sleep(2)
            assert not any(end.status != 1000 for end in worker.ends)
            with trio.fail_after(60):
                while received < LARGE:
                    received += len(await sink.receive_some())
        assert tunnel.stats()["channels_lost"] == 0


async def test_a_worker_that_is_silent_without_reason_is_dead() -> None:
    """Little was sent to it, so nothing can keep it from answering."""
    async with tunnel_and_worker(**TIMES) as (tunnel, worker):
        peer = Peer(b"a keystroke")
        worker.on_connect = lambda served, frame: served.connected(frame) and None
        stream = tunnel.open_stream("far", 1, peer)
        await eventually(lambda: "connected" in peer.told)
        carrier = next(each for each in worker.served if each.session.open_streams)
        carrier.connection.hold(trio.sleep_forever)
        stream.mark_ready()
        await eventually(lambda: 503 in peer.told)


async def test_a_worker_that_has_read_all_can_be_dead_too() -> None:
    async with tunnel_and_worker(**TIMES) as (tunnel, worker):
        ends: list[TunnelTcpStream] = []
        worker.on_connect = lambda served, frame: ends.append(served.connected(frame))
        near = await tunnel.connect_tcp("far", 1)
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(1_000_000))
            while received < 1_000_000:
                received += len(await ends[0].receive_some())
        await trio.sleep(1)  # a ping goes behind that, and is answered
        assert tunnel.stats()["channels_lost"] == 0
        carrier = next(each for each in worker.served if each.session.open_streams)
        carrier.connection.hold(trio.sleep_forever)
        await eventually(lambda: tunnel.stats()["channels_lost"] == 1)
