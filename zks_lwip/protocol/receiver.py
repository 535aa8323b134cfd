"""The messages that come to a session, worked through frame by frame (PROTOCOL.md §3, §6).

What the frames of streams do is in :mod:`.stream_receiver`, what those of UDP, DNS and ICMP do in
:mod:`.datagrams`; here is what the others do, and which frame may come at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

from ..errors import ProtocolError
from .credit import RoundTrip
from .datagrams import Datagrams
from .decode import EventReader
from .events import (
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsAnswerReceived,
    DnsQueryReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    StreamConnected,
    StreamOpened,
)
from .frames import (
    NAMES,
    Ack,
    Buffer,
    Close,
    Data,
    Echo,
    EchoReply,
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
from .hello import Hello
from .kept import Kept
from .outbox import Outbox
from .sender import Sender
from .settings import Role, Settings
from .stats import SessionStats
from .stream_receiver import StreamReceiver
from .stream_table import StreamTable
from .taken import Taken
from .wakeup import Wakeup

__all__ = ["Receiver"]

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
    EofReceived: "EOF",
    DnsQueryReceived: "DNS_QUERY",
    DnsAnswerReceived: "DNS_RESPONSE",
}
"""The names of what :class:`EventReader` gives."""

_SESSION, _STREAMS, _DATAGRAMS = range(3)
_Handlers: TypeAlias = dict[type, tuple[int, Callable[[Any, Any, list[Event]], None], bool]]
"""By type of frame: the part that it is for; what acts on it there, and adds the events that it is
to a list; and whether it is counted (PROTOCOL.md §6). One table for all sessions: bound methods
would be kilobytes of each."""


class Receiver:
    """Takes the messages of the peer.

    :param on_broken: called when the peer has broken the protocol; has to end the session.
    """

    __slots__ = (
        "_attached",
        "_broken",
        "_client",
        "_clock",
        "_datagrams",
        "_greeting",
        "_handlers",
        "_kept",
        "_on_broken",
        "_outbox",
        "_round_trip",
        "_sender",
        "_settings",
        "_stats",
        "_stream_receiver",
        "_streams",
        "_taken",
        "_wakeup",
        "epoch",
    )

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        streams: StreamTable,
        stream_receiver: StreamReceiver,
        datagrams: Datagrams,
        outbox: Outbox,
        sender: Sender,
        greeting: Greeting,
        kept: Kept,
        taken: Taken,
        stats: SessionStats,
        round_trip: RoundTrip,
        clock: Callable[[], float],
        wakeup: Wakeup,
        on_broken: Callable[[], None],
    ) -> None:
        self._client = role is Role.CLIENT
        self._settings = settings
        self._streams = streams
        self._stream_receiver = stream_receiver
        self._datagrams = datagrams
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
        self.epoch = 0
        """Counts what it is attached to, and detached from."""
        self._attached = False
        self._handlers: _Handlers = {}

    def attach(self) -> None:
        """Take the messages of another WebSocket: HELLO, to begin with."""
        self._attached = True
        self.epoch += 1
        self._handlers = _HELLO

    def detach(self) -> None:
        """Take nothing more of the messages that came; queries and their answers are lost."""
        self._attached = False
        self.epoch += 1
        self._datagrams.detach()

    def stop(self) -> None:
        """Take nothing more: the session is over."""
        self.detach()
        self._datagrams.stop()

    def work_through(self, message: Buffer, epoch: int) -> Iterator[Event | None]:
        """See :meth:`Session.work_through`.

        :param epoch: :attr:`epoch`, when the message came.
        """
        if self._broken is not None:
            raise ProtocolError(str(self._broken), self._broken.status)
        if not self._attached or epoch != self.epoch:
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
            streams = self._stream_receiver
            parts = (self, streams, self._datagrams)  # as _SESSION, _STREAMS, _DATAGRAMS
            position = 0
            while position < size:
                command = view[position]
                if (command == _DATA or command == _WINDOW) and DataReceived in self._handlers:
                    payloads = streams.apply(view, size, position)
                    c = self._streams.mux.c
                    if applied := c.applied:
                        position = c.position
                        taken.count += applied
                        for event in payloads:
                            stream = self._streams.open.get(event.stream)
                            if stream is not None:  # its owner may have closed it
                                # Or, over bytes before these, have C push to it again
                                stream.unbind(pull=False)
                                yield event
                        yield None
                        if epoch != self.epoch:
                            return
                        continue
                frame, position = reader.read(position)
                entry = self._handlers.get(type(frame))
                if entry is None:
                    self._refuse(frame)
                part, handler, counted = entry
                handler(parts[part], frame, events)
                if counted:
                    taken.count += 1
                if events:
                    yield from events
                    events.clear()
                else:
                    quiet += 1
                    if not quiet & _PAUSE_MASK:
                        yield None
                if epoch != self.epoch:
                    return
            if taken.count != before:
                taken.came(size)
        except ProtocolError as error:
            self._broken = error
            self._on_broken()
            raise

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

    # The session

    def _on_ping(self, frame: Ping, events: list[Event]) -> None:
        if self._outbox.pongs >= _MAX_PONGS:
            raise ProtocolError(f"PING: {_MAX_PONGS} of them wait for their PONG")
        self._outbox.add_pong()

    def _on_pong(self, frame: Pong, events: list[Event]) -> None:
        self._round_trip.answered(self._clock())
        self._sender.ask()  # the ACK that it came with may have been for little

    def _on_ack(self, frame: Ack, events: list[Event]) -> None:
        kept, sent = self._kept, self._sender.counted
        if not kept.acknowledged <= frame.count <= sent:
            raise ProtocolError(f"ACK: {frame.count} frames, not {kept.acknowledged} to {sent}")
        held_up = kept.full
        kept.acknowledge(frame.count, self._clock())
        if held_up and not self._wakeup.told and self._sender.has_output:
            self._wakeup()  # there is room again

    def _on_goaway(self, frame: GoAway, events: list[Event]) -> None:
        if self._client:
            self._streams.going_away = True
        events.append(GoAwayReceived(frame.code, frame.reason))

    def _on_unknown(self, frame: Unknown, events: list[Event]) -> None:
        self._taken.count += frame.counted  # skipped (PROTOCOL.md §2)


_HELLO: _Handlers = {Hello: (_SESSION, Receiver._on_hello, False)}
_HELLO_AGAIN: _Handlers = {Hello: (_SESSION, Receiver._on_hello_again, False)}
_FROM_BOTH: _Handlers = {
    DataReceived: (_STREAMS, StreamReceiver.on_data, True),
    DatagramReceived: (_DATAGRAMS, Datagrams.on_udp, False),
    DatagramsReceived: (_DATAGRAMS, Datagrams.on_udp_run, False),
    EofReceived: (_STREAMS, StreamReceiver.on_eof, True),
    Close: (_STREAMS, StreamReceiver.on_close, True),
    Window: (_STREAMS, StreamReceiver.on_window, True),
    Ping: (_SESSION, Receiver._on_ping, False),
    Pong: (_SESSION, Receiver._on_pong, False),
    Ack: (_SESSION, Receiver._on_ack, False),
    UdpClose: (_DATAGRAMS, Datagrams.on_udp_close, False),
    GoAway: (_SESSION, Receiver._on_goaway, False),
    Unknown: (_SESSION, Receiver._on_unknown, False),
}
_FROM_WORKER = _FROM_BOTH | {
    StreamConnected: (_STREAMS, StreamReceiver.on_connected, True),
    Error: (_STREAMS, StreamReceiver.on_error, True),
    DnsAnswerReceived: (_DATAGRAMS, Datagrams.on_dns_response, False),
    EchoReply: (_DATAGRAMS, Datagrams.on_echo_reply, False),
    UdpError: (_DATAGRAMS, Datagrams.on_udp_error, False),
}
_FROM_CLIENT = (
    _FROM_BOTH
    | _HELLO_AGAIN
    | {
        StreamOpened: (_STREAMS, StreamReceiver.on_connect, True),
        DnsQueryReceived: (_DATAGRAMS, Datagrams.on_dns_query, False),
        Echo: (_DATAGRAMS, Datagrams.on_echo, False),
    }
)
