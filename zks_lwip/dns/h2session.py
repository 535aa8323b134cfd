"""The HTTP/2 side of DNS over HTTPS, sans-IO (RFC 8484, RFC 9113): bytes and queries in and out.

One :class:`DohSession` is one connection. Queries beyond what the server allows at a time wait
inside; every query ends in exactly one event, unless it is cancelled. Everything that a server can
make us keep is bounded: bodies at 65,535 bytes, streams at :data:`MAX_STREAMS`.
"""

from __future__ import annotations

import base64
import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack import HPACKError, NeverIndexedHeaderTuple

from zks_lwip.dns._h2frames import (
    END_HEADERS,
    Kind,
    cut,
    last_stream,
    opens_block,
    payload,
    whole_answers,
    window_update,
)
from zks_lwip.dns._hpack import SteadyDecoder, SteadyEncoder
from zks_lwip.dns.wire import MAX_MESSAGE

__all__ = ["Answered", "DohSession", "Failed"]

MAX_STREAMS = 256
"""Queries in flight at most, whatever the server allows."""
ASSUMED_STREAMS = 10
"""Until the server's SETTINGS have come: enough for a start, and below every real limit."""
STREAM_WINDOW = 131072
"""A whole answer fits, so that none needs WINDOW_UPDATE."""
CONNECTION_WINDOW = 4 << 20
_LAST_STREAM = 1 << 30
MAX_FRAMES = 2048
"""Frames that a server may send beyond those that answer: PING, SETTINGS, RST_STREAM, empty ones
and what else costs us more than the server (CVE-2019-9512 and those after it).
"""
FRAMES_PER_ANSWER = 64
"""How many of these each answer gives back: 64 KiB in frames of 1 KiB."""
_MOST_CLOSED = 1024
"""Streams that have ended and are still known to h2, before it is made to look for them."""

_MAX_HEADERS = 16384  # bytes of an answer's headers, as SETTINGS_MAX_HEADER_LIST_SIZE counts them


@dataclass(frozen=True, slots=True)
class Answered:
    """A query was answered with 200 and a DNS message."""

    token: int
    body: bytes
    age: int
    """Seconds that the answer has been in an HTTP cache (the Age header)."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A query was not answered."""

    token: int
    reason: str
    again: bool
    """Whether asking once more, on another connection, may help."""


@dataclass(slots=True)
class _Stream:
    token: int
    unsent: bytes
    status: int = 0
    problem: str = ""
    age: int = 0
    length: int = -1
    body: bytearray | None = None


Event = Answered | Failed


class _Connection(h2.connection.H2Connection):
    """h2's, but it does not go through all its streams whenever another one is opened."""

    @property
    def open_outbound_streams(self) -> int:
        """How many there are, or more: those that have ended count until it matters."""
        most = len(self.streams)
        if most < min(self.remote_settings.max_concurrent_streams, _MOST_CLOSED):
            return most
        return super().open_outbound_streams


class DohSession:
    """One connection of a client to ``https://authority/path``."""

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
        self._connection = _Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._connection.encoder = SteadyEncoder()
        self._connection.decoder = SteadyDecoder(_MAX_HEADERS)
        self._connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            },
        )
        self._connection.initiate_connection()
        self._connection.increment_flow_control_window(CONNECTION_WINDOW)
        self._streams: dict[int, _Stream] = {}
        self._numbers: dict[int, int] = {}
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._limit = ASSUMED_STREAMS
        self._held = bytearray()
        self._frames_left = MAX_FRAMES
        self._in_block = False
        self._unacknowledged = 0
        self._unseen = 0
        self._refills = bytearray()
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
        """Ask; `token` comes back in the event. Must not be called when :attr:`closing`."""
        if self.closing or self.dead:
            raise RuntimeError("this session takes no more queries")
        self._waiting[token] = message
        self._open_streams()

    def cancel(self, token: int) -> None:
        """Nobody waits for that answer any more. No event will come for it."""
        number = self._numbers.pop(token, None)
        if number is None:
            self._waiting.pop(token, None)
            return
        del self._streams[number]
        if not self.dead:
            self._reset(number)
            self._open_streams()

    def ping(self) -> None:
        """Ask for a sign of life; whatever bytes come then are one."""
        if not self.dead:
            self._connection.ping(b"zks-lwip")

    def data_to_send(self) -> bytes:
        """Take what is to be sent."""
        data = self._connection.data_to_send()
        if self._refills:
            data += self._refills
            self._refills.clear()
        return data

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server; return how queries ended."""
        events: list[Event] = []
        if self.dead:
            return events
        try:
            self._take(data, events)
        except (h2.exceptions.H2Error, HPACKError, struct.error, ValueError) as error:
            # h2 raises ValueError for some malformed frames and header fields.
            return events + self.fail(f"the server broke HTTP/2: {error or type(error).__name__}")
        self._open_streams()
        return events

    def fail(self, reason: str) -> list[Event]:
        """The connection is lost: end every query."""
        self.dead = reason
        ended: list[Event] = [
            Failed(token, reason, True) for token in (*self._numbers, *self._waiting)
        ]
        self._numbers.clear()
        self._streams.clear()
        self._waiting.clear()
        return ended

    def _take(self, data: bytes, events: list[Event]) -> None:
        """Act on the frames that have come; most kinds of them are passed on to h2.

        GOAWAY is not: h2 closes everything when it meets one, but a server that winds down still
        answers the streams up to the last one that it names (RFC 9113 §6.8). Nor are answers that
        have come as one HEADERS and one DATA frame, as nearly every one does: h2 takes ten times as
        long for them as this, a quarter of all that a query costs.
        """
        if self._held:
            data = bytes(self._held) + data
            self._held.clear()
        frames = cut(data)
        whole = set() if self._in_block else whole_answers(frames)
        self._count(len(frames), len(whole & self._streams.keys()))
        begun: dict[int, _Stream] = {}
        start = end = 0
        for frame in frames:
            position, end, kind, flags, number = frame
            if number in whole:
                self._pass(data[start:position], events)
                start = position
                if kind == Kind.DATA and number in begun:
                    self._end_whole(number, begun[number], payload(data, frame), events)
                    start = end
                elif kind == Kind.HEADERS and self._begin_whole(
                    number, payload(data, frame), begun
                ):
                    start = end
            elif kind == Kind.GOAWAY:
                self._pass(data[start:position], events)
                start = end
                self._go_away(last_stream(payload(data, frame)), events)
            elif kind == Kind.CONTINUATION:
                self._in_block = not flags & END_HEADERS
            elif opens_block(kind, flags):
                self._in_block = True
        self._pass(data[start:end], events)
        self._held += data[end:]

    def _count(self, frames: int, answers: int) -> None:
        """Count frames, and answers. Raises ValueError when there are far more of the former."""
        left = self._frames_left + answers * FRAMES_PER_ANSWER
        self._frames_left = min(left, MAX_FRAMES) - frames
        if self._frames_left < 0:
            raise ValueError("it sends frames that answer nothing")

    def _pass(self, data: bytes, events: list[Event]) -> None:
        """Let h2 judge whole frames."""
        if data:
            for event in self._connection.receive_data(data):
                self._handle(event, events)

    def _begin_whole(self, number: int, block: bytes, begun: dict[int, _Stream]) -> bool:
        """Take the HEADERS of an answer whose DATA has come, too; whether it is one to a query.

        Both sides have ended the stream then, so h2 may forget it, as it does by itself later.
        """
        stream = self._streams.get(number)
        if stream is None or stream.unsent or stream.body is not None:
            return False
        begun[number] = stream
        self._read_headers(stream, self._connection.decoder.decode(block, raw=True))
        self._connection.streams.pop(number, None)
        return True

    def _end_whole(self, number: int, stream: _Stream, body: bytes, events: list[Event]) -> None:
        """Take the DATA. h2 does not know of it, so what it takes of the connection's window is
        given back to the server beside h2.
        """
        self._unseen += len(body)
        if self._unseen > CONNECTION_WINDOW // 4:
            self._refills += window_update(self._unseen)
            self._unseen = 0
        if self._streams.get(number) is not stream:
            return  # a GOAWAY in between has ended it
        del self._streams[number], self._numbers[stream.token]
        if not stream.problem and stream.length not in (-1, len(body)):
            stream.problem = f"an answer of {len(body)} bytes that says it has {stream.length}"
        if stream.problem:
            events.append(Failed(stream.token, stream.problem, False))
        else:
            events.append(Answered(stream.token, body, stream.age))

    def _go_away(self, last: int, events: list[Event]) -> None:
        self.closing = True
        for token, number in list(self._numbers.items()):
            if number > last:
                del self._numbers[token], self._streams[number]
                events.append(Failed(token, "the server is going away", True))
        for token in self._waiting:
            events.append(Failed(token, "the server is going away", True))
        self._waiting.clear()

    def _open_streams(self) -> None:
        while self._waiting and len(self._streams) < self._limit and not self.dead:
            token, message = self._waiting.popitem(last=False)
            number = self._connection.get_next_available_stream_id()
            if number >= _LAST_STREAM:
                self.closing = True
            self._numbers[token] = number
            if self._get:
                query = base64.urlsafe_b64encode(message).rstrip(b"=")
                joint = b"&" if "?" in self._path else b"?"
                path = self._path.encode("ascii") + joint + b"dns=" + query
                self._streams[number] = _Stream(token, b"")
                # Not to be indexed: a table of paths would be of no use, and it is nobody's
                # business.
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

    def _handle(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.DataReceived):
            # No stream needs more than its first window, so only the connection's is refilled.
            self._unacknowledged += event.flow_controlled_length
            if self._unacknowledged > CONNECTION_WINDOW // 2:
                self._connection.increment_flow_control_window(self._unacknowledged)
                self._unacknowledged = 0
            self._take_body(event.stream_id, event.data, events)
        elif isinstance(event, h2.events.ResponseReceived):
            self._take_headers(event.stream_id, event.headers, events)
        elif isinstance(event, h2.events.StreamEnded):
            self._finish(event.stream_id, events)
        elif isinstance(event, h2.events.StreamReset):
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None:
                del self._numbers[stream.token]
                reason = f"the server reset the stream (error {int(event.error_code)})"
                events.append(Failed(stream.token, reason, True))
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            allowed = self._connection.remote_settings.max_concurrent_streams
            self._limit = min(MAX_STREAMS, allowed)
            self._send_bodies(self._streams)
        elif isinstance(event, h2.events.WindowUpdated):
            self._send_bodies([event.stream_id] if event.stream_id else self._streams)

    def _send_bodies(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            stream = self._streams.get(number)
            if stream is not None and stream.unsent:
                self._send_body(number, stream)

    def _take_headers(
        self, number: int, headers: Iterable[tuple[bytes, bytes]], events: list[Event]
    ) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.body = bytearray()
        self._read_headers(stream, headers)
        if stream.problem:
            self._give_up(number, stream, events)

    @staticmethod
    def _read_headers(stream: _Stream, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Note what they say, and whether that is a problem."""
        content_type = b""
        for name, value in headers:
            if name == b":status":
                stream.status = int(value)
            elif name == b"content-type":
                content_type = value.partition(b";")[0].strip().lower()
            elif name == b"age" and value.isdigit():
                stream.age = min(int(value[:10]), 1 << 31)
            elif name == b"content-length" and value.isdigit():
                if len(value) > 5:
                    stream.problem = f"an answer of {value[:20].decode()} bytes"
                else:
                    stream.length = int(value)
        if stream.status != 200:
            stream.problem = f"HTTP status {stream.status}"
        elif content_type != b"application/dns-message":
            text = content_type[:60].decode("ascii", "replace")
            stream.problem = f"the content type is {text or 'missing'}"

    def _take_body(self, number: int, data: bytes, events: list[Event]) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.body is None:
            return
        stream.body += data
        if len(stream.body) > MAX_MESSAGE:
            stream.problem = f"an answer of more than {MAX_MESSAGE} bytes"
            self._give_up(number, stream, events)

    def _give_up(self, number: int, stream: _Stream, events: list[Event]) -> None:
        """End a query whose answer is of no use; what still comes of it is thrown away by h2."""
        del self._streams[number], self._numbers[stream.token]
        events.append(Failed(stream.token, stream.problem, False))
        self._reset(number)

    def _reset(self, number: int) -> None:
        """Tell the server to stop, unless it has ended the stream itself."""
        try:
            self._connection.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.StreamClosedError:
            return

    def _finish(self, number: int, events: list[Event]) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        del self._numbers[stream.token]
        if stream.unsent:
            self._reset(number)
        if stream.body is None:
            events.append(Failed(stream.token, "an answer without headers", False))
        else:
            self._count(0, 1)
            events.append(Answered(stream.token, bytes(stream.body), stream.age))
