"""One session of the tunnel, at either end: messages in, messages out (PROTOCOL.md §3 to §6).

No input or output happens here. The owner feeds whole WebSocket messages to ``receive`` and acts on
the events that it returns; it sends what ``next_message`` returns. Streams pull their bytes from a
``Source`` when there is room in a message, so nothing is queued that the peer has not granted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .credit import Budget, RoundTrip
from .datagrams import Datagrams
from .decode import datagrams_of
from .events import DatagramsReceived, Event
from .frames import Buffer, GoAway, cut
from .greeting import Greeting
from .hello import Hello
from .in_flight import QueriesInFlight
from .kept import Kept
from .outbox import Outbox
from .receiver import Receiver
from .sender import Sender
from .settings import Role, Settings
from .stats import SessionStats
from .stream import Source
from .stream_receiver import StreamReceiver
from .stream_table import StreamTable
from .taken import Taken
from .wakeup import Wakeup

__all__ = ["Session"]

_MAX_ID = 2**32 - 1


class Session:
    """The sans-IO state machine of one session of protocol v2; it is a ``ClientSession`` or a
    ``WorkerSession`` (:mod:`.interface`), by its role.

    It has a :class:`Receiver` for what comes; for what goes, a :class:`Sender` with an
    :class:`Outbox`; the :class:`StreamTable`, with its :class:`Multiplexer`, that these share, and
    a :class:`StreamReceiver` for its frames; and :class:`Datagrams`, for what is not of streams.
    Whatever names a stream that is gone, or comes after the end, does nothing.

    It lives on one WebSocket after another: :meth:`attach` it to the first, and to each on which it
    is resumed. In between, streams go on as far as they can without one: what is closed, consumed
    or marked ready is so, and the peer learns of it later. What is not counted is dropped.

    :param clock: seconds, monotonic; ``deadline`` is told by it.
    :param budget: bounds how far the windows of all sessions that share it grow.
    :param kept_budget: bounds what all sessions that share it keep unacknowledged, together: each
        as much as is left for all others, and 1 MiB in any case.
    """

    flow_controlled = True
    may_receive = True
    finished = False

    __slots__ = (
        "_client",
        "_clock",
        "_greeting",
        "_kept",
        "_over",
        "_round_trip",
        "_sender",
        "_stream_receiver",
        "_taken",
        "_wakeup",
        "attached",
        "datagrams",
        "outbox",
        "receiver",
        "role",
        "settings",
        "stats",
        "streams",
    )

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
        kept_budget: Budget | None = None,
    ) -> None:
        self.role = role
        self.settings = settings
        self.stats = SessionStats()
        self._client = role is Role.CLIENT
        self._clock = clock
        self._over = False
        self.attached = False
        self._wakeup = Wakeup(told=self._client)
        self._round_trip = RoundTrip()
        self.outbox = Outbox(self.stats, self._wakeup, settings.streams)
        """What waits to leave besides DATA."""
        self.streams = StreamTable(
            role,
            settings.window,
            settings.max_data,
            budget if budget is not None else Budget(),
            outbox=self.outbox,
            stats=self.stats,
            wakeup=self._wakeup,
        )
        """The streams that are open."""
        if kept_budget is None:
            kept_budget = Budget(2 * settings.max_kept)
        self._kept = Kept(settings.max_kept, kept_budget, settings.ack)
        self._taken = Taken(clock, self._wakeup)
        queries = QueriesInFlight(settings.requests)
        self._sender = Sender(
            outbox=self.outbox,
            mux=self.streams.mux,
            kept=self._kept,
            taken=self._taken,
            queries=queries,
            stats=self.stats,
            round_trip=self._round_trip,
            clock=clock,
            wakeup=self._wakeup,
            on_hello_sent=self._hello_sent,
        )
        self._greeting = Greeting(
            role,
            settings,
            streams=self.streams,
            outbox=self.outbox,
            sender=self._sender,
            kept=self._kept,
            taken=self._taken,
        )
        self.datagrams = Datagrams(
            role,
            settings,
            outbox=self.outbox,
            sender=self._sender,
            queries=queries,
            stats=self.stats,
        )
        """What is lost with a WebSocket: UDP, DNS and ICMP."""
        self._stream_receiver = StreamReceiver(
            role,
            settings,
            streams=self.streams,
            outbox=self.outbox,
            sender=self._sender,
            greeting=self._greeting,
            stats=self.stats,
            round_trip=self._round_trip,
            clock=clock,
            wakeup=self._wakeup,
        )
        self.receiver = Receiver(
            role,
            settings,
            streams=self.streams,
            stream_receiver=self._stream_receiver,
            datagrams=self.datagrams,
            outbox=self.outbox,
            sender=self._sender,
            greeting=self._greeting,
            kept=self._kept,
            taken=self._taken,
            stats=self.stats,
            round_trip=self._round_trip,
            clock=clock,
            wakeup=self._wakeup,
            on_broken=self.end,
        )
        """What takes the peer's messages."""

    # The WebSocket

    def attach(
        self,
        wake: Callable[[], None] | None = None,
        unblock: Callable[[], None] | None = None,
    ) -> None:
        """Go on over a WebSocket that has been opened, the first or another.

        A client's HELLO is output at once, which does not call ``wake``.

        :param wake: called, and must only take note, whenever ``has_output`` becomes true; None:
            the owner asks by itself.
        :param unblock: never called: a session of v2 may always receive.
        :raises RuntimeError: while it is attached, or once it is over.
        """
        if self.attached or self._over:
            raise RuntimeError("this session is over" if self._over else "it is attached already")
        self.attached = True
        self._wakeup.attach(wake)
        self._wakeup.told = self._client
        self.receiver.attach()
        if self._client:
            self._greeting.say()
            if self._greeting.early:
                self.outbox.add_ping()

    def detach(self) -> bool:
        """Let go of the WebSocket, which is lost: nothing more comes or goes over it.

        What is not counted is dropped where it waits, and so are the queries in flight: the answer
        to one of them goes nowhere, but must not be given for a later query of the same id.

        :returns: whether the session lives on and can be resumed; if not, it is over, as by
            :meth:`end`. It is for the owner to end one that was not resumed in time.
        """
        if not self.resumable:
            self.end()
            return False
        if self.attached:
            self.attached = False
            self._wakeup.attach(None)
            self._wakeup.enabled = self._wakeup.told = False
            self._sender.peer = None
            self._round_trip.lost()
            self._greeting.detach()
            self.receiver.detach()
            self.outbox.clear_uncounted()
        return True

    def resumption(self) -> Hello | None:
        """Return a client's HELLO for the request of another WebSocket (PROTOCOL.md §6).

        What it says holds only while nothing more is taken, so :meth:`detach` it before.

        :returns: None: it cannot be resumed.
        """
        return self._greeting.resumption()

    def announced(self, hello: Hello) -> None:
        """Note that the request of the WebSocket that it goes on over has said this HELLO already.

        A client, told before :meth:`attach`, says it again in its first frame, as every peer
        expects. A worker takes that without effect: it has received the same before, from its
        owner.
        """
        self._greeting.announced(hello)

    def _hello_sent(self) -> None:
        self._greeting.said()
        if not self._client:
            self.receiver.hello_exchanged()
        elif not self._greeting.early:
            self._round_trip.sent(self._clock())

    # What the owner asks

    @property
    def id(self) -> str | None:
        """The id of the session, once HELLO has named it."""
        return self._greeting.id

    @property
    def resumable(self) -> bool:
        """It outlives the loss of its WebSocket: both ends have agreed to it."""
        return self._greeting.resumable and not self._over

    @property
    def resume_seconds(self) -> int:
        """Seconds for which it outlives its WebSocket, as both ends agreed; 0: never."""
        return self._greeting.seconds

    @property
    def resumes(self) -> int:
        """How often it has been resumed."""
        return self._greeting.resumes

    @property
    def unacknowledged(self) -> int:
        """Bytes of counted frames that are not acknowledged; 0 if it is never resumed."""
        return self._kept.size

    @property
    def unacknowledged_since(self) -> float | None:
        """When the oldest of these that may be on their way were sent, by the clock; None: there
        are none."""
        return self._kept.since

    @property
    def kept_limit(self) -> int:
        """Bytes that may be unacknowledged at present before DATA and CONNECT wait for an ACK."""
        return self._kept.limit

    @property
    def deadline(self) -> float | None:
        """When an ACK is due, by the clock: ``has_output`` is true then."""
        return None if self._sender.peer is None else self._taken.deadline

    @property
    def ready(self) -> bool:
        """The peer's HELLO has come on this WebSocket, and the session is not over."""
        return self._sender.peer is not None

    @property
    def peer(self) -> Hello | None:
        """The peer's HELLO, the first of the session, once it has come."""
        return self._greeting.peer

    @property
    def has_output(self) -> bool:
        """``next_message`` may have something to send."""
        return self._sender.has_output

    @property
    def can_connect(self) -> bool:
        """Client: another stream may be opened now."""
        peer, streams, outbox = self._sender.peer, self.streams, self.outbox
        return (
            self._client
            and peer is not None
            and not streams.going_away
            and len(streams.open) < peer.streams
            and streams.highest < _MAX_ID
            and outbox.control_size <= outbox.max_control
            and not self._kept.full
        )

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self.streams.open)

    @property
    def round_trip(self) -> float:
        """Smoothed round trip in seconds; 0.0 while none was measured."""
        return self._round_trip.estimate

    @property
    def counted_sent(self) -> int:
        """Counted frames (PROTOCOL.md §6) sent so far."""
        return self._sender.counted

    @property
    def counted_taken(self) -> int:
        """Counted frames (PROTOCOL.md §6) taken so far."""
        return self._taken.count

    def is_open(self, stream: int) -> bool:
        """Return whether a stream is open."""
        return stream in self.streams.open

    # Messages

    def receive(self, message: Buffer) -> list[Event]:
        """Take one WebSocket message; while the session is detached it is dropped.

        :returns: what it has brought, in order, a ``DatagramReceived`` for each datagram. Payloads
            of DATA and UDP are views into ``message``.
        :raises ProtocolError: if the peer has broken the protocol, also every time after the first;
            the session is then over, and the WebSocket is to be closed with the error's status.
        """
        events: list[Event] = []
        for event in self.work_through(message):
            if type(event) is DatagramsReceived:
                events += (datagram for datagram, _ in datagrams_of(event.frames))
            elif event is not None:
                events.append(event)
        return events

    def work_through(self, message: Buffer) -> Iterator[Event | None]:
        """Take one message an event at a time, so that the owner can pause; one message at a time.

        :returns: the events of :meth:`receive`, but datagrams many at a time
            (``DatagramsReceived``); and None now and then: a message may hold 200,000 frames that
            are no event.
            It ends soon after :meth:`detach` is called: what was not taken comes again. What is
            left of the frames that were taken together still comes, and is to be acted on: DATA
            of many streams, or the ends of those that a worker's HELLO ends.
        :raises ProtocolError: as :meth:`receive`.
        """
        receiver = self.receiver
        return receiver.work_through(message, receiver.epoch)

    def take_events(self) -> list[Event]:
        """Return the events that no message has brought: in v2 there are none."""
        return []

    def next_message(self, limit: int = 262144) -> bytearray | None:
        """Return the next message to send, None if there is none. It may be kept: tell
        :meth:`message_changed` before it is changed.

        Control, DNS and datagrams go first, then streams with little to send, then bulk ones
        round-robin. Sources are pulled here; while they are, they may call ``close``, ``error`` and
        ``mark_ready`` only.

        :param limit: most bytes, 4096 or more, except that one frame larger than that leaves alone;
            the peer's ``max_message`` always holds. While a stream goes on to send little beside
            bulk ones, messages are a quarter as large, but not below 16 KiB: it waits for less.
        :raises ValueError: for a lower limit, and for a source that claims more bytes than it had
            room for.
        """
        return self._sender.next_message(limit)

    def message_changed(self, restore: Callable[[bytearray], None]) -> None:
        """Note that the last message is changed in place: masked, where it is sent.

        :param restore: changes a buffer back, in place. It is called when the message, or a part of
            it, has to be sent again.
        """
        self._kept.changed(restore)

    # Streams

    def connect(self, host: str, port: int, source: Source) -> int:
        """Open a stream at a client. DATA may follow at once: call ``mark_ready`` when ``source``
        has bytes.

        :param host: an IP literal or a name.
        :returns: its id.
        :raises RuntimeError: unless ``can_connect``.
        :raises ValueError: for a host or a port that no frame holds.
        """
        if not self.can_connect:
            raise RuntimeError("this session takes no new stream now (see can_connect)")
        peer = self._greeting.peer
        assert peer is not None  # as can_connect
        return self.streams.connect(host, port, source, peer.window)

    def accept(self, stream: int, source: Source) -> None:
        """Name the source of the DATA of a stream that was opened at this worker."""
        self.streams.accept(stream, source)

    def connected(self, stream: int) -> None:
        """Send CONNECTED, at a worker: the far end is connected, and DATA may follow.

        :raises RuntimeError: at a client, and for a stream that is connected already.
        """
        self._only_worker("connected")
        self.streams.connected(stream)

    def error(self, stream: int, code: int, message: str = "") -> None:
        """End a stream at a worker, in both directions, at once.

        :param code: a ``Code``, or another of 0 to 65535.
        :param message: cut to 200 bytes.
        :raises RuntimeError: at a client.
        """
        self._only_worker("error")
        self.streams.error(stream, code, cut(message))

    def close(self, stream: int) -> None:
        """Abort both directions of a stream, at once; what its source still has is not sent."""
        self.streams.close(stream)

    def mark_ready(self, stream: int) -> None:
        """Say that the source of a stream has bytes, or has reached its end."""
        if self.streams.mux.ready(stream) and not self._wakeup.told:
            self._wakeup()

    def consumed(self, stream: int, size: int) -> None:
        """Say that ``size`` bytes of a stream's DATA were passed on: the peer may send more.

        :raises ValueError: for more than came.
        """
        entry = self.streams.open.get(stream)
        if entry is not None and entry.window.consume(size) and not entry.eof_taken:
            self._stream_receiver.grant(entry)

    def bind(
        self, stream: int, target: Any, handle: int, *, pull: bool = False, push: bool = False
    ) -> None:
        """Have C move the bytes of a stream, and not its source and its owner.

        It pulls until the target has ended or failed, and then asks the source. It pushes until the
        target does not take all of some DATA: the rest, and what follows, are events, until this is
        called again over the last of them. What it has pushed counts as consumed.

        :param target: a ``struct zks_mux_target *``.
        :param handle: the target's name for the stream's connection.
        :param pull: from here on the target has all that is to be sent.
        :param push: from here on the target has got all that came.
        """
        entry = self.streams.open.get(stream)
        if entry is not None:
            entry.bind(target, handle, pull=pull, push=push)

    def unbind(self, stream: int) -> None:
        """Have Python move the bytes of a stream again."""
        entry = self.streams.open.get(stream)
        if entry is not None:
            entry.unbind()

    # Datagrams, DNS, ICMP

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """Send a datagram to, or (worker) from, ``host``, an IP literal.

        Those that wait too long are dropped later, the oldest first, and counted.

        :returns: False if it is dropped: the session is not ready, the worker carries no UDP, or
            (worker) the association is not open.
        :raises ValueError: for a payload over 65507 bytes or what is no host.
        """
        return self.datagrams.send_udp(association, host, port, payload)

    def send_udp_frames(self, frames: Buffer, count: int, association: int = 0) -> bool:
        """Send datagrams that are UDP frames already, with IP literals, back to back.

        :param count: how many.
        :param association: that all are of; a worker has to name it.
        :returns: as :meth:`send_udp`, for all of them.
        """
        return self.datagrams.send_udp_frames(frames, count, association)

    def udp_close(self, association: int) -> None:
        """End an association. (A datagram for it opens it again.)"""
        self.datagrams.udp_close(association)

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Send UDP_ERROR, at a worker: an ICMP error came for what went to a host and port.

        :param code: a ``Code``.
        :raises RuntimeError: at a client.
        """
        self._only_worker("udp_error")
        self.datagrams.udp_error(association, code, host, port)

    def dns_query(self, request: int, message: bytes) -> bool:
        """Send a DNS query, at a client.

        :returns: False if it is not taken, since too many wait or the worker has no DNS.
        :raises ValueError: for a message over 65535 bytes.
        """
        return self.datagrams.dns_query(request, message)

    def dns_response(self, request: int, message: bytes) -> None:
        """Answer a DNS query, at a worker; for one that is not in flight, do nothing.

        :raises RuntimeError: at a client.
        """
        self._only_worker("dns_response")
        self.datagrams.dns_response(request, message)

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """Have the worker send an ICMP echo request to ``host``, an IP literal.

        :returns: False if the worker sends none.
        :raises ValueError: for what is no host.
        """
        return self.datagrams.echo(request, host, payload)

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """Send the reply to an echo, at a worker.

        :raises RuntimeError: at a client.
        """
        self._only_worker("echo_reply")
        self.datagrams.echo_reply(request, payload)

    # The session

    def goaway(self, code: int, reason: str = "") -> None:
        """Open no new stream: a worker answers CONNECT with 503 from now on.

        It is said again on each WebSocket on which the session is resumed.
        """
        self.streams.going_away = True
        if not self._over:
            self.outbox.add_goaway(GoAway(code, cut(reason)).encode())

    def ping(self) -> None:
        """Send PING, which the peer answers."""
        if self.attached:
            self.outbox.add_ping()

    def end(self) -> None:
        """Forget all streams and all that waits: the session is over, and nothing comes or goes.

        The owner calls it when the session is not to be resumed; a second time does nothing.
        """
        self._over = True
        self.attached = False
        self._sender.peer = None
        # Or they would hold each other until Python looks for cycles
        self._wakeup.attach(None)
        self._wakeup.enabled = False
        self.receiver.stop()
        self.streams.clear()
        self.outbox.clear()
        self._kept.clear()

    def _only_worker(self, what: str) -> None:
        if self._client:
            raise RuntimeError(f"{what}: only a worker does that")
