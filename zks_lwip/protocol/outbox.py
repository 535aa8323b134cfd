"""What waits to leave besides DATA: answers, datagrams, control frames of streams; all bounded.

A message holds uncounted frames first, then counted ones (PROTOCOL.md §6), so that the counted
frames of a message are one run of bytes: what an end that resumes has to keep is that run.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Final

from .._util import EMPTY
from .frames import DATA_HEADER, Buffer, Connect, Connected, Error, encode_window
from .stats import SessionStats
from .stream import Stream
from .udp_runs import cut_frames
from .wakeup import Wakeup

__all__ = ["Outbox"]

MAX_DATAGRAM_BYTES = 1 << 20
"""Most bytes of datagrams that wait, with what each costs besides; the oldest go first."""
MAX_DNS_BYTES = 1 << 20
"""Most bytes of DNS queries, or of refusals to answer one, that wait."""

_COST = 64
"""Bytes of memory that a waiting frame takes besides its own."""
_CONTROL_COST = 256
"""The same for the control frames of a stream, which stand in an ordered dictionary."""
_MAX_CONTROL = 768 << 10
"""Most bytes of control frames that may wait, besides ``_CONTROL_PER_STREAM``."""
_CONTROL_PER_STREAM = 320
"""Bytes of control frames that may wait for each stream that may be open."""
_MUCH_CONTROL = 256 << 10
"""Bytes of waiting control frames over which an ERROR says its code alone."""
_NOTHING: Final[OrderedDict[int, Any]] = OrderedDict()
"""What waits for the streams of a session that never had one: it takes nothing, and is replaced."""
_HEADER = DATA_HEADER.size
_CONNECT = Connect.command
_CONNECTED = Connected.command


class Outbox:
    """Everything that waits to be sent and is not pulled from a source.

    :param streams: most streams that may be open, by this end's settings; what may wait for them
        follows from it.
    """

    __slots__ = (
        "_allowance",
        "_datagrams",
        "_dns",
        "_stats",
        "_wakeup",
        "answered",
        "control",
        "control_size",
        "counted",
        "datagram_size",
        "dns_size",
        "goaway",
        "hello",
        "highest",
        "last_goaway",
        "max_control",
        "pings",
        "pongs",
        "windows",
    )

    def __init__(self, stats: SessionStats, wakeup: Wakeup, streams: int) -> None:
        self._stats = stats
        self._wakeup = wakeup
        self.max_control = _MAX_CONTROL + _CONTROL_PER_STREAM * streams
        """Bytes of ``control_size`` over which no stream may be opened."""
        self._allowance = 0
        self.hello: bytes | None = None
        """Our HELLO, which goes alone and first; not part of what is taken here."""
        self.last_goaway: bytes | None = None
        """The GOAWAY that was said last, which is said again on another WebSocket."""
        self.highest = 0
        """The highest stream whose CONNECT has left."""
        self.counted = 0
        """Counted frames (PROTOCOL.md §6) that :meth:`take_counted` has given so far."""
        self.control: OrderedDict[int, bytes] = _NOTHING
        self.control_size = 0
        """Bytes of control frames of streams that wait, with what they cost besides."""
        self.windows: OrderedDict[int, Stream] = _NOTHING
        self._datagrams: deque[tuple[Buffer, int]] = EMPTY
        self.clear_uncounted()

    def clear(self) -> None:
        """Drop all that waits."""
        self.control.clear()
        self.control_size = 0
        self.windows.clear()
        self.clear_uncounted()

    def clear_uncounted(self) -> None:
        """Drop what is not counted: it is lost with the WebSocket (PROTOCOL.md §6)."""
        self.hello = None
        self.pings = 0
        self.pongs = 0
        self.goaway: bytes | None = None
        self._stats.datagrams_dropped += sum(count for _, count in self._datagrams)
        self._datagrams = EMPTY
        self.datagram_size = 0
        """Bytes of datagrams that wait, with what they cost besides."""
        self.answered: list[int] = []
        """Sizes of the answers to DNS queries in flight that have left since this list was last
        emptied, in bytes of DNS."""
        self._dns: deque[tuple[bytes, bool]] = EMPTY
        self.dns_size = 0
        """Bytes of DNS frames that wait and no request in flight accounts for."""

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

    @property
    def has_uncounted(self) -> bool:
        """Frames wait that are not counted."""
        return bool(self._datagrams or self._dns or self.pongs or self.pings or self.goaway)

    @property
    def has_counted(self) -> bool:
        """Counted frames wait."""
        return bool(self.control or self.windows)

    def add_ping(self) -> None:
        """Send one PING, however often this is called before it has left."""
        self.pings = 1
        self._wakeup()

    def add_pong(self) -> None:
        """Answer one PING."""
        self.pongs += 1
        self._wakeup()

    def add_goaway(self, frame: bytes) -> None:
        """Send GOAWAY, in place of one that has not left."""
        self.goaway = self.last_goaway = frame
        self._wakeup()

    def grant(self, stream: Stream) -> None:
        """Send WINDOW with all that is due to a stream when it leaves."""
        if self.windows is _NOTHING:
            self.windows = OrderedDict()
        self.windows[stream.id] = stream
        if not self._wakeup.told:
            self._wakeup()

    def add_control(self, stream: int, frame: bytes) -> None:
        """Send CONNECT (with a WINDOW, perhaps), CONNECTED, CLOSE or ERROR, behind what already
        waits for that stream."""
        if self.control is _NOTHING:
            self.control = OrderedDict()
        waiting = self.control.get(stream)
        self.control[stream] = frame if waiting is None else waiting + frame
        self.control_size += len(frame) + (_CONTROL_COST if waiting is None else 0)
        if not self._wakeup.told:
            self._wakeup()

    def add_error(self, stream: int, code: int, message: str) -> None:
        """Send ERROR, without its message where very much waits."""
        if self.control_size > _MUCH_CONTROL:
            message = ""
        self.add_control(stream, Error(stream, code, message).encode())

    def forget(self, stream: int) -> bool:
        """Drop the control frames of a stream.

        :returns: whether its CONNECT was still among them.
        """
        waiting = self.control.pop(stream, None)
        if waiting is None:
            return False
        self.control_size -= len(waiting) + _CONTROL_COST
        return waiting[0] == _CONNECT

    def add_datagram(self, frame: bytes) -> None:
        """Send a frame that may be dropped: the oldest go when too many bytes wait."""
        self.add_datagrams(frame, 1)

    def add_datagrams(self, frames: Buffer, count: int) -> None:
        """Send ``count`` such frames, back to back; more than one are UDP frames for literals."""
        if self._datagrams is EMPTY:
            self._datagrams = deque()
        self._datagrams.append((frames, count))
        self.datagram_size += len(frames) + _COST
        while self.datagram_size > MAX_DATAGRAM_BYTES:
            self._drop_datagrams(self.datagram_size - MAX_DATAGRAM_BYTES)
        if not self._wakeup.told:
            self._wakeup()

    def _drop_datagrams(self, excess: int) -> None:
        """Drop the oldest, until ``excess`` bytes have gone or all of one addition."""
        frames, count = self._datagrams.popleft()
        self.datagram_size -= len(frames) + _COST
        if count > 1:
            size, dropped = cut_frames(frames, excess, at_least=True)
            if dropped < count:
                self._datagrams.appendleft((memoryview(frames)[size:], count - dropped))
                self.datagram_size += len(frames) - size + _COST
                count = dropped
        self._stats.datagrams_dropped += count

    def add_dns(self, frame: bytes, *, in_flight: bool) -> bool:
        """Send a DNS frame.

        :param in_flight: it is the answer to a query in flight, whose bound bounds it too; of
            others, the bytes that wait are bounded here.
        :returns: False if there was no room.
        """
        if not in_flight:
            if self.dns_size + len(frame) + _COST > MAX_DNS_BYTES:
                return False
            self.dns_size += len(frame) + _COST
        if self._dns is EMPTY:
            self._dns = deque()
        self._dns.append((frame, in_flight))
        self._wakeup()
        return True

    def take_uncounted(self, parts: list[Buffer], size: int, limit: int, shared: bool) -> int:
        """Take the frames that are not counted for a message of ``limit`` bytes.

        A frame larger than ``limit`` leaves alone. They may take half of the bytes of a message
        that is shared; when one takes more, the next messages hold fewer of them.

        :param parts: what the message holds, ``size`` bytes; they are added to it.
        :param shared: whether counted frames wait, too.
        :returns: the bytes that the message holds then.
        """
        if self.pongs or self.pings or self.goaway:
            size += self._take_first(parts, limit)
        if self._dns or self._datagrams:
            if shared:
                self._allowance = min(self._allowance, 0) + limit // 2
            else:
                self._allowance = limit
            size = self._take_dns(parts, size, limit)
            size = self._take_datagrams(parts, size, limit)
        return size

    def take_counted(self, parts: list[Buffer], size: int, limit: int) -> int:
        """Take the counted frames for the same message, likewise."""
        if self.windows:
            windows = self.windows
            while windows and size + 13 <= limit:
                stream, entry = windows.popitem(last=False)
                parts.append(encode_window(stream, entry.window.hand_out()))
                size += 13
                self.counted += 1
        if self.control:
            control = self.control
            while control:
                stream = next(iter(control))
                frames = control[stream]
                if size + len(frames) > limit:
                    break
                del control[stream]
                self.control_size -= len(frames) + _CONTROL_COST
                # Two frames at most wait for a stream: a second one stands behind CONNECT (its
                # WINDOW) or CONNECTED
                first = len(frames)
                if frames[0] == _CONNECT:
                    self.highest = stream
                    first = 9 + int.from_bytes(frames[7:9], "big")
                elif frames[0] == _CONNECTED:
                    first = 5
                parts.append(frames)
                size += len(frames)
                self.counted += 2 if len(frames) > first else 1
        return size

    def _take_first(self, parts: list[Buffer], limit: int) -> int:
        pongs = min(self.pongs, limit // 4)
        first = b"\x05" * self.pings + b"\x06" * pongs + (self.goaway or b"")
        self.pongs -= pongs
        self.pings = 0
        self.goaway = None
        parts.append(first)
        return len(first)

    def _take_dns(self, parts: list[Buffer], size: int, limit: int) -> int:
        queue = self._dns
        while queue and self._allowance > 0:
            frame, in_flight = queue[0]
            if size and size + len(frame) > limit:
                break
            queue.popleft()
            if in_flight:
                self.answered.append(len(frame) - _HEADER)
            else:
                self.dns_size -= len(frame) + _COST
            parts.append(frame)
            size += len(frame)
            self._allowance -= len(frame)
        if not queue:
            self._dns = EMPTY
        return size

    def _take_datagrams(self, parts: list[Buffer], size: int, limit: int) -> int:
        queue = self._datagrams
        while queue and self._allowance > 0:
            frames, count = queue[0]
            length = len(frames)
            room = limit - size
            if count > 1 and length > min(room, self._allowance):
                length, taken = cut_frames(frames, min(room, self._allowance))
                if not taken:  # one may be larger than what is allowed, or leave alone
                    length, taken = cut_frames(frames, 1, at_least=True)
                    if size and length > room:
                        break
                view = memoryview(frames)
                parts.append(view[:length])
                queue[0] = view[length:], count - taken
            elif size and length > room:
                break
            else:
                queue.popleft()
                parts.append(frames)
                self.datagram_size -= _COST
            size += length
            self.datagram_size -= length
            self._allowance -= length
        if not queue:
            self._datagrams = EMPTY
        return size
