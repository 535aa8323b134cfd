"""A worker's end of a v1 session."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..dns_refusal import no_query_now
from ..events import DnsQueryReceived, Event, StreamClosed, StreamOpened
from ..frames import Buffer, Close, Code, Connect, Connected, DnsQuery, DnsResponse, Error
from ..hello import Hello
from ..in_flight import QueriesInFlight
from ..settings import Role, Settings
from ..stream import Source
from .base import BaseV1
from .stream import StreamV1

__all__ = ["WorkerV1"]

_MAX_TEXT = 200
"""Bytes of an ERROR's message that we send."""
_MAX_WAITING = 256 << 10
"""Bytes of answers over which a worker reads nothing more."""


class WorkerV1(BaseV1):
    """A worker's end, kinder than the original: it drops nothing and bounds what it holds."""

    piece = 64 << 10

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            Role.WORKER,
            settings,
            Hello(),
            clock=clock,
            hold_up_at=_MAX_WAITING,
        )
        self.queries = QueriesInFlight(settings.requests)
        """The DNS queries without an answer that has left."""
        self._handlers[Connect] = self._on_connect
        self._handlers[DnsQuery] = self._on_dns_query

    def _on_connect(self, frame: Connect, events: list[Event]) -> None:
        self.outbox.check_read("CONNECT")
        identifier = frame.stream
        if identifier in self._streams:
            self.outbox.send(Error(identifier, 409, "this stream is open already"))
        elif self._going_away:
            self.stats.streams_refused += 1
            self.outbox.send(Error(identifier, Code.GOING_AWAY, "the worker is going away"))
        elif len(self._streams) >= self.settings.streams:
            self.stats.streams_refused += 1
            most = self.settings.streams
            self.outbox.send(Error(identifier, Code.TOO_MANY_STREAMS, f"{most} streams are open"))
        else:
            self._streams[identifier] = StreamV1(identifier, None)
            self.stats.streams_opened += 1
            events.append(StreamOpened(identifier, frame.host, frame.port))

    def accept(self, stream: int, source: Source) -> None:
        """Say who supplies the DATA of a stream that was opened."""
        entry = self._streams.get(stream)
        if entry is not None:
            entry.source = source
            self._ask(entry)

    def connected(self, stream: int) -> None:
        """Send CONNECTED: the far end is connected."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.connected:
            raise RuntimeError(f"stream {stream} is connected already")
        entry.connected = True
        self.outbox.send(Connected(stream))
        self._ask(entry)

    def error(self, stream: int, code: int, message: str = "") -> None:
        """End a stream with a code. Once it is connected, CLOSE follows for a client that waits for
        that; ERROR tells it from the far end's EOF.
        """
        entry = self._streams.get(stream)
        if entry is None:
            return
        self._forget(entry)
        text = message.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")
        self.outbox.send(Error(stream, code, text))
        if entry.connected:
            self._tell(entry)

    def _on_close(self, frame: Close, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        self.outbox.check_read("CLOSE")
        self._end_stream(stream)
        events.append(StreamClosed(stream.id))

    def _source_ended(self, stream: StreamV1) -> None:
        self._tell(stream)
        # What the client still has to say is taken, for as long as it says something
        self._expiring.start(stream)

    def _expired(self, stream: StreamV1) -> None:
        self._forget(stream)
        self._events.append(StreamClosed(stream.id))

    # DNS

    def _on_dns_query(self, frame: DnsQuery, events: list[Event]) -> None:
        request = frame.request
        if self.settings.dns and self.queries.take(request, len(frame.message)):
            events.append(DnsQueryReceived(request, frame.message))
            return
        self.outbox.check_read("DNS_QUERY")
        self.stats.dns_refused += 1
        settings = self.settings
        answer = no_query_now(frame.message, settings.dns, settings.requests)
        self.outbox.send(DnsResponse(request, answer))

    def dns_response(self, request: int, message: bytes) -> None:
        """Answer a DNS query; for one that is not in flight, do nothing."""
        answer = self.queries.answer(request, message)
        if answer is not None:
            self.stats.dns_refused += answer is not message
            self.outbox.send(DnsResponse(request, answer), answer=True)

    def _answered(self, size: int) -> None:
        self.queries.left(size)

    # What v1 does not carry

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Do nothing: v1 carries no UDP."""

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """Do nothing: v1 carries no ICMP."""

    def end(self) -> None:
        super().end()
        self.queries.clear()
