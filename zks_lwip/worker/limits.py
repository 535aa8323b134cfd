"""What one token may use of a worker, and how many descriptors the worker has in all."""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..tunnel.credit import Budget

__all__ = ["Account", "Descriptors", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one token (for everybody together, where there are no tokens)."""

    streams: int = 16384
    """Open TCP streams, over all sessions."""
    sessions: int = 64
    """WebSockets at a time."""
    held: int = 256 << 20
    """Bytes taken from the client that far ends have not taken yet."""
    connects: float = 4096.0
    """New connections a second, over some seconds; four seconds' worth may come at once."""
    associations: int = 4096
    """UDP associations of one session."""
    requests: int = 256
    """DNS queries in flight of one session."""
    connecting: int = 4096
    """Streams that are not connected yet: each has a task until it is."""
    queries: int = 512
    """DNS queries in flight, over all sessions, and look-ups of names for streams."""
    echoes: int = 1024
    """ICMP echoes in flight, over all sessions."""


class Descriptors:
    """A budget of file descriptors, so that what is there keeps working when too much is asked.

    :param parent: the budget that this one is a share of.
    """

    __slots__ = ("_parent", "free", "total")

    def __init__(self, total: int, parent: Descriptors | None = None) -> None:
        self.total = total
        self.free = total
        self._parent = parent

    def resize(self, total: int) -> None:
        """Make it ``total``; what is taken beyond that stays taken until it is given back."""
        self.free += total - self.total
        self.total = total

    def take(self) -> None:
        """Count one more. Raises OSError (EMFILE) when none is left."""
        if self.free <= 0:
            raise OSError(errno.EMFILE, "the worker has no descriptor left")
        if self._parent is not None:
            self._parent.take()
        self.free -= 1

    def give(self) -> None:
        """One was closed."""
        self.free += 1
        if self._parent is not None:
            self._parent.give()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One more for the length of a ``with`` block. Raises OSError (EMFILE) as :meth:`take`."""
        self.take()
        try:
            yield
        finally:
            self.give()


class QueryBudget:
    """What one token may ask of the name servers at a time, in questions and in sockets.

    :param limit: most questions in flight.
    """

    __slots__ = ("descriptors", "in_flight", "limit")

    def __init__(self, limit: int, descriptors: Descriptors) -> None:
        self.limit = limit
        self.descriptors = descriptors
        self.in_flight = 0

    def begin(self) -> bool:
        """Count one more, which :meth:`end` has to follow; False: there is no room."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def end(self) -> None:
        """One was answered, or given up."""
        self.in_flight -= 1


def _part(descriptors: Descriptors) -> int:
    """How many of a token's descriptors its DNS queries may take."""
    return max(descriptors.total // 4, min(descriptors.total, 16))


class Account:
    """What one token uses now, over all its sessions."""

    __slots__ = (
        "_allowance",
        "_refilled",
        "budget",
        "connecting",
        "descriptors",
        "echoes",
        "held",
        "limits",
        "queries",
        "sessions",
        "streams",
        "udp",
        "v1",
    )

    _BURST = 4.0  # seconds' worth of new connections

    def __init__(self, limits: Limits, descriptors: Descriptors) -> None:
        self.limits = limits
        #: this token's share of the worker's descriptors
        self.descriptors = descriptors
        self.streams = 0
        self.connecting = 0
        self.sessions = 0
        #: those of protocol v1 among them, each of which is one stream
        self.v1 = 0
        #: a part of the descriptors: names that nobody answers for leave some for streams
        self.queries = QueryBudget(limits.queries, Descriptors(_part(descriptors), descriptors))
        #: likewise, for associations
        self.udp = Descriptors(max(1, descriptors.total // 2), descriptors)
        #: ICMP echoes in flight by their sequence numbers, and whose they are; the oldest first
        self.echoes: OrderedDict[int, Any] = OrderedDict()
        self.held = 0
        #: bounds how far the windows of this token's streams grow
        self.budget = Budget(limits.held // 2)
        self._allowance = limits.connects * self._BURST
        self._refilled = time.monotonic()

    def resize(self, share: int) -> None:
        """The token's share of the descriptors is another now."""
        self.descriptors.resize(share)
        self.queries.descriptors.resize(_part(self.descriptors))
        self.udp.resize(max(1, self.descriptors.total // 2))

    @property
    def idle(self) -> bool:
        """Nothing is used: the account can be forgotten."""
        return not (self.streams or self.sessions or self.held)

    def refusal(self) -> str | None:
        """Why no new connection may be made now; None: it may, and has been counted."""
        limits = self.limits
        if self.streams >= limits.streams:
            return f"{limits.streams} streams are open for this token"
        if self.connecting >= limits.connecting:
            return f"{limits.connecting} streams are being connected for this token"
        now = time.monotonic()
        earned = (now - self._refilled) * limits.connects
        self._allowance = min(limits.connects * self._BURST, self._allowance + earned)
        self._refilled = now
        if self._allowance < 1:
            return f"more than {limits.connects:g} new connections a second"
        self._allowance -= 1
        return None
