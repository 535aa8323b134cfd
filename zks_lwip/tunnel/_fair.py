"""Which stream's bytes go into the next message: those with little to send before bulk ones.

A stream that becomes ready stands in the ``fresh`` line and is served first, once, with a small
quantum. One that still has bytes after that joins the ``bulk`` line, which is served round-robin.
It is fresh again once its source ran dry. Fresh streams get half of a message while bulk ones
wait, so that thousands of small senders cannot starve them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ._frames import DATA_HEADER
from .credit import ReceiveWindow

__all__ = ["FairQueue", "Source", "Stream"]

FRESH_QUANTUM = 16 << 10
BULK_QUANTUM = 64 << 10
LEAST_PIECE = 2 << 10
"""Room, in bytes, below which no bulk stream starts a frame at the end of a message."""

_HEADER = DATA_HEADER.size
_pack = DATA_HEADER.pack_into


class Source(Protocol):
    """What supplies the bytes that a stream sends."""

    def pull_into(self, view: memoryview) -> int | None:
        """Write up to ``len(view)`` bytes into ``view``, which is valid during the call only.

        Returns how many were written; 0 if there is nothing now (call the session's ``mark_ready``
        when there is); None at the end of the stream. It may close its own stream, then return 0.
        """


class Stream:
    """One open stream of a session."""

    __slots__ = (
        "bulk",
        "connected",
        "credit",
        "eof_sent",
        "eof_taken",
        "gone",
        "id",
        "ready",
        "source",
        "window",
    )

    def __init__(self, id: int, source: Source | None, credit: int, window: ReceiveWindow) -> None:
        self.id = id
        self.source = source
        self.credit = credit  # bytes that the peer still lets us send
        self.window = window  # what we let the peer send
        self.connected = False
        self.eof_sent = False
        self.eof_taken = False
        self.gone = False
        self.ready = False  # the source may have bytes, or its end
        self.bulk = False  # it filled its quantum when it was last served


class FairQueue:
    """The streams that have something to send and credit to send it."""

    def __init__(self, on_eof: Callable[[Stream], None]) -> None:
        self._fresh: OrderedDict[int, Stream] = OrderedDict()
        self._bulk: OrderedDict[int, Stream] = OrderedDict()
        self._on_eof = on_eof
        self.frames = 0
        """DATA and EOF frames written so far."""
        self.payload = 0
        """DATA bytes written so far."""

    def __bool__(self) -> bool:
        return bool(self._fresh or self._bulk)

    def add(self, stream: Stream) -> None:
        """Stand in line; a second time does nothing."""
        if stream.bulk:
            self._bulk[stream.id] = stream
        elif stream.id not in self._bulk:
            self._fresh[stream.id] = stream

    def discard(self, stream: Stream) -> None:
        self._fresh.pop(stream.id, None)
        self._bulk.pop(stream.id, None)

    def clear(self) -> None:
        self._fresh.clear()
        self._bulk.clear()

    def fill(self, view: memoryview, position: int, max_data: int) -> int:
        """Write DATA and EOF frames into ``view`` from ``position`` on; returns where they end."""
        fresh, bulk = self._fresh, self._bulk
        start = position
        end = len(view) - _HEADER  # an EOF must always fit behind the last DATA
        fresh_end = (position + end) // 2 if bulk else end
        while fresh and fresh_end - position > _HEADER:
            _, stream = fresh.popitem(last=False)
            alone = not fresh and not bulk
            share = fresh_end if alone else min(fresh_end, position + _HEADER + FRESH_QUANTUM)
            position = self._serve(stream, view, position, share, max_data)
        while bulk:
            room = end - position
            if room <= _HEADER or (room < LEAST_PIECE and position > start):
                break
            _, stream = bulk.popitem(last=False)
            share = min(end, position + _HEADER + BULK_QUANTUM) if bulk else end
            position = self._serve(stream, view, position, share, max_data)
        return position

    def _serve(
        self, stream: Stream, view: memoryview, position: int, end: int, max_data: int
    ) -> int:
        source = stream.source
        assert source is not None  # a stream without one never stands in line
        start = position + _HEADER
        room = min(end - start, stream.credit, max_data)
        filled = 0
        got: int | None = 0
        while filled < room:
            got = source.pull_into(view[start + filled : start + room])
            if stream.gone:  # closed by its own source
                return position
            if not got:
                break
            if got > room - filled:
                raise ValueError(f"{source!r} claims {got} bytes, in {room - filled} of room")
            filled += got
        if filled:
            _pack(view, position, 0x02, stream.id, filled)
            position = start + filled
            stream.credit -= filled
            self.frames += 1
            self.payload += filled
        if got:
            stream.bulk = True
            if stream.credit:
                self._bulk[stream.id] = stream
            return position
        stream.ready = stream.bulk = False
        if got is None:
            _pack(view, position, 0x41, stream.id, 0)
            position += _HEADER
            self.frames += 1
            stream.eof_sent = True
            self._on_eof(stream)
        return position
