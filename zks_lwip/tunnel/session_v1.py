"""Sessions with, and as, the original Worker (PROTOCOL.md §9), without input or output.

They are used as ``Session`` is, with three differences that come from v1 itself:

- Nothing but not reading holds a sender up: read the WebSocket only while ``may_receive``.
- Some events come with time, not with a message: call ``take_events`` before each
  ``next_message``, and at ``deadline``; sleep only while ``has_output`` is false. The first event
  is a Hello, which says what v1 can.
- CLOSE is the end of a stream in both directions. At the client it comes as Eof, behind all DATA,
  unless it is known that the stream was cut: then as Close. At a worker Close means: the client has
  sent all it had; deliver that, then close, without a reset.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ._fair import Source
from ._frames import (
    Buffer,
    Close,
    Code,
    Connect,
    Connected,
    DnsQuery,
    DnsResponse,
    Eof,
    Error,
    Frame,
)
from ._hello import Hello
from ._refusal import NO_REACHABLE_AUTHORITY, no_query_now, servfail
from ._session_v1 import LINGER, MOST_HELD, MOST_MESSAGE, BaseV1, StreamV1
from ._settings import Role, Settings
from .credit import Budget
from .in_flight import QueriesInFlight

__all__ = ["LINGER", "MOST_HELD", "MOST_MESSAGE", "ClientV1", "WorkerV1"]

DNS_TIMEOUT = 5.0
"""Seconds after which the client answers SERVFAIL for a worker that stays silent."""
RATE = float(16 << 20)
"""Bytes of DATA a second: the original drops what it cannot pass on, so it is not flooded."""
_BURST = 512 << 10
_MOST_QUERIES = 1024
_MOST_REQUEST = 65535  # the original cuts request ids to 16 bits
_MOST_TEXT = 200
_MOST_WAITING = 256 << 10  # bytes of answers over which a worker reads nothing more


class ClientV1(BaseV1):
    """The client's end: one stream a session, or any number of DNS queries.

    ``rate`` is how many bytes of DATA leave in a second, after a burst of 512 KiB.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] | None = None,
        unblock: Callable[[], None] | None = None,
        budget: Budget | None = None,
        rate: float = RATE,
    ) -> None:
        super().__init__(
            Role.CLIENT,
            settings or Settings(),
            clock=clock,
            wake=wake,
            unblock=unblock,
            budget=budget,
        )
        self.peer = Hello(max_data=self.piece, streams=1, dns=True)
        self._events.append(self.peer)
        self._signalled = True
        self._rate = rate
        self._paced_until = float("-inf")
        self._used = False
        self._last_request = 0
        # by the id on the wire: the owner's id, when it expires, the query; soonest first
        self._queries: OrderedDict[int, tuple[int, float, bytes]] = OrderedDict()
        self._handlers[Connected] = self._on_connected
        self._handlers[Error] = self._on_error
        self._handlers[DnsResponse] = self._on_dns_response

    @property
    def can_connect(self) -> bool:
        """True until its one stream has been opened."""
        return not (self._used or self._over or self._going_away)

    @property
    def finished(self) -> bool:
        """Its stream is over, and nothing is left to send: close the WebSocket (1000)."""
        return self._used and not self._streams and not self._control and not self._queries

    @property
    def deadline(self) -> float | None:
        times = [super().deadline]
        for _, expiry, _ in self._queries.values():
            times.append(expiry)
            break
        if self._line:
            times.append(self._paced_until)
        return min((moment for moment in times if moment is not None), default=None)

    def connect(self, host: str, port: int, source: Source) -> int:
        """Open the stream; its ``source`` is asked only once it is connected."""
        if not self.can_connect:
            raise RuntimeError("a v1 session has one stream only")
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        frame = Connect(1, host, port)
        self._send(frame)
        self._used = True
        self._streams[1] = StreamV1(1, source)
        self.stats.streams_opened += 1
        return 1

    def _on_connected(self, frame: Connected, events: list[Frame]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None and not stream.connected:
            stream.connected = True
            events.append(frame)
            self._ask(stream)

    def _on_error(self, frame: Error, events: list[Frame]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            self._forget(stream)
            events.append(frame)

    def _on_close(self, frame: Close, events: list[Frame]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.far_ended:
            return
        if not stream.connected:
            self._forget(stream)
            events.append(frame)
            return
        if stream.told:
            # Perhaps an echo: our CLOSE has cut what the far end still had to say
            self._forget(stream)
            events.append(frame)
            return
        stream.far_ended = True
        known = len(self._events)
        if stream.id in self._line:
            self._pull(stream)  # with bytes of the application under way it is a reset
        if cut := self._events[known:]:
            del self._events[known:]
            events += cut
            return
        events.append(Eof(stream.id))
        if stream.ended and not stream.gone:
            self._end_stream(stream)

    def _source_ended(self, stream: StreamV1) -> None:
        if stream.far_ended:
            self._end_stream(stream)
        else:
            # v1 has no half-close. The far end learns of it once it has been silent for a while.
            self._expire(stream)

    def _expired(self, stream: StreamV1) -> None:
        # The worker answers with its own CLOSE, which ends the stream
        stream.expiry = 0.0
        self._tell(stream)

    def _take_data(self, stream: StreamV1, size: int) -> bool:
        if stream.far_ended:
            # The worker has dropped the stream with its CLOSE: what a kernel answers is a reset
            if not stream.gone:
                self._end_stream(stream)
            self._events.append(Close(stream.id))
            return False
        self._paced_until = max(self._paced_until, self._clock() - _BURST / self._rate)
        self._paced_until += size / self._rate
        return True

    def _may_send_data(self) -> bool:
        return bool(self._line) and self._paced_until <= self._clock()

    # DNS

    def dns_query(self, request: int, message: bytes) -> bool:
        """Ask. The answer, SERVFAIL after 5 s, comes as DnsResponse with ``request``.

        False if it is not taken, since too many are in flight.
        """
        if self._over or len(self._queries) >= _MOST_QUERIES:
            self.stats.dns_refused += 1
            return False
        identifier = self._last_request
        while True:
            identifier = identifier % _MOST_REQUEST + 1
            if identifier not in self._queries:
                break
        self._last_request = identifier
        self._queries[identifier] = (request, self._clock() + DNS_TIMEOUT, bytes(message))
        self._send(DnsQuery(identifier, message))
        return True

    def _on_dns_response(self, frame: DnsResponse, events: list[Frame]) -> None:
        query = self._queries.pop(frame.request, None)
        if query is not None:
            events.append(DnsResponse(query[0], frame.message))

    def take_events(self) -> list[Frame]:
        events = super().take_events()
        if self._queries:
            now = self._clock()
            while self._queries:
                identifier, (request, expiry, message) = next(iter(self._queries.items()))
                if expiry > now:
                    break
                del self._queries[identifier]
                events.append(
                    DnsResponse(
                        request,
                        servfail(
                            message, "the worker did not answer in time", NO_REACHABLE_AUTHORITY
                        ),
                    )
                )
        return events

    # What v1 does not carry

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """v1 carries no UDP: always False."""
        self.stats.datagrams_dropped += 1
        return False

    def udp_close(self, association: int) -> None:
        """v1 carries no UDP: does nothing."""

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """v1 carries no ICMP: always False."""
        return False

    def end(self) -> None:
        super().end()
        self._queries.clear()


class WorkerV1(BaseV1):
    """A worker's end, kinder than the original: it drops nothing and bounds what it holds."""

    piece = 64 << 10

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] | None = None,
        unblock: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(Role.WORKER, settings, clock=clock, wake=wake, unblock=unblock)
        self._in_flight = QueriesInFlight(settings.requests)
        self._held_up = False  # so much waits for the client that nothing more is read
        self._events.append(Hello())
        self._signalled = True
        self._handlers[Connect] = self._on_connect
        self._handlers[DnsQuery] = self._on_dns_query

    def _on_connect(self, frame: Connect, events: list[Frame]) -> None:
        self._check_read("CONNECT")
        identifier = frame.stream
        if identifier in self._streams:
            self._send(Error(identifier, 409, "this stream is open already"))
        elif self._going_away:
            self.stats.streams_refused += 1
            self._send(Error(identifier, Code.GOING_AWAY, "the worker is going away"))
        elif len(self._streams) >= self.settings.streams:
            self.stats.streams_refused += 1
            most = self.settings.streams
            self._send(Error(identifier, Code.TOO_MANY_STREAMS, f"{most} streams are open"))
        else:
            self._streams[identifier] = StreamV1(identifier, None)
            self.stats.streams_opened += 1
            events.append(frame)

    def accept(self, stream: int, source: Source) -> None:
        """Who supplies the DATA of a stream that CONNECT has opened."""
        entry = self._streams.get(stream)
        if entry is not None:
            entry.source = source
            self._ask(entry)

    def connected(self, stream: int) -> None:
        """The far end is connected."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.connected:
            raise RuntimeError(f"stream {stream} is connected already")
        entry.connected = True
        self._send(Connected(stream))
        self._ask(entry)

    def error(self, stream: int, code: int, message: str = "") -> None:
        """End a stream with a code. Once it is connected, CLOSE follows for a client that waits for
        that; ERROR tells it from the far end's EOF.
        """
        entry = self._streams.get(stream)
        if entry is None:
            return
        self._forget(entry)
        text = message.encode(errors="replace")[:_MOST_TEXT].decode(errors="ignore")
        self._send(Error(stream, code, text))
        if entry.connected:
            self._tell(entry)

    def _on_close(self, frame: Close, events: list[Frame]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        self._check_read("CLOSE")
        self._end_stream(stream)
        events.append(frame)

    def _source_ended(self, stream: StreamV1) -> None:
        self._tell(stream)
        # What the client still has to say is taken, for as long as it says something
        self._expire(stream)

    def _expired(self, stream: StreamV1) -> None:
        self._forget(stream)
        self._events.append(Close(stream.id))

    # DNS

    def _on_dns_query(self, frame: DnsQuery, events: list[Frame]) -> None:
        request = frame.request
        if self.settings.dns and self._in_flight.take(request, len(frame.message)):
            events.append(frame)
            return
        self._check_read("DNS_QUERY")
        self.stats.dns_refused += 1
        settings = self.settings
        answer = no_query_now(frame.message, settings.dns, settings.requests)
        self._send(DnsResponse(request, answer))

    def dns_response(self, request: int, message: bytes) -> None:
        """Answer a DNS_QUERY; for one that is not in flight, nothing."""
        answer = self._in_flight.answer(request, message)
        if answer is not None:
            self.stats.dns_refused += answer is not message
            self._send(DnsResponse(request, answer), answer=True)

    def _answered(self, size: int) -> None:
        self._in_flight.left(size)

    # Answers that are not read

    @property
    def may_receive(self) -> bool:
        """As ``BaseV1.may_receive``; False too while many bytes of answers wait for the client.

        (A client must not do so: if both ends did, neither would read again.)
        """
        return super().may_receive and not self._held_up

    def _send(self, frame: Frame, *, answer: bool = False) -> None:
        super()._send(frame, answer=answer)
        self._held_up = self._held_up or self._control_size > _MOST_WAITING

    def _has_left(self) -> None:
        if self._held_up and self._control_size <= _MOST_WAITING // 2:
            self._held_up = False
            self._may_read_on()

    # What v1 does not carry

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """v1 carries no UDP: always False."""
        return False

    def udp_close(self, association: int) -> None:
        """v1 carries no UDP: does nothing."""

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """v1 carries no UDP: does nothing."""

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """v1 carries no ICMP: does nothing."""

    def end(self) -> None:
        super().end()
        self._in_flight.clear()
        self._held_up = False
