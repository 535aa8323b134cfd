"""The counted frames that were sent and are not acknowledged (PROTOCOL.md §6).

What is kept of a message is the buffer that was sent, with the place of its counted frames, which
are one run of bytes at its end. Nothing is copied, and no frame is looked at, until a WebSocket is
lost; then the frames of a message that was acknowledged in part, or is too large to be sent again
at once, are walked through. The sender of a message may change it in place, as a client does that
masks it; that is undone when a WebSocket is lost.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable

from .._util import EMPTY
from . import spares
from .credit import Budget

__all__ = ["FLOOR", "INITIAL_LIMIT", "Kept"]

INITIAL_LIMIT = 8 << 20
"""Bytes that may be kept on any path: more than TCP's slow start has on its way at first."""
FLOOR = 1 << 20
"""Bytes that may be kept however little is left of the budget."""
RESERVE = 1 << 20
"""Bytes above the limit that frames other than DATA and CONNECT may take."""
COST = 256
"""Bytes of memory that a message takes besides its own."""
_HEADROOM = 1.5
"""How many times what the path holds without a queue may be kept."""
_MEMORY = 30.0
"""Seconds for which the least time that an ACK has taken says how long the path is."""

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from


class _Run:
    """Counted frames ``first`` to ``last``, which are ``buffer[start:stop]``."""

    __slots__ = (
        "buffer",
        "cost",
        "first",
        "last",
        "reach",
        "restore",
        "since",
        "start",
        "stop",
        "whole",
    )

    def __init__(
        self,
        buffer: bytearray,
        start: int,
        stop: int,
        first: int,
        last: int,
        cost: int,
        since: float,
        reach: int,
    ) -> None:
        self.buffer = buffer
        self.start = start
        self.stop = stop
        self.first = first
        self.last = last
        self.cost = cost
        self.since = since  # when it was sent
        self.reach = reach  # bytes that were kept then, with it
        self.whole = True  # nothing else holds the buffer, once it was sent
        self.restore: Callable[[bytearray], None] | None = None  # changes the buffer back


class Kept:
    """What one session keeps. Bytes that are bounded are those of memory (``cost``).

    :param most: bytes to which the limit grows.
    :param budget: bounds what all that share it keep, together, as :class:`Budget` says: each may
        keep as much as is left for all others, and ``FLOOR`` in any case.
    :param step: bytes after which the peer says ACK at the latest.
    """

    __slots__ = (
        "_ample",
        "_budget",
        "_last",
        "_least",
        "_measured",
        "_most",
        "_sending",
        "_sent",
        "_step",
        "acknowledged",
        "active",
        "cost",
        "full",
        "limit",
        "pressed",
        "size",
        "stuffed",
        "unsent",
    )

    def __init__(self, most: int, budget: Budget, step: int = 0) -> None:
        self.active = False
        """Frames are kept: the session can be resumed."""
        self.limit = min(INITIAL_LIMIT, most)
        """Bytes that may be kept: see :meth:`_measure`. It never becomes less."""
        self.acknowledged = 0
        """Counted frames that the peer has acknowledged."""
        self.size = 0
        """Bytes of the frames that are kept."""
        self.cost = 0
        """Bytes of memory that these take."""
        self.full = False
        """No DATA and no CONNECT is to be taken."""
        self.stuffed = False
        """No counted frame at all is to be sent: the peer acknowledges nothing."""
        self.pressed = False
        """Ask the peer for an ACK: half of the room is taken, and it is less than two steps."""
        self._most = most
        self._step = step
        # There is room below it, and no ACK is needed, whatever others keep
        self._ample = min(FLOOR, self.limit) // 2
        self._least = math.inf  # seconds from sending to the ACK, as few as they were
        self._measured = -math.inf  # when that was
        self._budget = budget
        self._last = 0
        self._sending: _Run | None = None
        self._sent: deque[_Run] = EMPTY
        self.unsent: deque[_Run] = EMPTY
        """Frames to be sent again, before any other that is counted."""

    @property
    def since(self) -> float | None:
        """When the oldest frames that may be on their way were sent; None: there are none."""
        return self._sent[0].since if self._sent else None

    def _assess(self) -> None:
        """See whether there is room; where others have used it up, until the next ACK."""
        cost = self.cost
        most = min(self.limit, max(FLOOR, cost + self._budget.room(cost)))
        self.full = cost >= most
        self.pressed = cost * 2 >= most and most < 2 * self._step
        self.stuffed = cost >= most + RESERVE

    def put(self, message: bytearray, start: int, last: int, now: float) -> None:
        """Keep the counted frames of a message that is sent now.

        :param message: it must not change any more, unless :meth:`changed` is told.
        :param start: where its counted frames start.
        :param last: the number of the last one.
        """
        stop = len(message)
        copied = start > stop - start
        if copied:  # hold not many bytes for the sake of few
            message = message[start:]
            stop -= start
            start = 0
        cost = stop + COST
        self.size += stop - start
        self.cost += cost
        self._budget.take(cost)
        run = _Run(message, start, stop, self._last + 1, last, cost, now, self.cost)
        self._last = last
        self._append(run)
        self._sending = None if copied else run
        if self.cost >= self._ample:
            self._assess()

    def _append(self, run: _Run) -> None:
        if self._sent is EMPTY:
            self._sent = deque()
        self._sent.append(run)

    def changed(self, restore: Callable[[bytearray], None]) -> None:
        """Note that the message that was put last is changed in place, and what undoes that."""
        if self._sending is not None:
            self._sending.restore = restore

    def was_sent(self) -> None:
        """Note that the message that was put last is not held by its sender any more."""
        run, self._sending = self._sending, None
        if run is not None and run.last <= self.acknowledged and run.whole:
            spares.give(run.buffer)

    def acknowledge(self, count: int, now: float) -> None:
        """Free what the first ``count`` counted frames of the session took: their ACK came now."""
        last: _Run | None = None
        for run in self._sent:
            if run.last > count:
                break
            last = run
        if last is not None:
            self._measure(last, now)
        self._free(count)

    def _measure(self, run: _Run, now: float) -> None:
        """Raise the limit to what a path needs that has carried a run, and what was kept with it.

        More would stand in a queue on the path, and TCP need not prevent it. A sender that is held
        up by this limit, or by its processor, is taken for one that has little to send, from which
        congestion control learns nothing: BBR never leaves its start then, where it puts three
        times on a path what that holds, and loses what no queue has room for.
        """
        took = now - run.since
        if took <= self._least or now - self._measured > _MEMORY:
            self._least, self._measured = took, now
        if run.reach * _HEADROOM > self.limit:
            # What was acknowledged in the time that an ACK takes where nothing waits
            holds = run.reach * (self._least / took if took else 1.0)
            self.limit = max(self.limit, min(int(holds * _HEADROOM), self._most))

    def _free(self, count: int) -> None:
        self.acknowledged = count
        for line in (self._sent, self.unsent):
            while line and line[0].last <= count:
                run = line.popleft()
                self.size -= run.stop - run.start
                self.cost -= run.cost
                self._budget.give(run.cost)
                if run.whole and len(run.buffer) >= spares.LARGE and run is not self._sending:
                    spares.give(run.buffer)
        if not self._sent:
            self._sent = EMPTY
        if self.unsent:
            self._cut(self.unsent[0])
        if self.full or self.pressed:
            self._assess()

    def resume(self, received: int) -> None:
        """Have all that the peer has not received sent again: :meth:`send_again`."""
        self._least = math.inf  # another WebSocket may take another path
        self._free(received)
        self.unsent = deque((*self._sent, *self.unsent)) or EMPTY
        self._sent = EMPTY
        for run in self.unsent:
            run.whole = False  # the old WebSocket's may not be gone
            if run.restore is not None:
                if run is self._sending:  # and may be sending this one
                    run.buffer = run.buffer[:]
                run.restore(run.buffer)
                run.restore = None
        self._sending = None
        if self.unsent:
            self._cut(self.unsent[0])

    @property
    def next_length(self) -> int:
        """Bytes of the first frame that is to be sent again."""
        run = self.unsent[0]
        return _length(run.buffer, run.start)

    def send_again(self, limit: int, now: float) -> tuple[memoryview, int]:
        """Return frames to be sent again, and their number.

        :param limit: most bytes, except that one frame larger than that is alone.
        """
        run = self.unsent.popleft()
        if run.stop - run.start > limit:
            self._split(run, limit)
        if not self.unsent:
            self.unsent = EMPTY
        run.since = now
        self._append(run)
        view = memoryview(run.buffer)[run.start : run.stop]
        return view, run.last - run.first + 1

    def _cut(self, run: _Run) -> None:
        """Leave out of a run what was acknowledged."""
        if run.first > self.acknowledged:
            return
        start = run.start
        for _ in range(run.first, self.acknowledged + 1):
            start += _length(run.buffer, start)
        self.size -= start - run.start
        run.start = start
        run.first = self.acknowledged + 1

    def _split(self, run: _Run, limit: int) -> None:
        """Leave at most ``limit`` bytes in a run, though one frame at least; the rest waits."""
        at = run.start + _length(run.buffer, run.start)
        number = run.first + 1
        while at < run.stop:
            after = at + _length(run.buffer, at)
            if after - run.start > limit:
                break
            at = after
            number += 1
        if at < run.stop:
            rest = _Run(run.buffer, at, run.stop, number, run.last, run.cost, run.since, run.reach)
            rest.whole = False
            self.unsent.appendleft(rest)
            run.stop = at
            run.last = number - 1
            run.cost = 0  # the buffer lives as long as the rest

    def clear(self) -> None:
        """Forget all, as at the start of a session."""
        self._budget.give(self.cost)
        self.size = self.cost = self.acknowledged = self._last = 0
        self.full = self.stuffed = self.pressed = False
        self._sent = self.unsent = EMPTY
        self._sending = None


def _length(buffer: bytearray, at: int) -> int:
    """Return the length of the counted frame that starts there."""
    command = buffer[at]
    if command == 0x02 or command >= 0x40:
        return 9 + int(_u32(buffer, at + 5)[0])
    if command in (0x03, 0x0A):
        return 5
    return 9 + int(_u16(buffer, at + 7)[0])
