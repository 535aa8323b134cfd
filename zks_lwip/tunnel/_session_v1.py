"""What both ends of a v1 session share: messages of one frame, without HELLO or credit."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from ..errors import ProtocolError
from ._fair import Source
from ._frames import DATA_HEADER, NAMES, Buffer, Close, Data, Frame, Ping, Pong, Udp
from ._hello import Hello
from ._parse import parse_v1
from ._settings import Role, Settings
from ._stats import SessionStats
from .credit import Budget

__all__ = ["LINGER", "MOST_HELD", "MOST_MESSAGE", "BaseV1", "StreamV1"]

MOST_MESSAGE = 1 << 20
"""Most bytes of a v1 message."""
MOST_HELD = 1 << 20
"""Most bytes that an end holds for the consumer of a stream; it stops reading before that."""
LEAST_HELD = 64 << 10
"""Bytes that it may hold for one stream however many others there are."""
LINGER = 30.0
"""Seconds without DATA after which a stream that is half over is ended."""

_ROOM = 1 << 19  # what a message is expected to bring at most, until a larger one has come
_MOST_PONGS = 4096
_MOST_CONTROL = 4 << 20
_COST = 64
_HEADER = DATA_HEADER.size


class StreamV1:
    """One stream of a v1 session."""

    __slots__ = (
        "connected",
        "ended",
        "expiry",
        "far_ended",
        "gone",
        "held",
        "id",
        "ready",
        "source",
        "told",
    )

    def __init__(self, id: int, source: Source | None) -> None:
        self.id = id
        self.source = source
        self.connected = False
        self.ready = False  # the source was ready before it could be asked
        self.ended = False  # our source has ended
        self.far_ended = False  # the peer's CLOSE has come
        self.told = False  # our CLOSE has been sent
        self.gone = False
        self.held = 0  # bytes that came and are not consumed
        self.expiry = 0.0  # when it is ended if nothing more comes; 0.0: never


class BaseV1:
    """A v1 session at either end; see ``session_v1``."""

    piece = 16 << 10
    """Most bytes of a DATA payload that is sent."""

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] | None = None,
        unblock: Callable[[], None] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.role = role
        self.settings = settings
        self.ready = True
        self.peer: Hello | None = Hello()
        self.stats = SessionStats()
        self._clock = clock
        self._wake = wake
        self._unblock = unblock
        self._budget = budget
        self._dead: ProtocolError | None = None
        self._over = False
        self._going_away = False
        self._streams: dict[int, StreamV1] = {}
        self._full: set[int] = set()  # those that hold so much that reading stops
        self._room = _ROOM
        self._expiring: OrderedDict[int, StreamV1] = OrderedDict()  # soonest first
        self._line: OrderedDict[int, StreamV1] = OrderedDict()  # those ready to send
        self._control: deque[tuple[bytes, bool]] = deque()  # frames; answers to queries in flight
        self._control_size = 0
        self._pongs = 0
        self._events: list[Frame] = []
        self._signalled = False
        self._handlers: dict[type, Callable[[Any, list[Frame]], None]] = {
            Data: self._on_data,
            Close: self._on_close,
            Ping: self._on_ping,
            Pong: self._on_nothing,
            Udp: self._on_nothing,
        }

    # What the owner asks

    @property
    def has_output(self) -> bool:
        """``next_message`` may have something to send now."""
        return bool(self._control or self._pongs or self._events) or self._may_send_data()

    @property
    def may_receive(self) -> bool:
        """Read on. False while a consumer is slow: not reading is all the backpressure there is.

        ``unblock`` is called when it becomes true again.
        """
        return not self._full

    @property
    def deadline(self) -> float | None:
        """When, by the clock, to call ``take_events`` and ``next_message`` at the latest."""
        for stream in self._expiring.values():
            return stream.expiry
        return None

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def round_trip(self) -> float:
        """Not measured in v1."""
        return 0.0

    def is_open(self, stream: int) -> bool:
        return stream in self._streams

    # Messages

    def receive(self, message: Buffer) -> list[Frame]:
        """Take one message, as ``Session.receive``. Frames for gone streams are ignored."""
        if self._dead is not None:
            raise ProtocolError(str(self._dead), self._dead.status)
        events: list[Frame] = []
        if self._over:
            return events
        try:
            size = len(message)
            if size > MOST_MESSAGE:
                raise ProtocolError(f"a message of {size} bytes is over {MOST_MESSAGE}", 1009)
            self.stats.messages_in += 1
            self.stats.bytes_in += size
            frame = parse_v1(message)
            handler = self._handlers.get(type(frame))
            if handler is None:
                peer = "worker" if self.role is Role.CLIENT else "client"
                raise ProtocolError(f"{NAMES[type(frame)]}: a {peer} never sends it")
            handler(frame, events)
        except ProtocolError as error:
            self._dead = error
            self.end()
            raise
        return events

    def take_events(self) -> list[Frame]:
        """Frames for the owner that no message brought: what has expired, for one.

        To be called before ``next_message`` and at ``deadline``.
        """
        if self._expiring:
            now = self._clock()
            for stream in list(self._expiring.values()):
                if stream.expiry > now:
                    break
                del self._expiring[stream.id]
                self._expired(stream)
        events, self._events = self._events, []
        return events

    def next_message(self, limit: int = 262144) -> bytearray | None:
        """The next message, of one frame; None if there is nothing to send now."""
        message = self._next()
        if message is None:
            self._signalled = False
            return None
        self.stats.messages_out += 1
        self.stats.bytes_out += len(message)
        if not self.has_output:
            self._signalled = False
        return message

    def _next(self) -> bytearray | None:
        if self._pongs:
            self._pongs -= 1
            return bytearray(b"\x06")
        if self._control:
            frame, answer = self._control.popleft()
            self._control_size -= len(frame) + _COST
            if answer:
                self._answered(len(frame) - _HEADER)
            self._has_left()
            return bytearray(frame)
        while self._may_send_data():
            _, stream = self._line.popitem(last=False)
            message = self._pull(stream)
            if message is not None:
                return message
            if self._control:
                return self._next()
        return None

    def _pull(self, stream: StreamV1) -> bytearray | None:
        assert stream.source is not None
        buffer = bytearray(_HEADER + self.piece)
        filled = 0
        got: int | None = 0
        with memoryview(buffer) as view:
            while filled < self.piece:
                got = stream.source.pull_into(view[_HEADER + filled :])
                if stream.gone:
                    return None
                if not got:
                    break
                if got > self.piece - filled:
                    raise ValueError(f"{stream.source!r} claims {got} bytes, more than were asked")
                filled += got
        if got:
            self._line[stream.id] = stream
        else:
            stream.ready = False
            self._line.pop(stream.id, None)
        if got is None:
            stream.ended = True
            self._source_ended(stream)
        if not filled or not self._take_data(stream, filled):
            return None
        DATA_HEADER.pack_into(buffer, 0, 0x02, stream.id, filled)
        del buffer[_HEADER + filled :]
        self.stats.data_out += filled
        return buffer

    # For the ends

    def _may_send_data(self) -> bool:
        return bool(self._line)

    def _take_data(self, stream: StreamV1, size: int) -> bool:
        """Bytes of a source are about to leave; False drops them."""
        return True

    def _source_ended(self, stream: StreamV1) -> None:
        raise NotImplementedError

    def _expired(self, stream: StreamV1) -> None:
        raise NotImplementedError

    def _answered(self, size: int) -> None:
        """A DNS response of ``size`` bytes, to a query in flight, has left."""

    def _has_left(self) -> None:
        """A frame that waited in ``_control`` has left."""

    def _on_close(self, frame: Close, events: list[Frame]) -> None:
        raise NotImplementedError

    def _on_data(self, frame: Data, events: list[Frame]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.far_ended:
            return
        size = len(frame.payload)
        if self.role is Role.CLIENT and not stream.connected:
            raise ProtocolError(f"DATA: it came before CONNECTED, for stream {frame.stream}")
        if not size:
            return
        self._hold(stream, size)
        self._room = max(self._room, size)
        if stream.held > self._most_held:
            self._full.add(stream.id)
        if stream.expiry:
            self._expire(stream)
        self.stats.data_in += size
        events.append(frame)

    def _on_ping(self, frame: Ping, events: list[Frame]) -> None:
        if self._pongs >= _MOST_PONGS:
            raise ProtocolError(f"PING: {_MOST_PONGS} of them wait for their PONG")
        self._pongs += 1
        self._signal()

    def _on_nothing(self, frame: Frame, events: list[Frame]) -> None:
        """PONG, and UDP, which v1 does not carry."""

    def _end_stream(self, stream: StreamV1) -> None:
        self._forget(stream)
        self._tell(stream)

    def _tell(self, stream: StreamV1) -> None:
        """Send CLOSE, once."""
        if not stream.told:
            stream.told = True
            self._send(Close(stream.id))

    def _expire(self, stream: StreamV1) -> None:
        """Start the time over after which the stream is ended."""
        stream.expiry = self._clock() + LINGER
        self._expiring[stream.id] = stream
        self._expiring.move_to_end(stream.id)

    def _send(self, frame: Frame, *, answer: bool = False) -> None:
        data = frame.encode()
        self._control.append((data, answer))
        self._control_size += len(data) + _COST
        self._signal()

    def _check_read(self, name: str) -> None:
        """Before one more answer waits: does the peer read them?"""
        if self._control_size > _MOST_CONTROL:
            raise ProtocolError(f"{name}: the peer asks, but does not read the answers")

    def _hold(self, stream: StreamV1, change: int) -> None:
        stream.held += change
        if self._budget is not None:
            self._budget.take(change)

    @property
    def _most_held(self) -> int:
        """Over it, for one stream, reading stops."""
        most = MOST_HELD - self._room
        return most if self._budget is None else min(most, max(LEAST_HELD, self._budget.left))

    def _forget(self, stream: StreamV1) -> None:
        del self._streams[stream.id]
        stream.gone = True
        self._hold(stream, -stream.held)
        self._line.pop(stream.id, None)
        self._expiring.pop(stream.id, None)
        self._empty_enough(stream.id)

    def _empty_enough(self, identifier: int) -> None:
        if identifier in self._full:
            self._full.discard(identifier)
            self._may_read_on()

    def _may_read_on(self) -> None:
        """Tell the owner, if nothing else holds it up."""
        if self.may_receive and self._unblock is not None:
            self._unblock()

    def _signal(self) -> None:
        if not self._signalled and not self._over:
            self._signalled = True
            if self._wake is not None:
                self._wake()

    # What the owner does

    def mark_ready(self, stream: int) -> None:
        """The source of a stream has bytes, or has reached its end."""
        entry = self._streams.get(stream)
        if entry is None or entry.ended:
            return
        entry.ready = True
        self._ask(entry)

    def _ask(self, stream: StreamV1) -> None:
        """Put a ready stream in line, if it may send: it is connected, and it has a source."""
        if stream.ready and stream.connected and stream.source is not None:
            self._line[stream.id] = stream
            self._signal()

    def consumed(self, stream: int, size: int) -> None:
        """The consumer of a stream took ``size`` bytes. Raises ValueError for more than came."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        if not 0 <= size <= entry.held:
            raise ValueError(f"{size} bytes consumed of {entry.held} that came")
        self._hold(entry, -size)
        if not entry.held or entry.held <= self._most_held:
            self._empty_enough(stream)

    def close(self, stream: int) -> None:
        """Abort both directions of a stream."""
        entry = self._streams.get(stream)
        if entry is not None:
            self._end_stream(entry)

    def goaway(self, code: int, reason: str = "") -> None:
        """v1 cannot say it: a worker answers CONNECT with 503 from now on, nothing more."""
        self._going_away = True

    def ping(self) -> None:
        """v1 uses WebSocket pings: does nothing."""

    def end(self) -> None:
        """The session is over, as ``Session.end``."""
        self._over = True
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._control.clear()
        self._control_size = self._pongs = 0
        self._events.clear()
