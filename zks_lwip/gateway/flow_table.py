"""The TCP connections that the gateway has: how many, which are held, which have lost their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ..stack import Reject
from .counters import GatewayCounters
from .flows import FlowInfo
from .policy import NO_ROOM

__all__ = ["HELD_SECONDS", "FlowTable", "TableEntry"]

HELD_SECONDS = 130.0
"""A held SYN is given up in silence after this time.

A kernel with Linux's default of six retries gives up after 127 s without telling, so nothing else
would end it if the worker forgot.
"""


class TableEntry(Protocol):
    """A connection in the :class:`FlowTable`."""

    since: float
    """When it came, by the gateway's clock."""

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it.

        :param now: by the gateway's clock.
        """

    def refuse(self, how: Reject) -> None:
        """End it, also towards the worker."""

    def end(self) -> None:
        """End it, whatever its state; both its ends see a reset."""

    def expire_orphan(self, unmoved: float) -> None:
        """End it if nothing is left to do for it; its application is gone.

        :param unmoved: seconds since bytes of it last moved, or else since it is an orphan.
        """


class FlowTable:
    """All connections, held and accepted, at most ``limit`` of them.

    Held ones are kept in the order in which they came: when the table is full, the oldest of them
    makes room, since it is the least likely to be still wanted. In silence: if it is, its kernel
    sends the SYN again, and that is a new connection.

    Orphans, as Linux calls them, are accepted connections whose application is gone, and which have
    bytes for the worker.

    :param limit: 1 or more.
    """

    __slots__ = ("_accepted", "_held", "_orphans", "clock", "counters", "limit")

    def __init__(
        self,
        limit: int,
        counters: GatewayCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.counters = counters
        """The gateway's, for its connections, too: here they take no memory of each."""
        self.clock = clock
        """The gateway's, likewise."""
        self._held: dict[TableEntry, None] = {}
        self._accepted: dict[TableEntry, None] = {}  # (a set takes twice the memory)
        self._orphans: dict[TableEntry, float] = {}  # when bytes of it last moved

    def __len__(self) -> int:
        return len(self._held) + len(self._accepted)

    def __iter__(self) -> Iterator[TableEntry]:
        yield from tuple(self._held)
        yield from tuple(self._accepted)

    @property
    def held(self) -> int:
        """How many connections wait for their far end."""
        return len(self._held)

    def make_room(self) -> bool:
        """Return whether one more fits, if need be after giving up the oldest held one."""
        if len(self._held) + len(self._accepted) < self.limit:
            return True
        self.counters.flows_over_limit += 1
        if not self._held:
            return False
        next(iter(self._held)).refuse(NO_ROOM)
        return True

    def hold(self, entry: TableEntry) -> None:
        """Add a connection whose SYN is held."""
        self._held[entry] = None

    def accept(self, entry: TableEntry) -> None:
        """Add a connection whose SYN went to the stack, or note that it did."""
        self._held.pop(entry, None)
        self._accepted[entry] = None

    def orphan(self, entry: TableEntry) -> None:
        """Note that the application of an accepted one is gone, or that bytes of it moved since.

        :meth:`TableEntry.expire_orphan` is called until it is removed.
        """
        self._orphans[entry] = self.clock()

    def remove(self, entry: TableEntry) -> None:
        """Forget a connection; harmless if it is forgotten already."""
        self._held.pop(entry, None)
        self._accepted.pop(entry, None)
        self._orphans.pop(entry, None)

    def expire(self, now: float) -> None:
        """Give up the held ones that are older than :data:`HELD_SECONDS`, and look at orphans.

        :param now: by the gateway's clock.
        """
        for entry, moved in tuple(self._orphans.items()):
            entry.expire_orphan(now - moved)
        late = [entry for entry in self._held if now - entry.since >= HELD_SECONDS]
        for entry in late:
            entry.refuse(NO_ROOM)
