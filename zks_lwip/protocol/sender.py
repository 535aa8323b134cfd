"""Which message leaves next, and what is kept of it (PROTOCOL.md §4 to §6)."""

from __future__ import annotations

import math
from collections.abc import Callable

from . import spares
from .credit import RoundTrip
from .frames import Buffer
from .hello import Hello
from .in_flight import QueriesInFlight
from .kept import Kept
from .multiplexer import Multiplexer
from .outbox import Outbox
from .stats import SessionStats
from .taken import Taken
from .wakeup import Wakeup

__all__ = ["Sender"]

_MIN_LIMIT = 4096
_MIN_ROOM = 64
"""Bytes of room in a message below which no DATA is begun in it."""
_BESIDE = 0.25
"""Seconds for which messages are a quarter as large when a stream has sent little while bulk ones
waited, and not for the first time: its next (a keystroke, its echo) then waits for less of it."""
_LEAST_BESIDE = 16 << 10
"""Bytes below which messages are not made smaller by that."""
_SMALL = 32 << 10
"""Bytes of a message up to which it is copied out of the buffer that it was written in."""


class Sender:
    """Makes the messages of a session.

    :param on_hello_sent: called when our HELLO leaves.
    """

    __slots__ = (
        "_alone",
        "_beside",
        "_clock",
        "_kept",
        "_mux",
        "_on_hello_sent",
        "_outbox",
        "_queries",
        "_round_trip",
        "_stats",
        "_taken",
        "_wakeup",
        "peer",
    )

    def __init__(
        self,
        *,
        outbox: Outbox,
        mux: Multiplexer,
        kept: Kept,
        taken: Taken,
        queries: QueriesInFlight,
        stats: SessionStats,
        round_trip: RoundTrip,
        clock: Callable[[], float],
        wakeup: Wakeup,
        on_hello_sent: Callable[[], None],
    ) -> None:
        self.peer: Hello | None = None
        """The peer's HELLO, while frames may be sent: it has come on this WebSocket."""
        self._outbox = outbox
        self._mux = mux
        self._kept = kept
        self._taken = taken
        self._queries = queries
        self._stats = stats
        self._round_trip = round_trip
        self._clock = clock
        self._wakeup = wakeup
        self._on_hello_sent = on_hello_sent
        self._alone = False  # the next frame that is sent again is too large to share a message
        self._beside = -math.inf  # when one last sent little while bulk ones waited

    @property
    def counted(self) -> int:
        """Counted frames (PROTOCOL.md §6) sent so far."""
        return int(self._outbox.counted + self._mux.c.frames)

    @property
    def has_output(self) -> bool:
        """See :attr:`Session.has_output`."""
        outbox = self._outbox
        if outbox.hello is not None:
            return True
        if self.peer is None:
            return False
        kept = self._kept
        if not kept.full and self._mux.c.lined:
            return True
        if outbox and (not kept.stuffed or outbox.has_uncounted):
            return True
        taken = self._taken
        return bool(kept.unsent or (taken.count != taken.said and taken.is_due()))

    def clear(self) -> None:
        """Count from 0, as at the start of a session."""
        self._outbox.counted = 0
        self._mux.forget_frames()

    def next_message(self, limit: int) -> bytearray | None:
        """See :meth:`Session.next_message`."""
        if limit < _MIN_LIMIT:
            raise ValueError(f"a limit of {limit} bytes is below {_MIN_LIMIT}")
        self._kept.was_sent()
        outbox, peer = self._outbox, self.peer
        message: bytearray | None = None
        if outbox.hello is not None:
            message = bytearray(outbox.hello)
            outbox.hello = None
            self._on_hello_sent()
            self._alone = False
        elif peer is not None:
            limit = min(limit, peer.max_message)
            if limit > _LEAST_BESIDE and self._clock() - self._beside < _BESIDE:
                limit = max(limit // 4, _LEAST_BESIDE)
            message = self._assemble(limit, peer.max_data, self._mux.c.lined > 0)
            if not message and outbox:
                # What waits had left its share to streams, which turned out to have nothing
                message = self._assemble(limit, peer.max_data, False)
        if not message:
            self._wakeup.told = False
            return None
        self._stats.messages_out += 1
        self._stats.bytes_out += len(message)
        if not self.has_output:
            self._wakeup.told = False
        return message

    def _assemble(self, limit: int, max_data: int, streams: bool) -> bytearray:
        outbox, kept, taken = self._outbox, self._kept, self._taken
        parts: list[Buffer] = []
        size = 0
        if kept.unsent and self._alone:
            return self._send_again(parts, size, limit)
        waiting = bool(outbox)
        if taken.count != taken.said and taken.active:
            if waiting or streams or kept.unsent or taken.is_due():
                parts.append(taken.ack())
                size = len(parts[0])
        if waiting and outbox.has_uncounted:
            pinged = outbox.pings
            shared = streams or outbox.has_counted or bool(kept.unsent)
            size = outbox.take_uncounted(parts, size, limit, shared)
            if pinged and not outbox.pings:
                self._round_trip.sent(self._clock())
            for answer in outbox.answered:
                self._queries.left(answer)
            outbox.answered.clear()
        if kept.unsent:
            return self._send_again(parts, size, limit)
        start = size  # of the counted frames
        c = self._mux.c
        before = outbox.counted + c.frames
        if waiting and not kept.stuffed:
            size = outbox.take_counted(parts, size, limit)
        # While control frames wait, a stream's CONNECT or CONNECTED may be among them
        if c.lined and not outbox.control and limit - size >= _MIN_ROOM and not kept.full:
            message = self._fill(parts, size, limit, max_data)
        else:
            message = bytearray().join(parts)
        if kept.active:
            after = outbox.counted + c.frames
            if after > before:
                kept.put(message, start, after, self._clock())
                if kept.pressed:
                    self.ask()
        return message

    def ask(self) -> None:
        """Send a PING where an ACK is needed, which comes with the PONG; one at a time."""
        if self._kept.pressed and not self._round_trip.pending:
            self._outbox.add_ping()

    def _fill(self, parts: list[Buffer], size: int, limit: int, max_data: int) -> bytearray:
        """Return a message of these parts, with DATA and EOF behind them."""
        buffer = spares.take(limit)
        mux = self._mux
        payload, sparse = mux.c.payload, mux.c.sparse
        with memoryview(buffer) as whole, whole[:limit] as view:
            if parts:
                view[:size] = b"".join(parts)
            end = mux.fill(view, size, max_data)
        self._stats.data_out += mux.c.payload - payload
        if mux.c.sparse != sparse:
            self._beside = self._clock()
        # A message that is kept may not hold a buffer that is much larger
        if end <= _SMALL or (self._kept.active and end * 4 < len(buffer) * 3):
            message = buffer[:end]
            spares.give(buffer)  # from here on it may be another thread's
            return message
        del buffer[end:]
        return buffer

    def _send_again(self, parts: list[Buffer], size: int, limit: int) -> bytearray:
        """Return a message of these parts, with frames behind them that were sent before."""
        self._alone = bool(size) and self._kept.next_length > limit - size
        if self._alone:
            return bytearray().join(parts)
        view, frames = self._kept.send_again(limit - size, self._clock())
        self._stats.frames_resent += frames
        self._stats.bytes_resent += len(view)
        return bytearray().join((*parts, view))
