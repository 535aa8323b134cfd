"""Which of the channels takes a new stream, and how many there should be.

A worker says in HELLO how many streams a session takes, and may have room for fewer: where it
refuses one (429), new channels are taken to have as little room as that one, for a while.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from ..protocol import ClientSession, Code
from .peers import TunnelStream

__all__ = ["MAX_AT_ONCE", "Placement"]

MAX_AT_ONCE = 16
"""Channels that may be opening at the same time."""

_PERIOD = 1.0
"""Seconds between two looks at how busy channels are."""
_UNIT = 64 << 10
"""Bytes that count as much as a stream of which nothing is known yet."""
_REMEMBERED = 30.0
"""Seconds for which the room that a channel turned out to have is expected of new ones."""
_POLL = 0.02
"""Seconds between two looks at whether a channel that has much to say can be given streams."""
_RESUMED_SOON = 1.0
"""Seconds for which a channel that was lost is waited for where another one is not: then what waits
gets one of its own."""
_FIRST_TRY, _LAST_TRY = 1.0, 8.0
"""Seconds until a channel that has refused a stream is given one more than it had room for: at
first, and at most."""


class PlacedChannel(Protocol):
    """What placement needs of a channel."""

    @property
    def session(self) -> ClientSession: ...
    @property
    def streams(self) -> Collection[object]: ...
    @property
    def going_away(self) -> bool: ...
    @property
    def lost_since(self) -> float | None: ...
    @property
    def can_connect(self) -> bool: ...
    @property
    def queued(self) -> int: ...


_C = TypeVar("_C", bound=PlacedChannel)


def _moved(channel: PlacedChannel) -> int:
    stats = channel.session.stats
    return stats.bytes_in + stats.bytes_out


class _Room:
    """What one channel has room for, and how busy it is."""

    __slots__ = (
        "_again",
        "_delay",
        "_growth",
        "_latest",
        "_probing",
        "bytes",
        "channel",
        "fresh",
        "limit",
        "rate",
        "useless",
    )

    def __init__(self, channel: PlacedChannel, expected: int | None, now: float) -> None:
        self.channel = channel
        peer = channel.session.peer
        said = 0 if peer is None else peer.streams
        #: Streams that it may have, as far as is known.
        self.limit = said if expected is None else min(said, expected)
        #: It has refused the only stream that it had.
        self.useless = False
        self.bytes = _moved(channel)
        #: Bytes a second, both ways, in the last period.
        self.rate = 0.0
        #: Streams that it was given since then.
        self.fresh = 0
        self._delay = _FIRST_TRY
        self._again = now + self._delay  # when to try whether it has more room
        self._growth = 1
        self._probing = False
        self._latest: TunnelStream | None = None  # that it was given

    @property
    def said(self) -> int:
        """Streams that it may have, by the worker's HELLO."""
        peer = self.channel.session.peer
        return 0 if peer is None else peer.streams

    def due(self) -> float:
        """Return when it can be tried although it is full."""
        return self._again if self.limit < self.said else math.inf

    def late(self) -> float:
        """Return when it has been without a WebSocket for too long; infinity: it has one."""
        lost = self.channel.lost_since
        return math.inf if lost is None else lost + _RESUMED_SOON

    def held_up(self, now: float) -> int:
        """Return how many streams it can be given when what it has to say has left, or it has a
        WebSocket again, which is expected soon."""
        channel = self.channel
        if channel.can_connect or channel.going_away or not channel.session.flow_controlled:
            return 0
        if now >= self.late():
            return 0
        return max(0, min(self.limit, self.said) - len(channel.streams))

    def may_take(self, now: float) -> bool:
        """Return whether it can be given another stream."""
        if self._latest is not None and self._latest.connected:
            self._latest = None
            self.useless = False
            if self._probing:
                self._probing = False
                self._growth *= 2
                self._delay = _FIRST_TRY
        if not self.channel.can_connect:
            return False
        count = len(self.channel.streams)
        return count < self.limit or (count < self.said and now >= self._again)

    def placed(self, stream: TunnelStream, now: float) -> None:
        """Take note of a stream that it was given."""
        count = len(self.channel.streams)
        if count >= self.limit:
            self.limit = min(count + self._growth, self.said)
            self._probing = True
            self._again = now + self._delay
        self._latest = stream
        self.fresh += 1

    def refused(self, room: int, now: float) -> None:
        """Take note that it has refused a stream, and has room for so many only."""
        self.limit = room
        self.useless = not self.channel.streams
        if self._probing:
            self._delay = min(2 * self._delay, _LAST_TRY)
            self._again = now + self._delay
        elif now >= self._again:
            self._delay = _FIRST_TRY
            self._again = now + self._delay
        self._growth = 1
        self._probing = False
        self._latest = None

    def measure(self, passed: float) -> None:
        """See how many bytes it has moved in the last so many seconds."""
        moved = _moved(self.channel)
        self.rate = (moved - self.bytes) / passed
        self.bytes = moved
        self.fresh = 0

    def load(self) -> tuple[int, int]:
        """Return what is on its way by the channel, or will be soon, in units; then its streams."""
        waiting = self.channel.queued + int(self.rate * _PERIOD)
        return waiting // _UNIT + self.fresh, len(self.channel.streams)


class Placement(Generic[_C]):
    """Knows the channels whose HELLO has come, the oldest first.

    :param spread: channels over which streams are spread although fewer have room for all.
    :param at_once: channels that may be opening at the same time.
    """

    def __init__(self, spread: int = 1, at_once: int = MAX_AT_ONCE) -> None:
        self._spread = spread
        self._at_once = at_once
        self._rooms: dict[_C, _Room] = {}
        self._least = 1  # what a channel has turned out to have room for
        self._learned = -math.inf
        self._measured = -math.inf

    def add(self, channel: _C, now: float) -> None:
        """Take note of a new channel."""
        self._rooms[channel] = _Room(channel, self._least if self._guesses(now) else None, now)

    def remove(self, channel: _C) -> None:
        """Forget a channel."""
        del self._rooms[channel]

    def _guesses(self, now: float) -> bool:
        return now < self._learned + _REMEMBERED

    # what becomes of streams

    def choose(self, channels: Sequence[_C], now: float) -> _C | None:
        """Return the one of some channels that a new stream goes to, None if none has room.

        The least busy one; but of the oldest only, as many as have room for all streams (or as they
        are to be spread over), so that the others become idle.
        """
        if len(channels) == 1:
            return channels[0] if self._rooms[channels[0]].may_take(now) else None
        needed = sum(len(channel.streams) for channel in channels) + 1
        candidates: list[_C] = []
        for number, channel in enumerate(channels):
            if candidates and needed <= 0 and number >= self._spread:
                break
            room = self._rooms[channel]
            needed -= room.limit
            if room.may_take(now):
                candidates.append(channel)
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        return min(candidates, key=lambda channel: self._rooms[channel].load())

    def placed(self, channel: _C, stream: TunnelStream, now: float) -> None:
        """Take note that a channel is being given a stream."""
        self._rooms[channel].placed(stream, now)

    def refused(self, channel: _C, code: int, now: float) -> bool:
        """Take note that a channel has refused a stream, which is not among its streams any more.

        :returns: whether opening another may help: not where the worker has refused the only
            streams of two channels.
        """
        room = self._rooms.get(channel)
        if room is None:  # it has ended since
            return True
        count = len(channel.streams) if code == Code.TOO_MANY_STREAMS else 0
        room.refused(count, now)
        if count:
            self._least, self._learned = count, now
        elif room.useless:
            self._learned = -math.inf
        return sum(each.useless for each in self._rooms.values()) < 2

    # what is to be done

    def lacking(self, channels: Sequence[_C], waiting: int, now: float) -> int:
        """Return how many channels should be opening now, besides those that there are.

        :param waiting: streams that none of them has room for.
        """
        rooms = [self._rooms[channel] for channel in channels]
        if all(channel.lost_since is not None for channel in channels):
            return 0
        wanted = 0
        at_once = self._at_once
        said = max(room.said for room in rooms)
        waiting -= sum(room.held_up(now) for room in rooms)
        if waiting > 0 and said:
            wanted = math.ceil(waiting / (min(said, self._least) if self._guesses(now) else said))
            if self._guesses(now):  # see what the next ones have room for
                at_once = min(at_once, len(channels))
        if any(channel.streams for channel in self._rooms):
            wanted = max(wanted, self._spread - len(channels))
        return min(wanted, at_once)

    @property
    def kept(self) -> int:
        """How many channels are kept although some of them are idle."""
        return self._spread if any(channel.streams for channel in self._rooms) else 1

    def due(self, now: float) -> float:
        """Return when a channel that takes no stream now can be tried again, or is given up."""
        rooms = self._rooms.values()
        if any(room.channel.lost_since is None and room.held_up(now) for room in rooms):
            return now + _POLL
        dues = [room.due() for room in rooms]
        if any(room.channel.lost_since is None for room in rooms):  # else nothing helps
            dues += [room.late() for room in rooms]
        return min((due for due in dues if due > now), default=math.inf)

    def measure(self, now: float) -> float:
        """Look at how busy the channels are, where there is a choice.

        :returns: when to look again.
        """
        if len(self._rooms) < 2:
            return math.inf
        passed = now - self._measured
        if passed >= _PERIOD:
            self._measured = now
            for room in self._rooms.values():
                room.measure(passed)
        busy = any(channel.streams for channel in self._rooms)
        return self._measured + _PERIOD if busy else math.inf
