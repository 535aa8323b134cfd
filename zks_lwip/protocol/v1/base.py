"""What both ends of a v1 session share: messages of one frame, without HELLO or credit.

There are three differences to v2, which :mod:`..interface` tells of:

- Nothing but not reading holds a sender up: read the WebSocket only while ``may_receive``.
- Some events come with time, not with a message: call ``take_events`` before each
  ``next_message``, and at ``deadline``; sleep only while ``has_output`` is false.
- CLOSE is the end of a stream in both directions. At the client it comes as EofReceived, behind all
  DATA, unless it is known that the stream was cut: then as StreamReset. At a worker it always means
  that the client has sent all it had, and is StreamClosed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ...errors import ProtocolError
from ..credit import Budget
from ..decode import parse_v1
from ..events import DataReceived, Event, SessionReady
from ..frames import DATA_HEADER, NAMES, Buffer, Close, Data, Frame, Ping, Pong, Udp
from ..hello import Hello
from ..settings import Role, Settings
from ..stats import SessionStats
from ..wakeup import Wakeup
from .held import HeldBytes
from .outbox import OutboxV1
from .stream import ExpiringStreams, StreamV1

__all__ = ["MAX_MESSAGE", "BaseV1"]

MAX_MESSAGE = 1 << 20
"""Most bytes of a v1 message."""

_HEADER = DATA_HEADER.size

_Handler: TypeAlias = Callable[[Any, list[Event]], None]


class BaseV1:
    """A v1 session; what its two ends do differently is in their classes.

    :param peer: what the other end can carry.
    :param clock: seconds, monotonic.
    :param budget: bounds what all sessions that share it hold, together.
    :param hold_up_at: see :class:`OutboxV1`.
    """

    flow_controlled = False
    resumable = False
    resume_seconds = 0
    resumes = 0
    id: str | None = None
    unacknowledged = 0
    unacknowledged_since: float | None = None
    kept_limit = 0
    piece = 16 << 10
    """Most bytes of a DATA payload that is sent."""

    def __init__(
        self,
        role: Role,
        settings: Settings,
        peer: Hello,
        *,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
        hold_up_at: int | None = None,
    ) -> None:
        self.role = role
        self.settings = settings
        self.ready = True
        self.peer: Hello | None = peer
        self.stats = SessionStats()
        self._clock = clock
        self.attached = False
        self._wakeup = Wakeup(enabled=True, told=True)  # SessionReady waits
        self._unblock: Callable[[], None] | None = None
        self.outbox = OutboxV1(self._wakeup, hold_up_at=hold_up_at, on_relief=self._may_read_on)
        """What waits to leave besides DATA."""
        self.held = HeldBytes(budget, self._may_read_on)
        """What came and is not consumed."""
        self._broken: ProtocolError | None = None
        self._over = False
        self._going_away = False
        self._streams: dict[int, StreamV1] = {}
        self._expiring = ExpiringStreams(clock)
        self._line: OrderedDict[int, StreamV1] = OrderedDict()  # those ready to send
        self._events: list[Event] = [SessionReady(peer)]
        self._handlers: dict[type, _Handler] = {
            Data: self._on_data,
            Close: self._on_close,
            Ping: self._on_ping,
            Pong: self._on_nothing,
            Udp: self._on_nothing,
        }

    # The WebSocket

    def attach(
        self,
        wake: Callable[[], None] | None = None,
        unblock: Callable[[], None] | None = None,
    ) -> None:
        """Begin, over a WebSocket that has been opened, once.

        :param wake: called, and must only take note, whenever ``has_output`` becomes true.
        :param unblock: called likewise when ``may_receive`` becomes true again.
        :raises RuntimeError: while it is attached, or once it is over.
        """
        if self.attached or self._over:
            raise RuntimeError("this session is over" if self._over else "it is attached already")
        self.attached = True
        self._wakeup.attach(wake)
        self._unblock = unblock

    def detach(self) -> bool:
        """End the session, as :meth:`end`: one of v1 is never resumed."""
        self.end()
        return False

    # What the owner asks

    @property
    def has_output(self) -> bool:
        """``next_message`` may have something to send now, or ``take_events`` to tell."""
        return bool(self.outbox or self._events) or self._may_send_data()

    @property
    def may_receive(self) -> bool:
        """Whether the owner may read another message.

        False while a consumer is slow: not reading is all the backpressure there is.

        False too while so many bytes of answers wait for the peer that it is held up. (Of two ends
        only the worker does that: if both did, neither would read again.)
        """
        return not (self.held.full or self.outbox.holds_up)

    @property
    def deadline(self) -> float | None:
        """When, by the clock, to call ``take_events`` and ``next_message`` at the latest."""
        return self._expiring.deadline

    @property
    def finished(self) -> bool:
        """The session is of no more use: close the WebSocket (1000)."""
        return False

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def round_trip(self) -> float:
        """Not measured in v1."""
        return 0.0

    def is_open(self, stream: int) -> bool:
        """Return whether a stream is open."""
        return stream in self._streams

    # Messages

    def receive(self, message: Buffer) -> list[Event]:
        """Take one message, as ``Session.receive``. Frames for gone streams are ignored."""
        if self._broken is not None:
            raise ProtocolError(str(self._broken), self._broken.status)
        events: list[Event] = []
        if self._over:
            return events
        try:
            size = len(message)
            if size > MAX_MESSAGE:
                raise ProtocolError(f"a message of {size} bytes is over {MAX_MESSAGE}", 1009)
            self.stats.messages_in += 1
            self.stats.bytes_in += size
            frame = parse_v1(message)
            handler = self._handlers.get(type(frame))
            if handler is None:
                peer = "worker" if self.role is Role.CLIENT else "client"
                raise ProtocolError(f"{NAMES[type(frame)]}: a {peer} never sends it")
            handler(frame, events)
        except ProtocolError as error:
            self._broken = error
            self.end()
            raise
        return events

    def work_through(self, message: Buffer) -> Iterator[Event | None]:
        """Take one message, as :meth:`receive`: it is one frame, so there is no need to pause."""
        yield from self.receive(message)

    def take_events(self) -> list[Event]:
        """Return the events that no message has brought: what has expired, for one.

        To be called before ``next_message`` and at ``deadline``.
        """
        for stream in self._expiring.take_late():
            self._expired(stream)
        events, self._events = self._events, []
        return events

    def next_message(self, limit: int = 262144) -> bytearray | None:
        """Return the next message, of one frame; None if there is nothing to send now.

        :param limit: ignored: frames are small.
        """
        message = self._next()
        if message is None:
            self._wakeup.told = False
            return None
        self.stats.messages_out += 1
        self.stats.bytes_out += len(message)
        if not self.has_output:
            self._wakeup.told = False
        return message

    def message_changed(self, restore: Callable[[bytearray], None]) -> None:
        """Do nothing: no message is kept."""

    def _next(self) -> bytearray | None:
        while True:
            waiting = self.outbox.take()
            if waiting is not None:
                frame, answer = waiting
                if answer:
                    self._answered(len(frame) - _HEADER)
                return bytearray(frame)
            if not self._may_send_data():
                return None
            _, stream = self._line.popitem(last=False)
            message = self._pull(stream)
            if message is not None:
                return message

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
        """Note that bytes of a source are about to leave; False drops them."""
        return True

    def _source_ended(self, stream: StreamV1) -> None:
        raise NotImplementedError

    def _expired(self, stream: StreamV1) -> None:
        raise NotImplementedError

    def _answered(self, size: int) -> None:
        """Note that a DNS response of ``size`` bytes, to a query in flight, has left."""

    def _on_close(self, frame: Close, events: list[Event]) -> None:
        raise NotImplementedError

    def _on_data(self, frame: Data, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.far_ended:
            return
        payload = memoryview(frame.payload)
        size = len(payload)
        if self.role is Role.CLIENT and not stream.connected:
            raise ProtocolError(f"DATA: it came before CONNECTED, for stream {frame.stream}")
        if not size:
            return
        self.held.add(stream.id, size)
        if stream.expiry:
            self._expiring.start(stream)
        self.stats.data_in += size
        events.append(DataReceived(stream.id, payload))

    def _on_ping(self, frame: Ping, events: list[Event]) -> None:
        self.outbox.pong()

    def _on_nothing(self, frame: Frame, events: list[Event]) -> None:
        """PONG, and UDP, which v1 does not carry."""

    def _end_stream(self, stream: StreamV1) -> None:
        self._forget(stream)
        self._tell(stream)

    def _tell(self, stream: StreamV1) -> None:
        """Send CLOSE, once."""
        if not stream.told:
            stream.told = True
            self.outbox.send(Close(stream.id))

    def _forget(self, stream: StreamV1) -> None:
        del self._streams[stream.id]
        stream.gone = True
        self._line.pop(stream.id, None)
        self._expiring.stop(stream)
        self.held.forget(stream.id)

    def _may_read_on(self) -> None:
        """Tell the owner, if nothing else holds it up."""
        if self.may_receive and self._unblock is not None:
            self._unblock()

    # What the owner does

    def mark_ready(self, stream: int) -> None:
        """Say that the source of a stream has bytes, or has reached its end."""
        entry = self._streams.get(stream)
        if entry is None or entry.ended:
            return
        entry.ready = True
        self._ask(entry)

    def _ask(self, stream: StreamV1) -> None:
        """Put a ready stream in line, if it may send: it is connected, and it has a source."""
        if stream.ready and stream.connected and stream.source is not None:
            self._line[stream.id] = stream
            self._wakeup()

    def consumed(self, stream: int, size: int) -> None:
        """Say that ``size`` bytes of a stream's DATA were passed on.

        :raises ValueError: for more than came.
        """
        if stream in self._streams:
            self.held.consume(stream, size)

    def bind(
        self, stream: int, target: Any, handle: int, *, pull: bool = False, push: bool = False
    ) -> None:
        """Do nothing: Python moves the bytes of v1."""

    def unbind(self, stream: int) -> None:
        """Do nothing: nothing is ever bound."""

    def close(self, stream: int) -> None:
        """Abort both directions of a stream."""
        entry = self._streams.get(stream)
        if entry is not None:
            self._end_stream(entry)

    def goaway(self, code: int, reason: str = "") -> None:
        """Open no new stream. v1 cannot say it: a worker answers CONNECT with 503, nothing more."""
        self._going_away = True

    def announced(self, hello: Hello) -> None:
        """Do nothing: v1 has no HELLO."""

    def ping(self) -> None:
        """Do nothing: v1 uses WebSocket pings."""

    def end(self) -> None:
        """Forget all streams and all that waits, as ``Session.end``."""
        self._over = True
        self.attached = False
        # Or they would hold each other until Python looks for cycles
        self._wakeup.attach(None)
        self._unblock = None
        self._wakeup.enabled = False
        for stream in list(self._streams.values()):
            self._forget(stream)
        self.outbox.clear()
        self._events.clear()

    # What v1 does not carry

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """Drop it, and return False: v1 carries no UDP."""
        self.stats.datagrams_dropped += 1
        return False

    def send_udp_frames(self, frames: Buffer, count: int, association: int = 0) -> bool:
        """Drop them, and return False: v1 carries no UDP."""
        self.stats.datagrams_dropped += count
        return False

    def udp_close(self, association: int) -> None:
        """Do nothing: v1 carries no UDP."""
