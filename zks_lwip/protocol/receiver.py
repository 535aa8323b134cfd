"""What each frame that comes does to a session, and the events it gives (PROTOCOL.md §3 to §6).

Every check of the order of frames is here; :mod:`.decode` has looked at their form before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

from .._lwip import ffi
from ..errors import ProtocolError
from .credit import RoundTrip
from .decode import EventReader, datagrams_of
from .dns_refusal import no_query_now
from .events import (
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsAnswerReceived,
    DnsQueryReceived,
    EchoReceived,
    EchoReplyReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
    UdpClosed,
    UdpErrorReceived,
)
from .frames import (
    NAMES,
    Ack,
    Buffer,
    Close,
    Code,
    Data,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    Error,
    GoAway,
    Ping,
    Pong,
    UdpClose,
    UdpError,
    Unknown,
    Window,
)
from .greeting import Greeting
from .hello import MAX_WINDOW, Hello
from .in_flight import QueriesInFlight
from .kept import Kept
from .multiplexer import DATA, GRANT
from .outbox import Outbox
from .sender import Sender
from .settings import Role, Settings
from .stats import SessionStats
from .stream import Stream
from .stream_table import StreamTable
from .taken import Taken
from .wakeup import Wakeup

__all__ = ["Receiver"]

_from_buffer = ffi.from_buffer
_DATA, _WINDOW = Data.command, Window.command
_MAX_PONGS = 4096
_PAUSE_MASK = 63
"""``work_through`` yields None once for so many frames without an event, and one more; and behind
those that C takes, which may be more at a time."""

_NAMES = NAMES | {
    DataReceived: "DATA",
    DatagramReceived: "UDP",
    DatagramsReceived: "UDP",
    StreamOpened: "CONNECT",
    StreamConnected: "CONNECTED",
}
"""The names of what :class:`EventReader` gives."""

_Handlers: TypeAlias = "dict[type, tuple[Callable[[Receiver, Any, list[Event]], None], bool]]"
"""By type of frame: what acts on it, and adds the events that it is to a list; and whether it is
counted (PROTOCOL.md §6). One table for all sessions: bound methods would be kilobytes of each."""


class Receiver:
    """Takes the messages of the peer.

    :param on_broken: called when the peer has broken the protocol; has to end the session.
    """

    __slots__ = (
        "_attached",
        "_broken",
        "_client",
        "_clock",
        "_epoch",
        "_greeting",
        "_handlers",
        "_kept",
        "_on_broken",
        "_outbox",
        "_round_trip",
        "_sender",
        "_settings",
        "_stats",
        "_streams",
        "_taken",
        "_wakeup",
        "associations",
        "queries",
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
        kept: Kept,
        taken: Taken,
        queries: QueriesInFlight,
        stats: SessionStats,
        round_trip: RoundTrip,
        clock: Callable[[], float],
        wakeup: Wakeup,
        on_broken: Callable[[], None],
    ) -> None:
        self.associations: OrderedDict[int, None] = OrderedDict()
        """Worker: those that are open, the least recently used first."""
        self.queries = queries
        """Worker: the DNS queries without an answer that has left."""
        self._client = role is Role.CLIENT
        self._settings = settings
        self._streams = streams
        self._outbox = outbox
        self._sender = sender
        self._greeting = greeting
        self._kept = kept
        self._taken = taken
        self._stats = stats
        self._round_trip = round_trip
        self._clock = clock
        self._wakeup = wakeup
        self._on_broken = on_broken
        self._broken: ProtocolError | None = None
        self._epoch = 0  # counts what it is attached to, and detached from
        self._attached = False
        self._handlers: _Handlers = {}

    def attach(self) -> None:
        """Take the messages of another WebSocket: HELLO, to begin with."""
        self._attached = True
        self._epoch += 1
        self._handlers = _HELLO

    def detach(self) -> None:
        """Take nothing more of the messages that came; queries and their answers are lost."""
        self._attached = False
        self._epoch += 1
        self.queries.clear()

    def stop(self) -> None:
        """Take nothing more: the session is over."""
        self.detach()
        self.associations.clear()

    def work_through(self, message: Buffer) -> Iterator[Event | None]:
        """See :meth:`Session.work_through`."""
        return self._work_through(message, self._epoch)

    def _work_through(self, message: Buffer, epoch: int) -> Iterator[Event | None]:
        if self._broken is not None:
            raise ProtocolError(str(self._broken), self._broken.status)
        if not self._attached or epoch != self._epoch:
            return
        events: list[Event] = []
        quiet = 0
        try:
            size = len(message)
            if size > self._settings.max_message:
                most = self._settings.max_message
                raise ProtocolError(f"a message of {size} bytes is over max_message, {most}", 1009)
            self._stats.messages_in += 1
            self._stats.bytes_in += size
            taken = self._taken
            before = taken.count
            if not size:
                raise ProtocolError("an empty message: it holds no frame")
            view = memoryview(message)
            reader = EventReader(view)
            position = 0
            while position < size:
                command = view[position]
                if (command == _DATA or command == _WINDOW) and DataReceived in self._handlers:
                    payloads = self._apply(view, size, position)
                    mux = self._streams.mux
                    if mux.applied:
                        position = mux.position
                        taken.count += mux.applied
                        for event in payloads:
                            stream = mux.open.get(event.stream)
                            if stream is not None:  # its owner may have closed it
                                # Or, over bytes before these, have C push to it again
                                stream.unbind(pull=False)
                                yield event
                        yield None
                        if epoch != self._epoch:
                            return
                        continue
                frame, position = reader.read(position)
                entry = self._handlers.get(type(frame))
                if entry is None:
                    self._refuse(frame)
                handler, counted = entry
                handler(self, frame, events)
                if counted:
                    taken.count += 1
                if events:
                    yield from events
                    events.clear()
                else:
                    quiet += 1
                    if not quiet & _PAUSE_MASK:
                        yield None
                if epoch != self._epoch:
                    return
            if taken.count != before:
                taken.came(size)
        except ProtocolError as error:
            self._broken = error
            self._on_broken()
            raise

    def _apply(self, view: memoryview, size: int, position: int) -> list[DataReceived]:
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
        self._stats.data_in += streams.mux.data_in
        if not self._wakeup.told and streams.mux:
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

    def _refuse(self, frame: Any) -> NoReturn:
        name = _NAMES.get(type(frame))
        if name is None:
            assert isinstance(frame, Unknown)
            name = f"command 0x{frame.command:02x}"
        peer = "worker" if self._client else "client"
        if self._handlers is _HELLO:
            raise ProtocolError(f"{name}: it came before HELLO")
        if self._outbox.hello is not None:
            raise ProtocolError(f"{name}: the client sent it before our HELLO could reach it")
        what = "a second one" if type(frame) is Hello else f"a {peer} never sends it"
        raise ProtocolError(f"{name}: {what}")

    # HELLO

    def _on_hello(self, frame: Hello, events: list[Event]) -> None:
        self._greeting.hear(frame, events)
        if self._client:
            self._round_trip.answered(self._clock())
            self.hello_exchanged()
        else:
            # Until our HELLO has left the client may not send a thing
            self._handlers = _HELLO_AGAIN
        self._wakeup.enabled = True
        if self._sender.has_output:
            self._wakeup()

    def _on_hello_again(self, frame: Hello, events: list[Event]) -> None:
        if not self._greeting.is_repetition(frame):
            self._refuse(frame)

    def hello_exchanged(self) -> None:
        """Take all frames from now on: the peer has our HELLO and we have the peer's."""
        self._handlers = _FROM_WORKER if self._client else _FROM_CLIENT

    # Streams

    def _on_data(self, data: DataReceived, events: list[Event]) -> None:
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

    def _on_eof(self, frame: Eof, events: list[Event]) -> None:
        stream = self._streams.find("EOF", frame.stream)
        if stream is None:
            return
        if stream.eof_taken:
            raise ProtocolError(f"EOF: a second one, for stream {frame.stream}")
        if self._client and not stream.connected:
            raise ProtocolError(f"EOF: it came before CONNECTED, for stream {frame.stream}")
        stream.eof_taken = True
        self._outbox.windows.pop(stream.id, None)
        if stream.eof_sent:
            self._streams.forget(stream)
        events.append(EofReceived(stream.id))

    def _on_close(self, frame: Close, events: list[Event]) -> None:
        stream = self._streams.find("CLOSE", frame.stream)
        if stream is not None:
            self._streams.forget(stream)
            # After EOF it is what close() is to a kernel, not a reset (PROTOCOL.md §4)
            ended = stream.eof_taken and not self._client
            events.append(StreamClosed(stream.id) if ended else StreamReset(stream.id))
        # Whatever still waits for the stream, an ERROR say, would only be ignored
        self._outbox.forget(frame.stream)

    def _on_error(self, frame: Error, events: list[Event]) -> None:
        stream = self._streams.find("ERROR", frame.stream)
        if stream is not None:
            self._streams.forget(stream)
            events.append(StreamReset(stream.id, frame.code, frame.message))

    def _on_connected(self, event: StreamConnected, events: list[Event]) -> None:
        stream = self._streams.find("CONNECTED", event.stream)
        if stream is None:
            return
        if stream.connected:
            raise ProtocolError(f"CONNECTED: a second one, for stream {event.stream}")
        stream.connected = True
        events.append(event)

    def _on_connect(self, event: StreamOpened, events: list[Event]) -> None:
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

    def _on_window(self, frame: Window, events: list[Event]) -> None:
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

    # The session

    def _on_ping(self, frame: Ping, events: list[Event]) -> None:
        if self._outbox.pongs >= _MAX_PONGS:
            raise ProtocolError(f"PING: {_MAX_PONGS} of them wait for their PONG")
        self._outbox.add_pong()

    def _on_pong(self, frame: Pong, events: list[Event]) -> None:
        self._round_trip.answered(self._clock())

    def _on_ack(self, frame: Ack, events: list[Event]) -> None:
        kept, sent = self._kept, self._sender.counted
        if not kept.acknowledged <= frame.count <= sent:
            raise ProtocolError(f"ACK: {frame.count} frames, not {kept.acknowledged} to {sent}")
        held_up = kept.full
        kept.acknowledge(frame.count)
        if held_up and not self._wakeup.told and self._sender.has_output:
            self._wakeup()  # there is room again

    def _on_goaway(self, frame: GoAway, events: list[Event]) -> None:
        if self._client:
            self._streams.going_away = True
        events.append(GoAwayReceived(frame.code, frame.reason))

    def _on_unknown(self, frame: Unknown, events: list[Event]) -> None:
        self._taken.count += frame.counted  # skipped (PROTOCOL.md §2)

    # Datagrams, DNS, ICMP

    def _on_udp(self, datagram: DatagramReceived, events: list[Event]) -> None:
        identifier = datagram.association
        if not identifier:
            raise ProtocolError("UDP: association 0 does not exist")
        if not self._client:
            if not self._settings.udp:
                return
            associations = self.associations
            if identifier in associations:
                associations.move_to_end(identifier)
            elif not self._admit(identifier, events):
                return
        self._stats.datagrams_in += 1
        events.append(datagram)

    def _on_udp_run(self, run: DatagramsReceived, events: list[Event]) -> None:
        if not self._client:
            if not self._settings.udp:
                return
            associations = self.associations
            for identifier in run.associations:
                if identifier not in associations:
                    break
                associations.move_to_end(identifier)
            else:
                self._stats.datagrams_in += run.count
                events.append(run)
                return
            # One of them opens an association, which may cost another one of them
            for datagram, _ in datagrams_of(run.frames):
                self._on_udp(datagram, events)
            return
        self._stats.datagrams_in += run.count
        events.append(run)

    def _admit(self, identifier: int, events: list[Event]) -> bool:
        """Open an association at a worker, at the cost of the least recently used one."""
        most = self._settings.associations
        if not most:
            return False
        if len(self.associations) >= most:
            evicted, _ = self.associations.popitem(last=False)
            self._outbox.add_datagram(UdpClose(evicted).encode())
            self._stats.associations_evicted += 1
            events.append(UdpClosed(evicted))
        self.associations[identifier] = None
        return True

    def _on_udp_close(self, frame: UdpClose, events: list[Event]) -> None:
        if self._client:
            events.append(UdpClosed(frame.association))
        elif frame.association in self.associations:
            del self.associations[frame.association]
            events.append(UdpClosed(frame.association))

    def _on_udp_error(self, frame: UdpError, events: list[Event]) -> None:
        events.append(UdpErrorReceived(frame.association, frame.code, frame.host, frame.port))

    def _on_dns_query(self, frame: DnsQuery, events: list[Event]) -> None:
        request = frame.request
        if not request:
            raise ProtocolError("DNS_QUERY: request 0 does not exist")
        settings = self._settings
        if settings.dns and self.queries.take(request, len(frame.message)):
            events.append(DnsQueryReceived(request, frame.message))
            return
        self._stats.dns_refused += 1
        refusal = no_query_now(frame.message, settings.dns, settings.requests)
        if not self._outbox.add_dns(DnsResponse(request, refusal).encode(), in_flight=False):
            raise ProtocolError("DNS_QUERY: the client asks, but does not read the answers")

    def _on_dns_response(self, frame: DnsResponse, events: list[Event]) -> None:
        events.append(DnsAnswerReceived(frame.request, frame.message))

    def _on_echo(self, frame: Echo, events: list[Event]) -> None:
        if not frame.request:
            raise ProtocolError("ECHO: request 0 does not exist")
        if self._settings.icmp:
            events.append(EchoReceived(frame.request, frame.host, bytes(frame.payload)))

    def _on_echo_reply(self, frame: EchoReply, events: list[Event]) -> None:
        events.append(EchoReplyReceived(frame.request, bytes(frame.payload)))


_HELLO: _Handlers = {Hello: (Receiver._on_hello, False)}
_HELLO_AGAIN: _Handlers = {Hello: (Receiver._on_hello_again, False)}
_FROM_BOTH: _Handlers = {
    DataReceived: (Receiver._on_data, True),
    DatagramReceived: (Receiver._on_udp, False),
    DatagramsReceived: (Receiver._on_udp_run, False),
    Eof: (Receiver._on_eof, True),
    Close: (Receiver._on_close, True),
    Window: (Receiver._on_window, True),
    Ping: (Receiver._on_ping, False),
    Pong: (Receiver._on_pong, False),
    Ack: (Receiver._on_ack, False),
    UdpClose: (Receiver._on_udp_close, False),
    GoAway: (Receiver._on_goaway, False),
    Unknown: (Receiver._on_unknown, False),
}
_FROM_WORKER = _FROM_BOTH | {
    StreamConnected: (Receiver._on_connected, True),
    Error: (Receiver._on_error, True),
    DnsResponse: (Receiver._on_dns_response, False),
    EchoReply: (Receiver._on_echo_reply, False),
    UdpError: (Receiver._on_udp_error, False),
}
_FROM_CLIENT = (
    _FROM_BOTH
    | _HELLO_AGAIN
    | {
        StreamOpened: (Receiver._on_connect, True),
        DnsQuery: (Receiver._on_dns_query, False),
        Echo: (Receiver._on_echo, False),
    }
)
