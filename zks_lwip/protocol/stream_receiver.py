"""What each frame of a stream that comes does to it, and the events it gives (PROTOCOL.md §4).

Every check of the order of these frames is here; :mod:`.decode` has looked at their form before.
Most DATA and WINDOW frames are taken by C, many at a time, which leaves the others to Python.
"""

from __future__ import annotations

from collections.abc import Callable

from .._lwip import ffi
from ..errors import ProtocolError
from .credit import RoundTrip
from .events import (
    DataReceived,
    EofReceived,
    Event,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
)
from .frames import Close, Code, Error, Window
from .greeting import Greeting
from .hello import MAX_WINDOW
from .multiplexer import DATA, GRANT
from .outbox import Outbox
from .sender import Sender
from .settings import Role, Settings
from .stats import SessionStats
from .stream import Stream
from .stream_table import StreamTable
from .wakeup import Wakeup

__all__ = ["StreamReceiver"]

_from_buffer = ffi.from_buffer


class StreamReceiver:
    """Takes the frames of the streams of a session, and grants what was consumed."""

    __slots__ = (
        "_client",
        "_clock",
        "_greeting",
        "_outbox",
        "_round_trip",
        "_sender",
        "_settings",
        "_stats",
        "_streams",
        "_wakeup",
    )

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        streams: StreamTable,
        outbox: Outbox,
        sender: Sender,
        greeting: Greeting,
        stats: SessionStats,
        round_trip: RoundTrip,
        clock: Callable[[], float],
        wakeup: Wakeup,
    ) -> None:
        self._client = role is Role.CLIENT
        self._settings = settings
        self._streams = streams
        self._outbox = outbox
        self._sender = sender
        self._greeting = greeting
        self._stats = stats
        self._round_trip = round_trip
        self._clock = clock
        self._wakeup = wakeup

    def apply(self, view: memoryview, size: int, position: int) -> list[DataReceived]:
        """Have C take DATA and WINDOW frames, as many as it can.

        :returns: the bytes that are for the owners of their streams.
        """
        streams = self._streams
        events: list[DataReceived] = []
        message = _from_buffer(view)
        for kind, identifier, offset, length in streams.mux.apply(
            message, size, position, self._clock()
        ):
            stream = streams.open[identifier]
            if kind == DATA:
                events.append(DataReceived(identifier, view[offset : offset + length]))
            elif kind == GRANT:
                self.grant(stream)
            elif stream.source is not None:
                stream.source.broke(length, pushing=True)
        self._stats.data_in += streams.mux.c.data_in
        if not self._wakeup.told and streams.mux.c.lined:
            self._wakeup()
        return events

    def grant(self, stream: Stream) -> None:
        """Let the peer send as much more as was consumed of a stream, or as the window allows."""
        window = stream.window
        now = self._clock()
        before = window.size
        window.grant(now, self._round_trip.estimate)
        if window.size > before:
            self._stats.windows_grown += 1
        if window.due:
            self._outbox.grant(stream)
        if self._sender.peer is not None and self._round_trip.is_stale(now):
            self._outbox.add_ping()

    # The frames that come, one at a time

    def on_data(self, data: DataReceived, events: list[Event]) -> None:
        identifier = data.stream
        size = len(data.payload)
        stream = self._streams.find("DATA", identifier)
        if size > self._settings.max_data:
            most = self._settings.max_data
            raise ProtocolError(f"DATA: {size} bytes for stream {identifier}, max_data is {most}")
        if stream is None:
            return
        if stream.eof_taken:
            raise ProtocolError(f"DATA: it came after EOF, for stream {identifier}")
        if self._client and not stream.connected:
            raise ProtocolError(f"DATA: it came before CONNECTED, for stream {identifier}")
        if not size:
            return
        window = stream.window
        if not window.take(size):
            raise ProtocolError(
                f"DATA: {size} bytes for stream {identifier}, its credit is {window.available}"
            )
        if not window.since:
            window.since = self._clock()
        self._stats.data_in += size
        events.append(data)

    def on_eof(self, event: EofReceived, events: list[Event]) -> None:
        stream = self._streams.find("EOF", event.stream)
        if stream is None:
            return
        c = stream.c
        if c.eof_taken:
            raise ProtocolError(f"EOF: a second one, for stream {event.stream}")
        if self._client and not c.connected:
            raise ProtocolError(f"EOF: it came before CONNECTED, for stream {event.stream}")
        c.eof_taken = 1
        self._outbox.windows.pop(stream.id, None)
        if c.eof_sent:
            self._streams.forget(stream)
        events.append(event)

    def on_close(self, frame: Close, events: list[Event]) -> None:
        stream = self._streams.find("CLOSE", frame.stream)
        if stream is not None:
            self._streams.forget(stream)
            # After EOF it is what close() is to a kernel, not a reset (PROTOCOL.md §4)
            ended = stream.eof_taken and not self._client
            events.append(StreamClosed(stream.id) if ended else StreamReset(stream.id))
        # Whatever still waits for the stream, an ERROR say, would only be ignored
        self._outbox.forget(frame.stream)

    def on_error(self, frame: Error, events: list[Event]) -> None:
        stream = self._streams.find("ERROR", frame.stream)
        if stream is not None:
            self._streams.forget(stream)
            events.append(StreamReset(stream.id, frame.code, frame.message))

    def on_connected(self, event: StreamConnected, events: list[Event]) -> None:
        stream = self._streams.find("CONNECTED", event.stream)
        if stream is None:
            return
        c = stream.c
        if c.connected:
            raise ProtocolError(f"CONNECTED: a second one, for stream {event.stream}")
        c.connected = 1
        events.append(event)

    def on_connect(self, event: StreamOpened, events: list[Event]) -> None:
        identifier = event.stream
        streams = self._streams
        if identifier <= streams.highest:
            raise ProtocolError(
                f"CONNECT: stream {identifier} is not above {streams.highest}, the last one"
            )
        if self._outbox.control_size > self._outbox.max_control:
            raise ProtocolError("CONNECT: the client opens streams, but does not read the answers")
        streams.highest = identifier
        if streams.going_away:
            self._outbox.add_error(identifier, Code.GOING_AWAY, "the worker is going away")
            self._stats.streams_refused += 1
        elif len(streams.open) >= self._settings.streams:
            most = self._settings.streams
            self._outbox.add_error(identifier, Code.TOO_MANY_STREAMS, f"{most} streams are open")
            self._stats.streams_refused += 1
        else:
            peer = self._greeting.peer
            assert peer is not None
            streams.add(identifier, None, peer.window)
            events.append(event)

    def on_window(self, frame: Window, events: list[Event]) -> None:
        stream = self._streams.find("WINDOW", frame.stream)
        if stream is None:
            return
        credit = stream.credit + frame.credit
        if credit > MAX_WINDOW:
            raise ProtocolError(
                f"WINDOW: stream {frame.stream} would have {credit} bytes of credit,"
                f" over {MAX_WINDOW}"
            )
        stream.credit = credit
        if stream.ready:
            self._streams.schedule(stream)
