"""Streams that wait for a channel."""

from __future__ import annotations

from zks_lwip.tunnel.peers import StreamPeer, TunnelStream
from zks_lwip.tunnel.waiting import WaitingStreams

from ...kits.tunnel import Peer


def waiting_stream(waiting: WaitingStreams, deadline: float, peer: StreamPeer) -> TunnelStream:
    stream = TunnelStream("far", 1, peer, deadline, waiting.forget)
    waiting.add(stream)
    return stream


def test_they_are_taken_in_the_order_in_which_they_came() -> None:
    waiting = WaitingStreams(10)
    streams = [waiting_stream(waiting, 10.0, Peer()) for _ in range(3)]
    streams[1].close()
    assert len(waiting) == 2
    assert [waiting.take(), waiting.take()] == [streams[0], streams[2]]
    assert not waiting


def test_each_waits_until_its_deadline() -> None:
    waiting, peers = WaitingStreams(10), [Peer() for _ in range(3)]
    for peer, deadline in zip(peers, (7.0, 5.0, 9.0), strict=True):
        waiting_stream(waiting, deadline, peer)
    assert waiting.due == 5.0
    waiting.end_late(4.9)
    assert [peer.told for peer in peers] == [[], [], []]
    waiting.end_late(7.0)
    assert [peer.told for peer in peers] == [[503], [503], []]
    assert (waiting.due, waiting.refused, len(waiting)) == (9.0, 2, 1)


def test_a_stream_that_was_refused_ends_with_the_last_refusal() -> None:
    waiting, peer = WaitingStreams(10), Peer()
    stream = waiting_stream(waiting, 5.0, peer)
    waiting.take().on_refused(429, "full")
    waiting.add(stream)
    waiting.end_late(5.0)
    assert peer.told == [429]


def test_one_too_many_is_told_later() -> None:
    waiting, peers = WaitingStreams(2), [Peer() for _ in range(4)]
    for peer in peers:
        waiting_stream(waiting, 5.0, peer)
    assert waiting.full and len(waiting) == waiting.refused == 2
    assert all(not peer.told for peer in peers)
    assert waiting.due < 0.0
    waiting.end_late(0.0)
    assert [peer.told for peer in peers] == [[], [], [503], [503]]
    assert waiting.due == 5.0


def test_who_is_told_may_close_or_open_others() -> None:
    waiting = WaitingStreams(2)

    class Busy(Peer):
        def on_end(self, code: int, message: str) -> None:
            super().on_end(code, message)
            other.close()
            waiting_stream(waiting, 5.0, last)

    last, silent = Peer(), Peer()
    waiting_stream(waiting, 5.0, Busy())
    other = waiting_stream(waiting, 5.0, silent)
    waiting.end_late(5.0)
    assert silent.told == [] and len(waiting) == 1
    waiting.end_late(5.0)
    assert last.told == [503] and not waiting


def test_at_the_end_all_are_told_at_once() -> None:
    waiting, peers = WaitingStreams(1), [Peer(), Peer()]
    for peer in peers:
        waiting_stream(waiting, 5.0, peer)
    waiting.end_all(503, "stopped")
    assert [peer.told for peer in peers] == [[503], [503]]
    assert not waiting
