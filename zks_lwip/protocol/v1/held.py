"""How much an end of a v1 session holds for its consumers: all the backpressure that v1 has."""

from __future__ import annotations

from collections.abc import Callable

from ..credit import Budget

__all__ = ["MAX_HELD", "MIN_HELD", "HeldBytes"]

MAX_HELD = 1 << 20
"""Most bytes that an end holds for the consumer of a stream; it stops reading before that."""
MIN_HELD = 64 << 10
"""Bytes that it may hold for one stream however many others there are."""

_ROOM = 1 << 19
"""Bytes that a message is expected to bring at most, until a larger one has come."""


class HeldBytes:
    """The bytes that came for each stream and are not consumed.

    :param budget: shared with other sessions; None: each stream may have :data:`MAX_HELD`.
    :param on_room: called when nothing is ``full`` any more.
    """

    def __init__(self, budget: Budget | None, on_room: Callable[[], None]) -> None:
        self._budget = budget
        self._on_room = on_room
        self._held: dict[int, int] = {}
        self._full: set[int] = set()
        self._room = _ROOM

    @property
    def full(self) -> bool:
        """A stream holds so much that nothing more is to be read."""
        return bool(self._full)

    @property
    def _most(self) -> int:
        most = MAX_HELD - self._room
        return most if self._budget is None else min(most, max(MIN_HELD, self._budget.left))

    def add(self, stream: int, size: int) -> None:
        """Count ``size`` bytes that came for a stream."""
        held = self._held.get(stream, 0) + size
        self._change(stream, held, size)
        self._room = max(self._room, size)
        if held > self._most:
            self._full.add(stream)

    def consume(self, stream: int, size: int) -> None:
        """Count ``size`` bytes that the consumer of a stream took.

        :raises ValueError: for more than are held.
        """
        held = self._held.get(stream, 0)
        if not 0 <= size <= held:
            raise ValueError(f"{size} bytes consumed of {held} that came")
        self._change(stream, held - size, -size)
        if held == size or held - size <= self._most:
            self._empty_enough(stream)

    def forget(self, stream: int) -> None:
        """Give back all that a stream holds: it is gone."""
        self._change(stream, 0, -self._held.get(stream, 0))
        self._empty_enough(stream)

    def _change(self, stream: int, held: int, change: int) -> None:
        if held:
            self._held[stream] = held
        else:
            self._held.pop(stream, None)
        if self._budget is not None:
            self._budget.take(change)

    def _empty_enough(self, stream: int) -> None:
        if stream in self._full:
            self._full.discard(stream)
            if not self._full:
                self._on_room()
