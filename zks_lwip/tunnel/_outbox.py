"""What waits to leave besides DATA: answers, datagrams, control frames of streams; all bounded.

A message holds uncounted frames first, then counted ones (PROTOCOL.md §6), so that the counted
frames of a message are one run of bytes: what an end that resumes has to keep is that run.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from ._fair import Stream
from ._frames import Window
from ._stats import SessionStats

__all__ = ["Outbox"]

MOST_DATAGRAMS = 1 << 20
"""Bytes of datagrams that wait, with what each costs besides its bytes; the oldest go first."""
MOST_QUERIES = 1 << 20
"""Bytes of DNS queries, or of refusals to answer one, that wait."""

_COST = 64  # bytes that a waiting frame takes besides its own
_CONTROL_COST = 256  # the same for those of streams: an ordered dictionary holds them


class Outbox:
    """Everything that waits to be sent and is not pulled from a source."""

    def __init__(self, stats: SessionStats) -> None:
        self._stats = stats
        self.pings = 0
        self.pongs = 0
        self.goaway: bytes | None = None
        self.control: OrderedDict[int, bytes] = OrderedDict()
        self.control_size = 0
        self.windows: OrderedDict[int, Stream] = OrderedDict()
        self.highest = 0
        """The highest stream whose CONNECT has left."""
        self.answered: list[int] = []
        """Sizes of the responses to DNS queries in flight, as frames, that have left since this
        list was last emptied."""
        self._dns: deque[tuple[bytes, bool]] = deque()
        self._loose = 0  # bytes of DNS frames that no request in flight accounts for
        self._datagrams: deque[bytes] = deque()
        self._datagram_size = 0
        self._allowance = 0

    def __bool__(self) -> bool:
        return bool(
            self.control
            or self.windows
            or self._datagrams
            or self._dns
            or self.pongs
            or self.pings
            or self.goaway
        )

    def add_control(self, stream: int, frame: bytes) -> None:
        """A CONNECT (with a WINDOW, perhaps), CONNECTED, CLOSE or ERROR, behind what already waits
        for that stream."""
        waiting = self.control.get(stream)
        self.control[stream] = frame if waiting is None else waiting + frame
        self.control_size += len(frame) + (_CONTROL_COST if waiting is None else 0)

    def forget(self, stream: int) -> bool:
        """Drop the control frames of a stream; True if its CONNECT was still among them."""
        waiting = self.control.pop(stream, None)
        if waiting is None:
            return False
        self.control_size -= len(waiting) + _CONTROL_COST
        return waiting[0] == 0x01

    def add_datagram(self, frame: bytes) -> None:
        """A frame that may be dropped: the oldest go when too many bytes wait."""
        self._datagrams.append(frame)
        self._datagram_size += len(frame) + _COST
        while self._datagram_size > MOST_DATAGRAMS:
            self._datagram_size -= len(self._datagrams.popleft()) + _COST
            self._stats.datagrams_dropped += 1

    def add_dns(self, frame: bytes, *, in_flight: bool) -> bool:
        """A DNS frame. The answer to a query ``in_flight`` is bounded with that; of others, the
        bytes that wait are bounded here, and False says that there was no room."""
        if not in_flight:
            if self._loose + len(frame) + _COST > MOST_QUERIES:
                return False
            self._loose += len(frame) + _COST
        self._dns.append((frame, in_flight))
        return True

    def take(self, limit: int, streams: bool) -> tuple[list[bytes], int, int]:
        """Frames for a message of ``limit`` bytes: them, their bytes, how many are counted.

        ``streams``: DATA waits too. A frame larger than ``limit`` leaves alone. What is uncounted
        may take half of the bytes while counted frames wait; one that took more pays later.
        """
        parts: list[bytes] = []
        size = counted = 0
        if self.pongs or self.pings or self.goaway:
            size = self._take_first(parts, limit)
        if self._dns or self._datagrams:
            if streams or self.control or self.windows:
                self._allowance = min(self._allowance, 0) + limit // 2
            else:
                self._allowance = limit
            size = self._take_dns(parts, size, limit)
            size = self._take_datagrams(parts, size, limit)
        if self.windows:
            windows = self.windows
            while windows and size + 13 <= limit:
                stream, entry = windows.popitem(last=False)
                parts.append(Window(stream, entry.window.hand_out()).encode())
                size += 13
                counted += 1
        if self.control:
            control = self.control
            while control:
                stream = next(iter(control))
                frames = control[stream]
                if size + len(frames) > limit:
                    break
                del control[stream]
                self.control_size -= len(frames) + _CONTROL_COST
                if frames[0] == 0x01:
                    self.highest = stream
                parts.append(frames)
                size += len(frames)
                # two frames at most wait for a stream: behind a CONNECTED, or a CONNECT's WINDOW
                first = 5 if frames[0] == 0x0A else len(frames)
                if frames[0] == 0x01:
                    first = 9 + int.from_bytes(frames[7:9], "big")
                counted += 2 if len(frames) > first else 1
        return parts, size, counted

    def _take_first(self, parts: list[bytes], limit: int) -> int:
        pongs = min(self.pongs, limit // 4)
        first = b"\x05" * self.pings + b"\x06" * pongs + (self.goaway or b"")
        self.pongs -= pongs
        self.pings = 0
        self.goaway = None
        parts.append(first)
        return len(first)

    def _take_dns(self, parts: list[bytes], size: int, limit: int) -> int:
        queue = self._dns
        while queue and self._allowance > 0:
            frame, in_flight = queue[0]
            if size and size + len(frame) > limit:
                break
            queue.popleft()
            if in_flight:
                self.answered.append(len(frame))
            else:
                self._loose -= len(frame) + _COST
            parts.append(frame)
            size += len(frame)
            self._allowance -= len(frame)
        return size

    def _take_datagrams(self, parts: list[bytes], size: int, limit: int) -> int:
        queue = self._datagrams
        while queue and self._allowance > 0:
            length = len(queue[0])
            if size and size + length > limit:
                break
            parts.append(queue.popleft())
            size += length
            self._datagram_size -= length + _COST
            self._allowance -= length
        return size
