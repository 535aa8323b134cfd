"""Flow control of streams: what a receiver grants, and how much (PROTOCOL.md §4).

A window starts at what HELLO said, and a bit above where the budget is generous. Whenever the
consumer takes a whole window within two round trips the window, not the consumer, is what limits
the stream: it doubles, or becomes what a stream starts with at best if that is more. It gives the
surplus back when the consumer has become slow, or others need it. One ``Budget`` bounds the surplus
of all streams that share it, so memory stays bounded however many streams there are.
"""

from __future__ import annotations

from ._hello import MAX_WINDOW

__all__ = ["Budget", "ReceiveWindow", "RoundTrip"]

MOST = 4 << 20
"""Bytes to which a window grows on any path."""
FAST = 1.25e9
"""Bytes a second (10 Gbit/s) that a window may grow to carry on a long path, to ``LONG_MOST``."""
LONG_MOST = 64 << 20

_LEAST_TRIP = 0.02  # seconds: what two busy processes may need on the shortest path
_QUICK, _SLOW = 2.0, 16.0  # round trips in which a window drains when it is too small, too large


class Budget:
    """Bytes by which all windows that share it may exceed what HELLO said, together.

    A window may grow to as much as is left for all others (dynamic thresholds: Choudhury and Hahne,
    1998): a lone one to half of it, many to equal shares, and there is always something left for
    the next. One that is larger shrinks as it is granted anew; credit is never taken back.

    :param opening: most that a stream gets at its start.
    """

    __slots__ = ("opening", "size", "used")

    _CAUTION = 256  # of what is left, a new stream gets that part: most need little, and keep it

    def __init__(self, size: int = 64 << 20, *, opening: int = 0) -> None:
        self.size = size
        self.opening = opening
        self.used = 0

    @property
    def left(self) -> int:
        return max(0, self.size - self.used)

    def room(self, surplus: int) -> int:
        """By how much a window with that surplus may grow; negative: has to shrink."""
        return (self.size - self.used - surplus) // 2

    def first(self) -> int:
        """How large a window may be at its start."""
        return min(self.opening, self.left // self._CAUTION)

    def take(self, amount: int) -> None:
        self.used += amount

    def give(self, amount: int) -> None:
        self.used -= amount


class RoundTrip:
    """A smoothed round trip, in seconds, from PING to PONG; 0.0 until one was measured."""

    __slots__ = ("_sent", "estimate", "last")

    INTERVAL = 1.0
    """Least seconds between two measurements that are made for the windows' sake."""

    def __init__(self) -> None:
        self.estimate = 0.0
        self.last = float("-inf")
        self._sent: float | None = None

    @property
    def pending(self) -> bool:
        return self._sent is not None

    def is_stale(self, now: float) -> bool:
        return self._sent is None and now - self.last >= self.INTERVAL

    def sent(self, now: float) -> None:
        """A question left; while one is open, later ones are not measured."""
        if self._sent is None:
            self._sent = self.last = now

    def answered(self, now: float) -> None:
        """An answer came; one that nobody asked for is ignored."""
        if self._sent is None:
            return
        sample = max(now - self._sent, 1e-6)
        self._sent = None
        self.estimate += (sample - self.estimate) * (0.25 if self.estimate else 1.0)


class ReceiveWindow:
    """The receiving direction of one stream.

    Every byte of ``size`` is in one of four places: ``available`` (the peer may send it), ``held``
    (received, not consumed), ``consumed`` (consumed, not granted again), ``due`` (in a grant that
    has not left yet).
    """

    __slots__ = ("available", "budget", "consumed", "due", "held", "initial", "since", "size")

    def __init__(self, size: int, budget: Budget) -> None:
        self.initial = self.size = self.available = size
        self.held = self.consumed = self.due = 0
        self.since = 0.0
        self.budget = budget

    def open_up(self) -> int:
        """At the start: credit beyond what HELLO said, for a WINDOW that follows CONNECT."""
        credit = max(0, min(self.budget.first(), MAX_WINDOW) - self.size)
        self.budget.take(credit)
        self.size += credit
        self.available += credit
        return credit

    def take(self, size: int) -> bool:
        """Count ``size`` bytes that came; False if that is more than was granted."""
        if size > self.available:
            return False
        self.available -= size
        self.held += size
        return True

    def consume(self, size: int) -> bool:
        """Count ``size`` bytes that the consumer took; True when it is time to grant.

        Raises ValueError for more than is held.
        """
        if not 0 <= size <= self.held:
            raise ValueError(f"{size} bytes consumed of {self.held} that came")
        self.held -= size
        self.consumed += size
        return self.consumed * 2 >= self.size

    def grant(self, now: float, round_trip: float) -> None:
        """Put what was consumed into ``due``; more if the window is too small, less if large."""
        credit = self.consumed
        if not credit:
            return
        self.consumed = 0
        surplus = self.size - self.initial
        room = self.budget.room(surplus)
        change = 0
        if room < 0:
            change = -min(credit, surplus, -room)
        elif round_trip and self.since:
            drain = (now - self.since) * self.size / credit
            trip = max(round_trip, _LEAST_TRIP)
            if drain < _QUICK * trip:
                most = min(MAX_WINDOW, max(MOST, min(LONG_MOST, int(FAST * round_trip))))
                more = max(self.size, self.budget.opening - self.size)
                change = max(0, min(more, most - self.size, room))
            elif drain > _SLOW * trip:
                change = -min(credit // 2, surplus)
        self.budget.take(change)
        self.size += change
        credit += change
        self.since = now
        self.due += credit

    def hand_out(self) -> int:
        """The credit that a WINDOW frame carries now."""
        credit = self.due
        self.due = 0
        self.available += credit
        return credit

    def release(self) -> None:
        """The stream is gone: its surplus goes back to the budget."""
        self.budget.give(self.size - self.initial)
        self.size = self.initial
