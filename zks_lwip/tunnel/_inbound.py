"""The state of a session, and what each frame that comes does to it (PROTOCOL.md §3 to §6)."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from ..errors import ProtocolError
from ._fair import FairQueue, Source, Stream
from ._frames import (
    NAMES,
    Ack,
    Buffer,
    Close,
    Code,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    Error,
    Frame,
    GoAway,
    Ping,
    Pong,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
)
from ._hello import MAX_WINDOW, Hello
from ._outbox import Outbox
from ._parse import iter_frames
from ._refusal import no_query_now
from ._settings import Role, Settings
from ._stats import SessionStats
from .credit import Budget, ReceiveWindow, RoundTrip
from .in_flight import QueriesInFlight

__all__ = ["Inbound"]

_MOST_PONGS = 4096
_MOST_CONTROL = 768 << 10  # bytes of control frames that may wait, and per stream that may be open:
_CONTROL_PER_STREAM = 320
_MUCH_CONTROL = 256 << 10  # bytes over which an ERROR says its code alone
_QUIET = 63  # one opportunity to pause for so many frames (a mask)


class Inbound:
    """What a session knows, and its ``receive``; ``Session`` adds what the owner does."""

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] | None = None,
        budget: Budget | None = None,
    ) -> None:
        if settings.resume:
            raise ValueError("sessions do not resume: settings.resume must be 0")
        self.role = role
        self.settings = settings
        self.ready = False
        self.peer: Hello | None = None
        self.stats = SessionStats()
        self._client = role is Role.CLIENT
        self._clock = clock
        self._wake = wake
        self._budget = budget if budget is not None else Budget()
        self._round_trip = RoundTrip()
        self._dead: ProtocolError | None = None
        self._over = False
        self._streams: dict[int, Stream] = {}
        self._highest = 0  # client: the last id that was used; worker: the highest that was seen
        self._going_away = False
        self._associations: OrderedDict[int, None] = OrderedDict()
        self._queries = QueriesInFlight(settings.requests)  # at the worker
        self._outbox = Outbox(self.stats)
        self._queue = FairQueue(self._on_eof_sent)
        self._sent = 0  # counted frames, both ways
        self._taken = 0
        self._acknowledged = 0
        self._most_control = _MOST_CONTROL + _CONTROL_PER_STREAM * settings.streams
        self._hello: bytes | None = None
        self._handlers: dict[type, Callable[[Any, list[Frame]], None]] = {Hello: self._on_hello}
        if self._client:
            self._hello = settings.hello(role).encode()
        self._signalled = self._hello is not None

    @property
    def has_output(self) -> bool:
        """``next_message`` may have something to send."""
        if self._hello is not None:
            return True
        return self.ready and bool(self._queue or self._outbox)

    def end(self) -> None:
        """The session is over: forget its streams and all that waits; nothing comes or goes now.

        The owner calls it when the WebSocket is lost; a second time does nothing.
        """
        self._over = True
        self.ready = False
        self._hello = None
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._associations.clear()
        self._queries.clear()
        self._outbox = Outbox(self.stats)

    def receive(self, message: Buffer) -> list[Frame]:
        """Take one WebSocket message; returns, in order, the frames that concern the owner.

        Those are all but PING, PONG, WINDOW, ACK and unknown ones. DATA and UDP payloads are views
        into ``message``. Raises ProtocolError, also every time after the first; the session is then
        over, and the WebSocket is to be closed with the error's status.
        """
        return [frame for frame in self.work_through(message) if frame is not None]

    def work_through(self, message: Buffer) -> Iterator[Frame | None]:
        """As :meth:`receive`, a frame at a time, so that the owner can pause: None, now and then,
        is an opportunity where 200,000 frames are none of its business. One message at a time.
        """
        if self._dead is not None:
            raise ProtocolError(str(self._dead), self._dead.status)
        if self._over:
            return
        events: list[Frame] = []
        quiet = 0
        try:
            size = len(message)
            if size > self.settings.max_message:
                most = self.settings.max_message
                raise ProtocolError(f"a message of {size} bytes is over max_message, {most}", 1009)
            self.stats.messages_in += 1
            self.stats.bytes_in += size
            for frame in iter_frames(message):
                handler = self._handlers.get(type(frame))
                if handler is None:
                    self._refuse_frame(frame)
                handler(frame, events)
                if frame.counted:
                    self._taken += 1
                if events:
                    yield from events
                    events.clear()
                else:
                    quiet += 1
                    if not quiet & _QUIET:
                        yield None
                if self._over:
                    return
        except ProtocolError as error:
            self._dead = error
            self.end()
            raise

    def _refuse_frame(self, frame: Frame) -> NoReturn:
        name = NAMES.get(type(frame)) or f"command 0x{frame.command:02x}"
        peer = "worker" if self._client else "client"
        if self.peer is None:
            raise ProtocolError(f"{name}: it came before HELLO")
        if self._hello is not None:
            raise ProtocolError(f"{name}: the client sent it before our HELLO could reach it")
        what = "a second one" if type(frame) is Hello else f"a {peer} never sends it"
        raise ProtocolError(f"{name}: {what}")

    def _on_hello(self, frame: Hello, events: list[Frame]) -> None:
        if self._client and frame.resume and frame.session is None:
            raise ProtocolError("HELLO: it offers to resume, but names no session")
        self.peer = frame
        if self._client:
            self._round_trip.answered(self._clock())
            self._handlers = self._all_handlers()
        else:
            hello = self.settings.hello(self.role)
            session = hello.session or secrets.token_urlsafe(24)
            self._hello = replace(hello, session=session).encode()
            # Until our HELLO has left the client may not send a thing
            self._handlers = {}
        self.ready = True
        events.append(frame)
        if self.has_output:
            self._signal()

    def _all_handlers(self) -> dict[type, Callable[[Any, list[Frame]], None]]:
        handlers: dict[type, Callable[[Any, list[Frame]], None]] = {
            Data: self._on_data,
            Udp: self._on_udp,
            Eof: self._on_eof,
            Close: self._on_close,
            Window: self._on_window,
            Ping: self._on_ping,
            Pong: self._on_pong,
            Ack: self._on_ack,
            UdpClose: self._on_udp_close,
            GoAway: self._on_goaway,
            Unknown: lambda frame, events: None,  # skipped (PROTOCOL.md §2)
        }
        if self._client:
            handlers[Connected] = self._on_connected
            handlers[Error] = self._on_error
            handlers |= dict.fromkeys((DnsResponse, EchoReply, UdpError), self._pass_on)
        else:
            handlers[Connect] = self._on_connect
            handlers[DnsQuery] = self._on_dns_query
            handlers[Echo] = self._on_echo
        return handlers

    def _find(self, name: str, identifier: int) -> Stream | None:
        """The open stream, None if it is gone; a ProtocolError if it is idle."""
        used = self._outbox.highest if self._client else self._highest
        if not 0 < identifier <= used:
            raise ProtocolError(f"{name}: stream {identifier} is idle")
        return self._streams.get(identifier)

    def _on_data(self, frame: Data, events: list[Frame]) -> None:
        identifier = frame.stream
        size = len(frame.payload)
        stream = self._find("DATA", identifier)
        if size > self.settings.max_data:
            most = self.settings.max_data
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
        self.stats.data_in += size
        events.append(frame)

    def _on_eof(self, frame: Eof, events: list[Frame]) -> None:
        stream = self._find("EOF", frame.stream)
        if stream is None:
            return
        if stream.eof_taken:
            raise ProtocolError(f"EOF: a second one, for stream {frame.stream}")
        if self._client and not stream.connected:
            raise ProtocolError(f"EOF: it came before CONNECTED, for stream {frame.stream}")
        stream.eof_taken = True
        self._outbox.windows.pop(stream.id, None)
        if stream.eof_sent:
            self._forget(stream)
        events.append(frame)

    def _on_close(self, frame: Close, events: list[Frame]) -> None:
        stream = self._find("CLOSE", frame.stream)
        if stream is not None:
            self._forget(stream)
            events.append(frame)
        # Whatever still waits for the stream, an ERROR say, would only be ignored
        self._outbox.forget(frame.stream)

    def _on_error(self, frame: Error, events: list[Frame]) -> None:
        stream = self._find("ERROR", frame.stream)
        if stream is not None:
            self._forget(stream)
            events.append(frame)

    def _on_connected(self, frame: Connected, events: list[Frame]) -> None:
        stream = self._find("CONNECTED", frame.stream)
        if stream is None:
            return
        if stream.connected:
            raise ProtocolError(f"CONNECTED: a second one, for stream {frame.stream}")
        stream.connected = True
        events.append(frame)

    def _on_connect(self, frame: Connect, events: list[Frame]) -> None:
        identifier = frame.stream
        if identifier <= self._highest:
            raise ProtocolError(
                f"CONNECT: stream {identifier} is not above {self._highest}, the last one"
            )
        if self._outbox.control_size > self._most_control:
            raise ProtocolError("CONNECT: the client opens streams, but does not read the answers")
        self._highest = identifier
        if self._going_away:
            self._answer_error(identifier, Code.GOING_AWAY, "the worker is going away")
            self.stats.streams_refused += 1
        elif len(self._streams) >= self.settings.streams:
            most = self.settings.streams
            self._answer_error(identifier, Code.TOO_MANY_STREAMS, f"{most} streams are open")
            self.stats.streams_refused += 1
        else:
            self._open(identifier, None)
            events.append(frame)

    def _on_window(self, frame: Window, events: list[Frame]) -> None:
        stream = self._find("WINDOW", frame.stream)
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
            self._enqueue(stream)

    def _on_ping(self, frame: Ping, events: list[Frame]) -> None:
        if self._outbox.pongs >= _MOST_PONGS:
            raise ProtocolError(f"PING: {_MOST_PONGS} of them wait for their PONG")
        self._outbox.pongs += 1
        self._signal()

    def _on_pong(self, frame: Pong, events: list[Frame]) -> None:
        self._round_trip.answered(self._clock())

    def _on_ack(self, frame: Ack, events: list[Frame]) -> None:
        if not self._acknowledged <= frame.count <= self._sent:
            raise ProtocolError(
                f"ACK: {frame.count} frames, not {self._acknowledged} to {self._sent}"
            )
        self._acknowledged = frame.count

    def _on_goaway(self, frame: GoAway, events: list[Frame]) -> None:
        if self._client:
            self._going_away = True
        events.append(frame)

    def _on_udp(self, frame: Udp, events: list[Frame]) -> None:
        identifier = frame.association
        if not identifier:
            raise ProtocolError("UDP: association 0 does not exist")
        if not self._client:
            if not self.settings.udp:
                return
            associations = self._associations
            if identifier in associations:
                associations.move_to_end(identifier)
            elif not self._admit(identifier, events):
                return
        self.stats.datagrams_in += 1
        events.append(frame)

    def _admit(self, identifier: int, events: list[Frame]) -> bool:
        """Worker: open an association, at the cost of the least recently used one."""
        most = self.settings.associations
        if not most:
            return False
        if len(self._associations) >= most:
            evicted, _ = self._associations.popitem(last=False)
            frame = UdpClose(evicted)
            self._send_datagram(frame.encode())
            self.stats.associations_evicted += 1
            events.append(frame)
        self._associations[identifier] = None
        return True

    def _on_udp_close(self, frame: UdpClose, events: list[Frame]) -> None:
        if self._client:
            events.append(frame)
        elif frame.association in self._associations:
            del self._associations[frame.association]
            events.append(frame)

    def _on_dns_query(self, frame: DnsQuery, events: list[Frame]) -> None:
        request = frame.request
        if not request:
            raise ProtocolError("DNS_QUERY: request 0 does not exist")
        if self.settings.dns and self._queries.take(request, len(frame.message)):
            events.append(frame)
            return
        self.stats.dns_refused += 1
        answer = DnsResponse(
            request, no_query_now(frame.message, self.settings.dns, self.settings.requests)
        ).encode()
        if not self._outbox.add_dns(answer, in_flight=False):
            raise ProtocolError("DNS_QUERY: the client asks, but does not read the answers")
        self._signal()

    def _on_echo(self, frame: Echo, events: list[Frame]) -> None:
        if not frame.request:
            raise ProtocolError("ECHO: request 0 does not exist")
        if self.settings.icmp:
            events.append(frame)

    def _pass_on(self, frame: Frame, events: list[Frame]) -> None:
        events.append(frame)

    # Streams

    def _open(self, identifier: int, source: Source | None) -> Stream:
        assert self.peer is not None
        window = ReceiveWindow(self.settings.window, self._budget)
        stream = Stream(identifier, source, self.peer.window, window)
        self._streams[identifier] = stream
        self.stats.streams_opened += 1
        return stream

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        stream.gone = True
        stream.window.release()
        self._queue.discard(stream)
        self._outbox.windows.pop(stream.id, None)

    def _enqueue(self, stream: Stream) -> None:
        """Let a ready stream send, if it has a source, credit, and (worker) is connected."""
        if (
            stream.credit
            and stream.source is not None
            and (self._client or stream.connected)
            and not stream.eof_sent
        ):
            self._queue.add(stream)
            self._signal()

    def _on_eof_sent(self, stream: Stream) -> None:
        if stream.eof_taken:
            self._forget(stream)

    def _answer_error(self, identifier: int, code: int, message: str) -> None:
        if self._outbox.control_size > _MUCH_CONTROL:
            message = ""
        self._outbox.add_control(identifier, Error(identifier, code, message).encode())
        self._signal()

    def _send_datagram(self, frame: bytes) -> None:
        self._outbox.add_datagram(frame)
        self._signal()

    def _signal(self) -> None:
        if not self._signalled and self.ready:
            self._signalled = True
            if self._wake is not None:
                self._wake()
