"""Flow control of streams: what a receiver grants, and how much (PROTOCOL.md §4).

One ``Budget`` bounds by how much the windows of all streams that share it exceed what HELLO said,
so memory stays bounded however many streams there are. What each does: :mod:`.receive_window`.
"""

from __future__ import annotations

__all__ = ["Budget", "RoundTrip"]


class Budget:
    """Bytes by which all windows that share it may exceed what HELLO said, together.

    A window may grow to as much as is left for all others (dynamic thresholds: Choudhury and Hahne,
    1998): a lone one to half of it, many to equal shares, and there is always something left for
    the next. One that is larger shrinks as it is granted anew; credit is never taken back.

    :param opening: most that a stream gets at its start.
    :param parent: the budget that this one is a part of: what is taken here is taken there, too,
        and there has to be room in both.
    """

    __slots__ = ("_parent", "opening", "size", "used")

    _CAUTION = 256  # of what is left, a new stream gets that part: most need little, and keep it

    def __init__(
        self, size: int = 64 << 20, *, opening: int = 0, parent: Budget | None = None
    ) -> None:
        self.size = size
        self.opening = opening
        self.used = 0
        self._parent = parent

    @property
    def left(self) -> int:
        """Bytes that are not taken."""
        left = max(0, self.size - self.used)
        return left if self._parent is None else min(left, self._parent.left)

    def room(self, surplus: int) -> int:
        """Return by how much a window with that surplus may grow; negative: has to shrink."""
        room = (self.size - self.used - surplus) // 2
        return room if self._parent is None else min(room, self._parent.room(surplus))

    def first(self) -> int:
        """Return how large a window may be at its start."""
        return min(self.opening, self.left // self._CAUTION)

    def take(self, amount: int) -> None:
        self.used += amount
        if self._parent is not None:
            self._parent.take(amount)

    def give(self, amount: int) -> None:
        self.used -= amount
        if self._parent is not None:
            self._parent.give(amount)


class RoundTrip:
    """A round trip, in seconds, from PING to PONG; 0.0 until one was measured.

    A fall is averaged in, and a rise counts at once: a window that is too small for its path stays
    so until that is known, while one that is too large shrinks again.
    """

    __slots__ = ("_moved", "_sent", "estimate", "last")

    INTERVAL = 1.0
    """Least seconds between two measurements that are made for the windows' sake."""

    def __init__(self) -> None:
        self.estimate = 0.0
        self.last = float("-inf")
        self._sent: float | None = None
        self._moved = True  # what was measured, if anything, was measured on another path

    @property
    def pending(self) -> bool:
        return self._sent is not None

    def is_stale(self, now: float) -> bool:
        return self._sent is None and now - self.last >= self.INTERVAL

    def sent(self, now: float) -> None:
        """Note that a PING has left; while one is open, later ones are not measured."""
        if self._sent is None:
            self._sent = self.last = now

    def lost(self) -> None:
        """Note that no PONG will come: the WebSocket is lost. The next may take another path."""
        self._sent = None
        self._moved = True

    def answered(self, now: float) -> None:
        """Note that a PONG has come; one to no PING is ignored."""
        if self._sent is None:
            return
        sample = max(now - self._sent, 1e-6)
        self._sent = None
        at_once = self._moved or sample > self.estimate
        self.estimate += (sample - self.estimate) * (1.0 if at_once else 0.25)
        self._moved = False
