"""The client's end of a v1 session."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ..credit import Budget
from ..dns_refusal import Ede, servfail
from ..events import DnsAnswerReceived, EofReceived, Event, StreamConnected, StreamReset
from ..frames import Buffer, Close, Connect, Connected, DnsQuery, DnsResponse, Error
from ..hello import Hello
from ..settings import Role, Settings
from ..stream import Source
from .base import BaseV1
from .stream import StreamV1

__all__ = ["ClientV1"]

DNS_TIMEOUT = 5.0
"""Seconds after which the client answers SERVFAIL for a worker that stays silent."""
RATE = float(16 << 20)
"""Bytes of DATA a second: the original drops what it cannot pass on, so it is not flooded."""
_BURST = 512 << 10
"""Bytes of DATA that may leave at once."""
_MAX_QUERIES = 1024
_MAX_REQUEST = 65535
"""Largest request id: the original cuts them to 16 bits."""


class ClientV1(BaseV1):
    """The client's end: one stream a session, or any number of DNS queries.

    :param rate: bytes of DATA that leave in a second, after a burst of 512 KiB.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
        rate: float = RATE,
    ) -> None:
        super().__init__(
            Role.CLIENT,
            settings or Settings(),
            Hello(max_data=self.piece, streams=1, dns=True),
            clock=clock,
            budget=budget,
        )
        self._rate = rate
        self._paced_until = float("-inf")
        self._used = False
        self._last_request = 0
        # by the id on the wire: the owner's id, when it expires, the query; soonest first
        self._queries: OrderedDict[int, tuple[int, float, bytes]] = OrderedDict()
        self._handlers[Connected] = self._on_connected
        self._handlers[Error] = self._on_error
        self._handlers[DnsResponse] = self._on_dns_response

    def resumption(self) -> None:
        """Return None: v1 resumes nothing."""

    @property
    def can_connect(self) -> bool:
        """True until its one stream has been opened."""
        return not (self._used or self._over or self._going_away)

    @property
    def finished(self) -> bool:
        """Its stream is over, and nothing is left to send: close the WebSocket (1000)."""
        used_up = self._used and not self._streams
        return used_up and not self.outbox.has_frames and not self._queries

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
        self.outbox.send(frame)
        self._used = True
        self._streams[1] = StreamV1(1, source)
        self.stats.streams_opened += 1
        return 1

    def _on_connected(self, frame: Connected, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None and not stream.connected:
            stream.connected = True
            events.append(StreamConnected(stream.id))
            self._ask(stream)

    def _on_error(self, frame: Error, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            self._forget(stream)
            events.append(StreamReset(stream.id, frame.code, frame.message))

    def _on_close(self, frame: Close, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.far_ended:
            return
        if not stream.connected or stream.told:
            # Told: perhaps an echo. Our CLOSE has cut what the far end still had to say
            self._forget(stream)
            events.append(StreamReset(stream.id))
            return
        stream.far_ended = True
        known = len(self._events)
        if stream.id in self._line:
            self._pull(stream)  # with bytes of the application under way it is a reset
        if cut := self._events[known:]:
            del self._events[known:]
            events += cut
            return
        events.append(EofReceived(stream.id))
        if stream.ended and not stream.gone:
            self._end_stream(stream)

    def _source_ended(self, stream: StreamV1) -> None:
        if stream.far_ended:
            self._end_stream(stream)
        else:
            # v1 has no half-close. The far end learns of it once it has been silent for a while.
            self._expiring.start(stream)

    def _expired(self, stream: StreamV1) -> None:
        # The worker answers with its own CLOSE, which ends the stream
        self._tell(stream)

    def _take_data(self, stream: StreamV1, size: int) -> bool:
        if stream.far_ended:
            # The worker has dropped the stream with its CLOSE: what a kernel answers is a reset
            if not stream.gone:
                self._end_stream(stream)
            self._events.append(StreamReset(stream.id))
            return False
        self._paced_until = max(self._paced_until, self._clock() - _BURST / self._rate)
        self._paced_until += size / self._rate
        return True

    def _may_send_data(self) -> bool:
        return bool(self._line) and self._paced_until <= self._clock()

    # DNS

    def dns_query(self, request: int, message: bytes) -> bool:
        """Send a DNS query. Its answer, SERVFAIL after 5 s, comes as DnsAnswerReceived.

        :returns: False if it is not taken, since too many are in flight.
        """
        if self._over or len(self._queries) >= _MAX_QUERIES:
            self.stats.dns_refused += 1
            return False
        identifier = self._last_request
        while True:
            identifier = identifier % _MAX_REQUEST + 1
            if identifier not in self._queries:
                break
        self._last_request = identifier
        self._queries[identifier] = (request, self._clock() + DNS_TIMEOUT, bytes(message))
        self.outbox.send(DnsQuery(identifier, message))
        return True

    def _on_dns_response(self, frame: DnsResponse, events: list[Event]) -> None:
        query = self._queries.pop(frame.request, None)
        if query is not None:
            events.append(DnsAnswerReceived(query[0], frame.message))

    def take_events(self) -> list[Event]:
        events = super().take_events()
        if self._queries:
            now = self._clock()
            while self._queries:
                identifier, (request, expiry, message) = next(iter(self._queries.items()))
                if expiry > now:
                    break
                del self._queries[identifier]
                why = "the worker did not answer in time"
                late = servfail(message, why, Ede.NO_REACHABLE_AUTHORITY)
                events.append(DnsAnswerReceived(request, late))
        return events

    # What v1 does not carry

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """Return False: v1 carries no ICMP."""
        return False

    def end(self) -> None:
        super().end()
        self._queries.clear()
