"""Fairness between the sources of queries: turns while they queue, and who gives way when full.

A source is whatever queries are told apart by: the address and port of an application's socket.
Every operation takes constant time, whatever the number of sources: they are many in a flood.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["RoundRobinQueue", "Shares"]

T = TypeVar("T", bound=Hashable)


class RoundRobinQueue(Generic[T]):
    """Items that wait; their sources take turns, each with its oldest item."""

    def __init__(self) -> None:
        self._sources: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, source: Hashable, item: T) -> None:
        """Add an item as the newest of ``source``."""
        self._sources.setdefault(source, OrderedDict())[item] = None
        self._count += 1

    def pop(self) -> T:
        """Take the oldest item of the source whose turn it is; there must be one."""
        source, items = self._sources.popitem(last=False)
        item, _ = items.popitem(last=False)
        if items:
            self._sources[source] = items
        self._count -= 1
        return item

    def discard(self, source: Hashable, item: T) -> None:
        """Take out ``item``, if it is there."""
        items = self._sources.get(source)
        if items is None or item not in items:
            return
        del items[item]
        self._count -= 1
        if not items:
            del self._sources[source]


class Shares(Generic[T]):
    """What each source holds of a table of bounded size."""

    def __init__(self) -> None:
        self._held: dict[Hashable, OrderedDict[T, None]] = {}
        self._order: OrderedDict[T, Hashable] = OrderedDict()
        self._by_count: dict[int, OrderedDict[Hashable, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, item: T) -> bool:
        return item in self._order

    def add(self, source: Hashable, item: T) -> None:
        """Note that ``source`` holds ``item``."""
        held = self._held.get(source)
        if held is None:
            held = self._held[source] = OrderedDict()
        held[item] = None
        self._order[item] = source
        self._recount(source, len(held) - 1, len(held))

    def remove(self, item: T) -> None:
        """Note that ``item`` is held no longer.

        :raises KeyError: it was not held.
        """
        source = self._order.pop(item)
        held = self._held[source]
        del held[item]
        self._recount(source, len(held) + 1, len(held))
        if not held:
            del self._held[source]

    def gives_way(self, source: Hashable) -> T | None:
        """Return the item to remove so that ``source`` can add one; None: it must not add it.

        The newest item of a source that holds most, since the older ones are closer to their
        answers. Where each holds one, the oldest item of all.
        """
        own = len(self._held.get(source, ()))
        if own and own >= self._most:
            return None
        if self._most == 1:
            return next(iter(self._order))
        heaviest = next(iter(self._by_count[self._most]))
        return next(reversed(self._held[heaviest]))

    def oldest_of_most(self) -> T:
        """Return the oldest item of a source that holds most: what is likely to be dead.

        Where each holds one, the oldest item of all. There must be one.
        """
        if self._most == 1:
            return next(iter(self._order))
        return next(iter(self._held[next(iter(self._by_count[self._most]))]))

    def _recount(self, source: Hashable, before: int, after: int) -> None:
        by_count = self._by_count
        left = by_count.pop(before) if before else OrderedDict()  # holds source alone, or others
        if len(left) > 1:
            by_count[before] = left
            del left[source]
            left = OrderedDict()
        if after in by_count:
            by_count[after][source] = None
        elif after:
            left[source] = None
            by_count[after] = left
        if after > self._most or self._most not in by_count:
            self._most = after  # counts change by one, so the next lower one is this
