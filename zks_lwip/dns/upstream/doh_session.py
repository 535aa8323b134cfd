"""The HTTP/2 side of DNS over HTTPS, sans-IO (RFC 8484).

HTTP/2 itself is h2's. This module maps queries to streams and bounds what a server can cost:
bodies at 65,535 bytes, header lists at :data:`MAX_HEADER_LIST`, streams at :data:`MAX_STREAMS`,
frames that answer nothing at :data:`MAX_IDLE_FRAMES`.
"""

from __future__ import annotations

import base64
import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack import HPACKError, NeverIndexedHeaderTuple

from ..message.wire import MAX_MESSAGE
from ._h2_frames import FrameSplitter, goaway_last_stream

__all__ = ["AnswerReceived", "DohSession", "QueryFailed"]

MAX_STREAMS = 256
"""Queries in flight, whatever the server allows."""
INITIAL_STREAMS = 10
"""Queries in flight until the server's SETTINGS have come: below every real limit."""
STREAM_WINDOW = 131072
"""Bytes: a whole answer fits, so that none needs WINDOW_UPDATE."""
CONNECTION_WINDOW = 4 << 20
"""Bytes of answers that the server may send ahead, on all streams together."""
MAX_IDLE_FRAMES = 2048
"""Frames that a server may send beyond those that answer: PING, SETTINGS, RST_STREAM, empty ones
and what else costs the client more than the server (CVE-2019-9512 and those after it).
"""
FRAMES_PER_ANSWER = 64
"""Frames that each answer adds to that allowance again: 64 KiB in frames of 1 KiB."""
MAX_HEADER_LIST = 16384
"""Bytes of an answer's headers, as SETTINGS_MAX_HEADER_LIST_SIZE counts them."""
MAX_STREAM_ID = 1 << 30
"""The session ends with this stream, long before h2 has no ids left."""

_HTTP2_ERRORS = (h2.exceptions.H2Error, HPACKError, struct.error, ValueError)
# (h2 raises ValueError for some malformed frames and header fields.)

_CONFIG = h2.config.H2Configuration(
    client_side=True,
    header_encoding=None,
    # The headers of requests are written here, in the form that h2 would give them.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    # Of an answer, three fields are read; what is wrong with others fails no connection.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """A query was answered with 200 and a DNS message."""

    token: int
    body: bytes
    age: int
    """Seconds that the answer has been in an HTTP cache (the Age header)."""


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """A query was not answered."""

    token: int
    reason: str
    retry: bool
    """Whether asking once more, on another connection, may help."""


@dataclass(slots=True)
class _Stream:
    """A query that has a stream."""

    token: int
    unsent: bytes
    """The part of the request's body that the server's windows have not yet allowed."""
    problem: str = ""
    """Why the answer is of no use; empty while it may be."""
    age: int = 0
    answered: bool = False
    """Whether the answer's headers have come."""
    body: bytearray = field(default_factory=bytearray)


Event = AnswerReceived | QueryFailed


class DohSession:
    """One connection of a client to ``https://authority/path``.

    Queries beyond what the server allows at a time wait inside. Every query ends in exactly one
    event, unless it is cancelled.

    :param get: ask with GET instead of POST.
    """

    def __init__(self, authority: str, path: str, *, get: bool = False) -> None:
        self._get = get
        self._path = path
        self._prefix: list[tuple[bytes, bytes]] = [
            (b":method", b"GET" if get else b"POST"),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
        ]
        self._accept: list[tuple[bytes, bytes]] = [(b"accept", b"application/dns-message")]
        if not get:
            self._prefix.append((b":path", path.encode("ascii")))
            self._accept.append((b"content-type", b"application/dns-message"))
        self._connection = h2.connection.H2Connection(_CONFIG)
        self._connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
            },
        )
        self._connection.decoder.max_header_list_size = MAX_HEADER_LIST
        self._connection.initiate_connection()
        self._connection.increment_flow_control_window(CONNECTION_WINDOW)
        self._splitter = FrameSplitter()
        self._frames_left = MAX_IDLE_FRAMES
        self._streams: dict[int, _Stream] = {}
        self._numbers: dict[int, int] = {}  # of the streams, by token
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._limit = INITIAL_STREAMS
        self.closing = False
        """The server has said GOAWAY (or ids run out): no further query may be asked here."""
        self.dead = ""
        """Why nothing works any more; empty while it does."""

    @property
    def in_flight(self) -> int:
        """Queries that wait for their answer."""
        return len(self._streams) + len(self._waiting)

    @property
    def held_streams(self) -> int:
        """Streams that take memory, some of which may have ended."""
        return len(self._connection.streams)

    @property
    def limit(self) -> int:
        """How many queries the server takes at a time; 0 is possible."""
        return self._limit

    def ask(self, token: int, message: bytes) -> None:
        """Send a query, or let it wait for a stream.

        :param token: comes back in the event.
        :raises RuntimeError: the session is :attr:`closing` or :attr:`dead`.
        """
        if self.closing or self.dead:
            raise RuntimeError("this session takes no more queries")
        self._waiting[token] = message
        self._open_streams()

    def cancel(self, token: int) -> None:
        """Give a query up. No event will come for it."""
        number = self._numbers.pop(token, None)
        if number is None:
            self._waiting.pop(token, None)
            return
        del self._streams[number]
        if not self.dead:
            self._reset(number)
            self._open_streams()

    def ping(self) -> None:
        """Send PING; any bytes from the server count as the answer."""
        if not self.dead:
            self._connection.ping(b"zks-lwip")

    def data_to_send(self) -> bytes:
        """Take what is to be sent."""
        return self._connection.data_to_send()

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server; return how queries ended."""
        events: list[Event] = []
        if self.dead:
            return events
        try:
            for frame in self._splitter.feed(data):
                self._frames_left -= 1
                if self._frames_left < 0:
                    raise ValueError("it sends frames that answer nothing")
                last = goaway_last_stream(frame)
                if last is not None:
                    self._go_away(last, events)
                    continue
                for event in self._connection.receive_data(frame):
                    self._handle(event, events)
        except _HTTP2_ERRORS as error:
            return events + self.fail(f"the server broke HTTP/2: {error or type(error).__name__}")
        self._open_streams()
        return events

    def fail(self, reason: str) -> list[Event]:
        """End every query: the connection is lost."""
        self.dead = reason
        ended: list[Event] = [
            QueryFailed(token, reason, True) for token in (*self._numbers, *self._waiting)
        ]
        self._numbers.clear()
        self._streams.clear()
        self._waiting.clear()
        return ended

    def _go_away(self, last: int, events: list[Event]) -> None:
        """Fail the queries whose streams come after ``last``; the others may still be answered."""
        self.closing = True
        lost = [token for token, number in self._numbers.items() if number > last]
        for token in lost:
            del self._streams[self._numbers.pop(token)]
        for token in (*lost, *self._waiting):
            events.append(QueryFailed(token, "the server is going away", True))
        self._waiting.clear()

    def _open_streams(self) -> None:
        """Send the queries that wait, as far as the server takes them."""
        while self._waiting and len(self._streams) < self._limit and not self.dead:
            token, message = self._waiting.popitem(last=False)
            number = self._connection.get_next_available_stream_id()
            if number >= MAX_STREAM_ID:
                self.closing = True
            self._numbers[token] = number
            if self._get:
                query = base64.urlsafe_b64encode(message).rstrip(b"=")
                joint = b"&" if "?" in self._path else b"?"
                path = self._path.encode("ascii") + joint + b"dns=" + query
                self._streams[number] = _Stream(token, b"")
                # Never indexed: the next path is another one, and no proxy is to keep it.
                private = NeverIndexedHeaderTuple(b":path", path)
                headers = [*self._prefix, private, *self._accept]
                self._connection.send_headers(number, headers, end_stream=True)
            else:
                self._streams[number] = stream = _Stream(token, message)
                length = (b"content-length", b"%d" % len(message))
                self._connection.send_headers(number, [*self._prefix, *self._accept, length])
                self._send_body(number, stream)

    def _send_body(self, number: int, stream: _Stream) -> None:
        """Send as much of a query as the server's windows allow."""
        while stream.unsent:
            try:
                room = self._connection.local_flow_control_window(number)
            except h2.exceptions.StreamClosedError:
                # The server has ended it; the event that says so is on its way.
                return
            size = min(room, self._connection.max_outbound_frame_size, len(stream.unsent))
            if size <= 0:
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._connection.send_data(number, part, end_stream=not stream.unsent)

    def _send_bodies(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            stream = self._streams.get(number)
            if stream is not None:
                self._send_body(number, stream)

    def _handle(self, event: h2.events.Event, events: list[Event]) -> None:
        """Act on an event of h2's; add the queries that end with it to ``events``."""
        if isinstance(event, h2.events.ResponseReceived):
            self._take_headers(event.stream_id, event.headers, events)
        elif isinstance(event, h2.events.DataReceived):
            self._connection.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
            self._take_body(event.stream_id, event.data, events)
        elif isinstance(event, h2.events.StreamEnded):
            self._finish(event.stream_id, events)
        elif isinstance(event, h2.events.StreamReset):
            stream = self._remove(event.stream_id)
            if stream is not None:
                reason = f"the server reset the stream (error {int(event.error_code)})"
                events.append(QueryFailed(stream.token, reason, True))
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            allowed = self._connection.remote_settings.max_concurrent_streams
            self._limit = min(MAX_STREAMS, allowed)
            self._send_bodies(self._streams)
        elif isinstance(event, h2.events.WindowUpdated):
            self._send_bodies([event.stream_id] if event.stream_id else self._streams)

    def _take_headers(
        self, number: int, headers: Iterable[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        """Read the headers of an answer, and give it up where they show that it is of no use."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.answered = True
        status, content_type = 0, b""
        for name, value in headers:
            if name == b":status":
                status = int(value)
            elif name == b"content-type":
                content_type = value.partition(b";")[0].strip().lower()
            elif name == b"age" and value.isdigit():
                stream.age = min(int(value[:10]), 1 << 31)
            elif name == b"content-length" and value.isdigit() and len(value) > 5:
                stream.problem = f"an answer of {value[:20].decode()} bytes"
        if status != 200:
            stream.problem = f"HTTP status {status}"
        elif content_type != b"application/dns-message":
            text = content_type[:60].decode("ascii", "replace")
            stream.problem = f"the content type is {text or 'missing'}"
        if stream.problem:
            self._give_up(number, stream, events)

    def _take_body(self, number: int, data: bytes, events: list[Event]) -> None:
        stream = self._streams.get(number)
        if stream is None or not stream.answered:
            return
        stream.body += data
        if len(stream.body) > MAX_MESSAGE:
            stream.problem = f"an answer of more than {MAX_MESSAGE} bytes"
            self._give_up(number, stream, events)

    def _finish(self, number: int, events: list[Event]) -> None:
        """End a query whose answer is whole."""
        stream = self._remove(number)
        if stream is None:
            return
        if stream.unsent:
            self._reset(number)
        if not stream.answered:
            events.append(QueryFailed(stream.token, "an answer without headers", False))
        else:
            self._allow_frames()
            events.append(AnswerReceived(stream.token, bytes(stream.body), stream.age))

    def _give_up(self, number: int, stream: _Stream, events: list[Event]) -> None:
        """End a query whose answer is of no use; h2 discards what still comes of it."""
        self._remove(number)
        self._allow_frames()  # an HTTP error is an answer, too
        events.append(QueryFailed(stream.token, stream.problem, False))
        self._reset(number)

    def _allow_frames(self) -> None:
        """Let the server send further frames: it has answered a query."""
        self._frames_left = min(self._frames_left + FRAMES_PER_ANSWER, MAX_IDLE_FRAMES)

    def _remove(self, number: int) -> _Stream | None:
        """Take a stream out of the tables, if it is there."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            del self._numbers[stream.token]
        return stream

    def _reset(self, number: int) -> None:
        """Tell the server to stop, unless it has ended the stream itself."""
        try:
            self._connection.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.StreamClosedError:
            return
