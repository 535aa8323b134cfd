"""The window of one stream: what its receiver has granted, and grants next (PROTOCOL.md §4).

A window starts at what HELLO said, and a bit above where the budget is generous. Whenever the
consumer takes a whole window within four round trips the window, not the consumer, is what limits
the stream: it doubles, or becomes what a stream starts with at best if that is more. It gives the
surplus back when the consumer has become slow, or others need it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .._lwip import ffi, lib
from .credit import Budget
from .hello import MAX_WINDOW

__all__ = ["MAX_GROWTH", "ReceiveWindow"]

MAX_GROWTH = 4 << 20
"""Bytes to which a window grows on any path."""
FAST = 1.25e9
"""Bytes a second (10 Gbit/s) that a window may grow for on a long path, to ``MAX_LONG``."""
MAX_LONG = 64 << 20

_MIN_TRIP = 0.02
"""Seconds that two busy processes may need on the shortest path."""
_QUICK, _SLOW = 4.0, 16.0
"""Round trips in which a window drains when it is too small, and when it is too large. One that has
just doubled drains in two and a bit: what it grew by is still on its way to the peer."""

_new_stream = partial(ffi.new, ffi.typeof("struct zks_mux_stream *"))
_consume = lib.zks_mux_consume
_address = ffi.addressof


class ReceiveWindow:
    """The receiving direction of one stream.

    Every byte of ``size`` is in one of four places: ``available`` (the peer may send it), ``held``
    (received, not consumed), ``consumed`` (consumed, not granted again), ``due`` (in a grant that
    has not left yet). They are in C, which counts what comes and goes without Python: a
    ``struct zks_mux_stream``, on which this is a view.
    """

    __slots__ = ("budget", "c")

    def __init__(self, size: int, budget: Budget) -> None:
        # The struct owns its memory, as the pointer to it does, which takes 64 bytes more.
        self.c = c = _new_stream()[0]
        c.initial = c.size = c.available = size
        self.budget = budget

    @classmethod
    def of(cls, c: Any, budget: Budget) -> ReceiveWindow:
        """Return the window that is in ``c``."""
        window = cls.__new__(cls)
        window.c = c
        window.budget = budget
        return window

    @property
    def size(self) -> int:
        """Bytes of the window."""
        return int(self.c.size)

    @property
    def initial(self) -> int:
        """Bytes that it has at least."""
        return int(self.c.initial)

    @property
    def available(self) -> int:
        """Bytes that the peer may send."""
        return int(self.c.available)

    @property
    def held(self) -> int:
        """Bytes that came and are not consumed."""
        return int(self.c.held)

    @property
    def consumed(self) -> int:
        """Bytes that were consumed and are not granted again."""
        return int(self.c.consumed)

    @property
    def due(self) -> int:
        """Bytes of a grant that has not left."""
        return int(self.c.due)

    @property
    def since(self) -> float:
        """When it was last granted, in seconds; 0.0: not yet."""
        return float(self.c.since)

    @since.setter
    def since(self, since: float) -> None:
        self.c.since = since

    def open_up(self) -> int:
        """At the start: credit beyond what HELLO said, for a WINDOW that follows CONNECT."""
        size = self.c.size
        credit = max(0, min(self.budget.first(), MAX_WINDOW) - size)
        if credit:
            self.budget.take(credit)
            self.c.size = size + credit
            self.c.available += credit
        return int(credit)

    def take(self, size: int) -> bool:
        """Count ``size`` bytes that came; False if that is more than was granted."""
        if size > self.available:
            return False
        self.c.available -= size
        self.c.held += size
        return True

    def consume(self, size: int) -> bool:
        """Count ``size`` bytes that the consumer took; True when it is time to grant.

        :raises ValueError: for more than is held.
        """
        due = _consume(_address(self.c), size) if 0 <= size <= MAX_WINDOW else -1
        if due < 0:
            raise ValueError(f"{size} bytes consumed of {self.held} that came")
        return bool(due)

    def grant(self, now: float, round_trip: float) -> None:
        """Put what was consumed into ``due``; more if the window is too small, less if large."""
        c = self.c
        credit = c.consumed
        if not credit:
            return
        c.consumed = 0
        size = c.size
        since = c.since
        surplus = size - c.initial
        room = self.budget.room(surplus)
        change = 0
        if room < 0:
            change = -min(credit, surplus, -room)
        elif round_trip and since:
            drain = (now - since) * size / credit
            trip = max(round_trip, _MIN_TRIP)
            if drain < _QUICK * trip:
                most = min(MAX_WINDOW, max(MAX_GROWTH, min(MAX_LONG, int(FAST * round_trip))))
                more = max(size, self.budget.opening - size)
                change = max(0, min(more, most - size, room))
            elif drain > _SLOW * trip:
                change = -min(credit // 2, surplus)
        self.budget.take(change)
        c.size = size + change
        c.since = now
        c.due += credit + change

    def hand_out(self) -> int:
        """Return the credit that a WINDOW frame carries now, and count it as given."""
        c = self.c
        credit = int(c.due)
        c.due = 0
        c.available += credit
        return credit

    def release(self) -> None:
        """Give the surplus back to the budget: the stream is gone."""
        self.budget.give(self.c.size - self.c.initial)
        self.c.size = self.c.initial
