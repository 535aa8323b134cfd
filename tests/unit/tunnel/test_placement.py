"""Which channel takes a new stream, and how many there should be: decided without any I/O."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zks_lwip.protocol import Hello, SessionStats
from zks_lwip.tunnel.peers import TunnelStream
from zks_lwip.tunnel.placement import Placement

from ...kits.tunnel import Peer


class Session:
    """What is known of a session."""

    def __init__(self, streams: int) -> None:
        self.peer = Hello(streams=streams)
        self.stats = SessionStats()
        self.flow_controlled = True


class Channel:
    """A channel in name only."""

    def __init__(self, streams: int = 100) -> None:
        self.session: Any = Session(streams)
        self.streams: list[TunnelStream] = []
        self.can_connect = True
        self.going_away = False
        self.lost_since: float | None = None
        self.queued = 0


class Pool:
    """Channels, and what they are given."""

    def __init__(self, count: int, *, streams: int = 100, **options: Any) -> None:
        self.placement: Placement[Channel] = Placement(**options)
        self.channels: list[Channel] = []
        self.streams = streams
        self.now = 0.0
        for _ in range(count):
            self.open()

    def open(self) -> Channel:
        channel = Channel(self.streams)
        self.channels.append(channel)
        self.placement.add(channel, self.now)
        return channel

    def place(self, count: int = 1) -> list[int]:
        """Place streams; which channels they went to."""
        found = []
        for _ in range(count):
            channel = self.placement.choose(self.channels, self.now)
            if channel is None:
                break
            stream = TunnelStream("far", 1, Peer(), math.inf, lambda stream: None)
            self.placement.placed(channel, stream, self.now)
            channel.streams.append(stream)
            found.append(self.channels.index(channel))
        return found

    def refuse(self, number: int, code: int = 429) -> bool:
        """Have a channel refuse the last stream that it was given."""
        channel = self.channels[number]
        channel.streams.pop()
        return self.placement.refused(channel, code, self.now)

    def lacking(self, waiting: int) -> int:
        return self.placement.lacking(self.channels, waiting, self.now)

    @property
    def counts(self) -> list[int]:
        return [len(channel.streams) for channel in self.channels]


def test_the_oldest_channels_are_filled_and_the_others_left_alone() -> None:
    pool = Pool(3, streams=5)
    assert pool.place(5) == [0] * 5
    assert pool.place(5) == [1] * 5
    pool.channels[0].streams.clear()
    assert pool.place(5) == [0] * 5
    assert pool.place(9) == [2] * 5, "and then there is no room"


def test_of_those_that_are_needed_the_least_busy_one_is_taken() -> None:
    pool = Pool(2, streams=5)
    pool.place(6)
    pool.channels[0].streams.pop()
    pool.channels[0].queued = 10 << 20
    assert pool.place() == [1]
    pool.channels[0].queued = 0
    pool.channels[1].queued = 10 << 20
    pool.channels[0].streams.pop()
    assert pool.place() == [0]


def test_streams_are_spread_evenly_while_nothing_is_known_of_them() -> None:
    pool = Pool(4, spread=4)
    pool.place(12)
    assert pool.counts == [3, 3, 3, 3]


def test_new_streams_keep_away_from_bulk() -> None:
    pool = Pool(2, spread=2)
    pool.place(2)
    assert pool.counts == [1, 1]
    for _ in range(3):
        pool.placement.measure(pool.now)
        pool.now += 1.0
        pool.channels[0].session.stats.bytes_in += 5 << 20
    assert pool.placement.measure(pool.now) == pool.now + 1
    pool.place(20)
    assert pool.counts == [1, 21]
    pool.now += 1.0
    pool.placement.measure(pool.now)  # it has ended
    pool.place(20)
    assert pool.counts == [11, 31], "those that do nothing do not count"


def test_nothing_is_measured_where_there_is_no_choice_or_no_stream() -> None:
    pool = Pool(1)
    pool.place()
    assert pool.placement.measure(0.0) == math.inf
    pool.open()
    assert pool.placement.measure(0.0) == 1.0
    pool.channels[0].streams.clear()
    assert pool.placement.measure(5.0) == math.inf


@pytest.mark.parametrize(
    ("waiting", "streams", "expected"),
    [(0, 5, 0), (1, 5, 1), (6, 5, 2), (2000, 100, 16), (5, 0, 0)],
)
def test_how_many_channels_are_lacking(waiting: int, streams: int, expected: int) -> None:
    assert Pool(1, streams=streams).lacking(waiting) == expected


def test_for_what_has_much_to_say_or_is_being_resumed_one_waits() -> None:
    pool = Pool(1)
    pool.place(90)
    pool.channels[0].can_connect = False
    assert pool.place() == []
    assert pool.lacking(10) == 0
    assert pool.lacking(11) == 1, "that is more than it will take"
    assert 0 < pool.placement.due(0.0) < 0.1
    pool.channels[0].lost_since = 0.0
    assert pool.lacking(1000) == 0
    assert pool.placement.due(0.0) == math.inf, "the channel says when it is resumed"


def test_one_that_is_not_resumed_soon_is_not_waited_for_where_another_is_up() -> None:
    pool = Pool(2, streams=4)
    assert pool.place(5) == [0, 0, 0, 0, 1]
    pool.channels[1].can_connect, pool.channels[1].lost_since = False, 0.0
    assert pool.place() == [] and pool.lacking(3) == 0
    assert pool.placement.due(0.5) == 1.0
    pool.now = 1.0
    assert pool.lacking(3) == 1


def test_as_many_channels_as_were_asked_for_while_there_are_streams() -> None:
    pool = Pool(1, spread=4)
    assert pool.lacking(0) == 0 and pool.placement.kept == 1
    pool.place()
    assert pool.lacking(0) == 3 and pool.placement.kept == 4
    pool.open()
    assert pool.lacking(0) == 2


def test_less_room_than_was_said_is_expected_of_new_channels_too() -> None:
    pool = Pool(1)
    pool.place(20)
    for _ in range(15):
        assert pool.refuse(0)
    assert pool.place(15) == []
    assert pool.lacking(15) == 1, "one at first, to see"
    pool.open()
    assert pool.place(15) == [1] * 5
    assert pool.lacking(10) == 2
    pool.channels[0].streams.pop()
    assert pool.place(5) == [0], "for the one that has ended"
    pool.now += 31.0
    pool.open()
    assert len(pool.place(200)) > 50, "what it was like is forgotten"


def test_a_full_channel_is_tried_again_with_few_at_a_time() -> None:
    pool = Pool(1)
    pool.place(8)
    for _ in range(5):
        pool.refuse(0)
    assert pool.place() == []
    due = pool.placement.due(pool.now)
    assert pool.now < due <= 1.0
    pool.now = due
    assert pool.place(9) == [0], "one more"
    pool.refuse(0)
    assert pool.counts == [3] and pool.place() == []
    assert pool.placement.due(pool.now) == pool.now + 2, "later each time"
    for placed in (1, 2, 4, 8, 8):
        pool.now = pool.placement.due(pool.now)
        assert len(pool.place(99)) == placed
        for stream in pool.channels[0].streams[:17]:
            stream.on_connected()
    assert pool.counts == [26], "no more at a time before those have been connected"


def test_each_full_channel_is_tried_at_its_own_time() -> None:
    pool = Pool(2, spread=2)
    pool.place(4)
    pool.now = 5.0
    pool.refuse(0)
    pool.now = 5.5
    pool.refuse(1)
    assert pool.placement.due(5.5) == 6.0
    pool.channels[0].can_connect, pool.channels[0].going_away = False, True
    assert pool.placement.due(6.2) == 6.5


def test_a_stream_refused_by_one_that_goes_away_says_nothing_of_room() -> None:
    pool = Pool(1)
    pool.place(3)
    assert pool.refuse(0, 503)
    assert pool.place() == []
    pool.open()
    assert pool.place(50) == [1] * 50


def test_no_other_channel_helps_where_two_have_refused_all() -> None:
    pool = Pool(2)
    pool.place()
    assert pool.refuse(0), "another may help"
    pool.place()
    assert not pool.refuse(1)
    pool.now += 1.0
    assert pool.place() == [0]
    pool.channels[0].streams[0].on_connected()
    pool.now += 1.0
    pool.place()
    assert pool.refuse(1 if pool.counts[1] else 0), "the first one has helped"


def test_a_channel_that_has_ended_refuses_nothing() -> None:
    pool = Pool(2)
    pool.place()
    pool.placement.remove(pool.channels[0])
    assert pool.placement.refused(pool.channels[0], 429, 0.0)
