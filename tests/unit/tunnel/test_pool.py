"""Which channels there are, which stream goes where, and what becomes of both in a loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from zks_lwip.protocol import GoAwayReceived, Settings, StreamOpened
from zks_lwip.tunnel.peers import TunnelStream
from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.tunnel import Datagrams, Peer, Served, Worker, drop, eventually, tunnel_and_worker

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


async def test_a_channel_that_is_being_closed_gets_no_new_stream() -> None:
    async with tunnel_and_worker(Settings(streams=1)) as (tunnel, worker):
        first, second, late = Peer(b"first"), Peer(b"second"), Peer(b"late")
        tunnel.open_stream("far", 1, first)
        ending = tunnel.open_stream("far", 1, second)
        await eventually(lambda: b"second" in second.told and b"first" in first.told)
        channel = ending.channel
        ending.close()
        await eventually(lambda: channel.can_connect)
        channel.close(1000, "not needed")
        tunnel.open_stream("far", 1, late)
        await eventually(lambda: b"late" in late.told)
        assert late.told == ["connected", b"late"]
        assert tunnel.stats()["channels_lost"] == 0


async def test_no_more_channels_than_allowed() -> None:
    async with tunnel_and_worker(Settings(streams=1), max_channels=2) as (tunnel, _):
        peers = [Peer(b"x") for _ in range(3)]
        streams = [tunnel.open_stream("far", 1, peer) for peer in peers]
        await eventually(lambda: b"x" in peers[1].told)
        assert tunnel.stats()["channels"] == 2 and peers[2].told == []
        streams[0].close()  # makes room for the third
        await eventually(lambda: b"x" in peers[2].told)


class Speaker(Peer):
    """Speaks when it is connected."""

    stream: TunnelStream

    def on_connected(self) -> None:
        super().on_connected()
        self.stream.mark_ready()


def open_many(tunnel: Tunnel, count: int) -> list[Speaker]:
    """Open so many streams at once, each of which has something to send when it is connected."""
    peers = [Speaker(b"%d" % number) for number in range(count)]
    for peer in peers:
        peer.stream = tunnel.open_stream("far", 1, peer)
    return peers


def all_answered(peers: list[Speaker]) -> bool:
    """Each has got what it sent, and nothing else."""
    return all(peer.told == ["connected", b"%d" % n] for n, peer in enumerate(peers))


def refuse_beyond(
    worker: Worker, room: Callable[[Served], int], code: int = 429
) -> Callable[[], int]:
    """Have sessions refuse streams beyond ``room`` of them; how many were refused."""
    echo, refused = worker.on_connect, 0

    def on_connect(served: Served, frame: StreamOpened) -> None:
        nonlocal refused
        if served.session.open_streams > room(served):
            refused += 1
            served.session.error(frame.stream, code, "full")
        else:
            echo(served, frame)

    worker.on_connect = on_connect
    return lambda: refused


def number_of(served: Served) -> int:
    return served.worker.served.index(served)


@pytest.mark.parametrize(("count", "streams"), [(200, 5), (2000, 100)])
async def test_many_connections_at_once_over_channels_of_few_streams(
    count: int, streams: int
) -> None:
    async with tunnel_and_worker(Settings(streams=streams)) as (tunnel, worker):
        peers = open_many(tunnel, count)
        await eventually(lambda: all_answered(peers))
        assert tunnel.stats()["channels"] == count // streams
        assert tunnel.stats()["streams_moved"] == 0
        assert all(len(served.peers) == streams for served in worker.served)


@pytest.mark.parametrize("code", [429, 503])
async def test_a_stream_that_is_refused_goes_to_another_channel(code: int) -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        refuse_beyond(worker, lambda served: 0 if number_of(served) == 0 else 1000, code)
        peers = open_many(tunnel, 3)
        await eventually(lambda: all_answered(peers))
        assert tunnel.stats()["channels"] == 2
        assert tunnel.stats()["streams_moved"] == 3


async def test_a_worker_with_less_room_than_it_said() -> None:
    async with tunnel_and_worker(Settings(streams=100)) as (tunnel, worker):
        refused = refuse_beyond(worker, lambda served: 5)
        peers = open_many(tunnel, 200)
        await eventually(lambda: all_answered(peers))
        assert tunnel.stats()["channels"] == 40
        # Those that the first was given too many; what it had room for is then known. (On a slow
        # machine it takes so long that some are tried with more meanwhile.)
        assert 95 <= refused() == tunnel.stats()["streams_moved"] < 200


async def test_what_has_sent_data_goes_elsewhere_with_it() -> None:
    """As with ``--fast-connect``: applications send before the far end is connected."""
    async with tunnel_and_worker() as (tunnel, worker):
        settled = trio.Event()
        echo = worker.on_connect

        def on_connect(served: Served, frame: StreamOpened) -> None:
            if number_of(served):
                echo(served, frame)
            else:
                worker.nursery.start_soon(refuse, served, frame)

        async def refuse(served: Served, frame: StreamOpened) -> None:
            await settled.wait()
            served.session.error(frame.stream, 429, "full")

        worker.on_connect = on_connect
        early = b"already on its way" * 2000  # 36 kB
        peer = Ending(early)
        peer.stream = tunnel.open_stream("far", 1, peer)
        peer.stream.mark_ready()
        await eventually(lambda: worker.served[0].session.stats.data_in)
        await trio.sleep(0.1)
        assert 0 < len(early) - len(peer.data) <= 16384, "more left than is kept"
        settled.set()
        await eventually(lambda: peer.told[-1:] == ["eof"])
        assert peer.told[0] == "connected"
        assert b"".join(peer.told[1:-1]) == early


class Ending(Speaker):
    """Has an end of stream behind its data."""

    def pull_into(self, view: memoryview) -> int | None:  # type: ignore[override]
        return super().pull_into(view) or (None if not self.data else 0)

    def on_data(self, payload: memoryview) -> None:
        super().on_data(payload)
        self.stream.consumed(len(payload))


async def test_where_no_channel_has_room_the_application_is_told_nothing_of_the_far_end() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        refused = refuse_beyond(worker, lambda served: 0)
        (peer,) = open_many(tunnel, 1)
        await eventually(lambda: peer.told)
        assert peer.told == [429]
        assert refused() == 2, "another channel was tried"
        began = trio.current_time()
        for _ in range(20):
            open_many(tunnel, 1)
            await trio.sleep(0.01)
        # a worker that has no room at all is not stormed with channels
        assert tunnel.stats()["channels"] <= 3 + (trio.current_time() - began) / 0.01 / 4


async def test_a_channel_that_was_full_is_tried_again() -> None:
    full = True
    async with tunnel_and_worker(max_channels=1) as (tunnel, worker):
        refuse_beyond(worker, lambda served: 3 if full else 1000)
        open_many(tunnel, 9)
        await eventually(lambda: len(worker.served[0].peers) == 3)
        await trio.sleep(0.05)
        assert tunnel.stats()["waiting"] == 6
        full = False  # of which the worker says nothing
        await eventually(lambda: len(worker.served[0].peers) > 3)


async def test_streams_that_wait_get_the_room_of_those_that_end() -> None:
    async with tunnel_and_worker(max_channels=1) as (tunnel, worker):
        refuse_beyond(worker, lambda served: 3)
        tasks = 60
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            stream = await tunnel.connect_tcp("far", 1)
            async with stream:
                await stream.send_all(b"%d" % number)
                assert await stream.receive_some() == b"%d" % number
                await stream.send_eof()
                assert await stream.receive_some() == b""
            done += 1

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(tasks):
                    nursery.start_soon(one, number)
        assert done == tasks
        assert tunnel.stats()["streams_refused_here"] == 0


async def test_a_worker_that_takes_no_more_sessions_makes_streams_wait() -> None:
    async with tunnel_and_worker(Settings(streams=2)) as (tunnel, worker):
        worker.max_sessions = 3
        peers = open_many(tunnel, 8)
        await eventually(lambda: sum(bool(peer.told) for peer in peers) == 6)
        await eventually(lambda: tunnel.stats()["connect_failures"])
        assert tunnel.up and tunnel.stats()["channels"] == 3
        for peer in peers[:2]:
            peer.stream.close()
        await eventually(lambda: all(peer.told[:1] == ["connected"] for peer in peers))


async def test_the_loss_of_a_channel_touches_its_streams_only() -> None:
    async with tunnel_and_worker(Settings(streams=2)) as (tunnel, worker):
        peers = open_many(tunnel, 6)
        await eventually(lambda: all_answered(peers))
        await drop(worker.served[1])
        await eventually(lambda: sum(503 in peer.told for peer in peers) == 2)
        await eventually(lambda: tunnel.stats()["channels"] == 2)
        for peer in peers:
            peer.data += b"still"
            peer.stream.mark_ready()
        await eventually(lambda: sum(b"still" in peer.told for peer in peers) == 4)
        assert tunnel.up


async def test_datagrams_and_questions_move_when_their_channel_is_lost() -> None:
    settings = Settings(streams=1, udp=True, dns=True)
    async with tunnel_and_worker(settings) as (tunnel, worker):
        peers = open_many(tunnel, 2)
        await eventually(lambda: all_answered(peers))
        told = Datagrams()
        association = tunnel.open_association(told)
        assert association.send("192.0.2.1", 7, b"one")
        await eventually(lambda: told.told)
        await drop(worker.served[0])
        await eventually(lambda: tunnel.stats()["channels_lost"] == 1)
        assert association.send("192.0.2.1", 7, b"two")
        await eventually(lambda: told.told[1:] == [("192.0.2.1", 7, b"two")])
        assert await tunnel.dns_query(b"abc") == b"cba"


async def test_streams_are_spread_over_as_many_channels_as_were_asked_for() -> None:
    async with tunnel_and_worker(channels=4, idle_channel=0.3) as (tunnel, worker):
        await trio.sleep(0.1)
        assert tunnel.stats()["channels"] == 1, "they are opened for streams"
        first = open_many(tunnel, 1)
        await eventually(lambda: tunnel.stats()["channels"] == 4)
        peers = open_many(tunnel, 11)
        await eventually(lambda: all_answered(first) and all_answered(peers))
        assert [len(served.peers) for served in worker.served] == [3, 3, 3, 3]
        await trio.sleep(0.5)
        for peer in peers:
            peer.stream.close()
        await trio.sleep(0.5)
        assert tunnel.stats()["channels"] == 4, "kept while there are streams"
        first[0].stream.close()
        await eventually(lambda: tunnel.stats()["channels"] == 1)
        assert tunnel.stats()["channels_lost"] == 0


async def test_channels_for_a_burst_become_idle_although_streams_come_and_go() -> None:
    settings = Settings(streams=5)
    async with tunnel_and_worker(settings, idle_channel=0.3) as (tunnel, _):
        peers = open_many(tunnel, 40)
        await eventually(lambda: all_answered(peers))
        assert tunnel.stats()["channels"] == 8
        for peer in peers:
            peer.stream.close()

        async def come_and_go() -> None:
            while True:
                for peer in open_many(tunnel, 3):
                    while not peer.told:
                        await trio.sleep(0.001)
                    peer.stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_and_go)
            await eventually(lambda: tunnel.stats()["channels"] == 1)
            nursery.cancel_scope.cancel()


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
        assert any(isinstance(event, StreamOpened) for event in worker.served[1].events)
        assert not any(isinstance(event, GoAwayReceived) for event in worker.served[1].events)
