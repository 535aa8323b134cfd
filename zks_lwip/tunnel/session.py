"""One session of the tunnel, at either end: messages in, messages out (PROTOCOL.md §3 to §5).

No input or output happens here. The owner feeds whole WebSocket messages to ``receive`` and acts on
the frames that it returns; it sends what ``next_message`` returns. Streams pull their bytes from a
``Source`` when there is room in a message, so nothing is queued that the peer has not granted.

Sessions do not resume yet; what that needs is in place: counted frames are counted both ways, and
those of a message are one run of bytes at its end.
"""

from __future__ import annotations

import threading

from ._fair import Source
from ._frames import (
    DATA_HEADER,
    Buffer,
    Close,
    Connect,
    Connected,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    GoAway,
    UdpClose,
    UdpError,
    Window,
    encode_udp,
)
from ._inbound import Inbound
from ._settings import Role, Settings
from ._stats import SessionStats

__all__ = ["HELLO_TIMEOUT", "Role", "Session", "SessionStats", "Settings", "Source"]

HELLO_TIMEOUT = 10.0
"""Seconds within which the peer's HELLO must have come; the owner keeps the time."""

_MOST_ID = 2**32 - 1
_MOST_TEXT = 200  # bytes of an ERROR's message or a GOAWAY's reason that we send
_LEAST_LIMIT = 4096
_LEAST_ROOM = 64
_SMALL = 32 << 10  # a message up to this is copied out of the buffer that it was written in


class _Scratch(threading.local):
    """Where messages are written, by all sessions of a thread: none is written over a wait."""

    def __init__(self) -> None:
        self.free: list[bytearray] = []


_scratch = _Scratch()


class Session(Inbound):
    """The sans-IO state machine of one session.

    ``Session(role, settings, clock=time.monotonic, wake=None, budget=None)``: ``wake`` is called,
    and must only take note, whenever ``has_output`` becomes true; the client's HELLO is there from
    the start and does not call it. ``budget`` bounds how far the windows of all sessions that share
    it grow. Whatever names a stream that is gone, or comes after the end, does nothing.
    """

    # What the owner asks

    @property
    def can_connect(self) -> bool:
        """Client: another stream may be opened now."""
        return (
            self._client
            and self.ready
            and not self._going_away
            and self.peer is not None
            and len(self._streams) < self.peer.streams
            and self._highest < _MOST_ID
            and self._outbox.control_size < self._most_control
        )

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def round_trip(self) -> float:
        """Smoothed round trip in seconds; 0.0 while none was measured."""
        return self._round_trip.estimate

    def is_open(self, stream: int) -> bool:
        return stream in self._streams

    # Messages out

    def next_message(self, limit: int = 262144) -> bytearray | None:
        """The next message to send, None if there is none.

        ``limit``, 4096 or more, is its size in bytes, except that one frame larger than that leaves
        alone; the peer's ``max_message`` always holds. Control, DNS and datagrams go first, then
        streams with little to send, then bulk ones round-robin. Sources are pulled here; while they
        are, they may call ``close``, ``error`` and ``mark_ready`` only.
        """
        if limit < _LEAST_LIMIT:
            raise ValueError(f"a limit of {limit} bytes is below {_LEAST_LIMIT}")
        if self._hello is not None:
            message = bytearray(self._hello)
            self._hello = None
            if self._client:
                self._round_trip.sent(self._clock())
            else:
                self._handlers = self._all_handlers()
            return self._hand_out(message)
        if self.peer is None or self._over:
            self._signalled = False
            return None
        limit = min(limit, self.peer.max_message)
        message = self._assemble(limit, bool(self._queue))
        if not message and self._outbox:
            # What waits had left its share to streams, which turned out to have nothing
            message = self._assemble(limit, False)
        if not message:
            self._signalled = False
            return None
        return self._hand_out(message)

    def _hand_out(self, message: bytearray) -> bytearray:
        self.stats.messages_out += 1
        self.stats.bytes_out += len(message)
        if not self.has_output:
            self._signalled = False
        return message

    def _assemble(self, limit: int, streams: bool) -> bytearray:
        outbox, queue = self._outbox, self._queue
        parts: list[bytes] = []
        size = 0
        if outbox:
            pinged = outbox.pings
            parts, size, counted = outbox.take(limit, streams)
            self._sent += counted
            if pinged and not outbox.pings:
                self._round_trip.sent(self._clock())
            for answer in outbox.answered:
                self._queries.left(answer - DATA_HEADER.size)
            outbox.answered.clear()
        # While control frames wait, a stream's CONNECT or CONNECTED may be among them
        if not queue or outbox.control or limit - size < _LEAST_ROOM:
            return bytearray().join(parts)
        free = _scratch.free
        scratch = free.pop() if free else bytearray()
        if len(scratch) < limit:
            scratch = bytearray(limit)
        frames, payload = queue.frames, queue.payload
        assert self.peer is not None
        with memoryview(scratch) as whole, whole[:limit] as view:
            if parts:
                view[:size] = b"".join(parts)
            end = queue.fill(view, size, self.peer.max_data)
        self._sent += queue.frames - frames
        self.stats.data_out += queue.payload - payload
        if end <= _SMALL:
            free.append(scratch)
            return scratch[:end]
        del scratch[end:]
        return scratch

    # Streams

    def connect(self, host: str, port: int, source: Source) -> int:
        """Client: open a stream to ``host`` (an IP literal or a name); returns its id.

        DATA may follow at once: call ``mark_ready`` when ``source`` has bytes. Raises RuntimeError
        unless ``can_connect``, ValueError for a host or a port that no frame holds.
        """
        if not self.can_connect:
            raise RuntimeError("this session takes no new stream now (see can_connect)")
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        identifier = self._highest + 1
        frame = Connect(identifier, host, port).encode()
        self._highest = identifier
        credit = self._open(identifier, source).window.open_up()
        if credit:
            frame += Window(identifier, credit).encode()
        self._outbox.add_control(identifier, frame)
        self._signal()
        return identifier

    def accept(self, stream: int, source: Source) -> None:
        """Worker: who supplies the DATA of a stream that CONNECT has opened."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        entry.source = source
        if entry.ready:
            self._enqueue(entry)

    def connected(self, stream: int) -> None:
        """Worker: the far end is connected; CONNECTED leaves, and DATA may follow it."""
        self._only_worker("connected")
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.connected:
            raise RuntimeError(f"stream {stream} is connected already")
        entry.connected = True
        self._outbox.add_control(stream, Connected(stream).encode())
        if entry.ready:
            self._enqueue(entry)
        self._signal()

    def error(self, stream: int, code: int, message: str = "") -> None:
        """Worker: end a stream with a code (``frames.Code``), in both directions, at once."""
        self._only_worker("error")
        entry = self._streams.get(stream)
        if entry is not None:
            self._forget(entry)
            self._answer_error(stream, code, _cut(message))

    def close(self, stream: int) -> None:
        """Abort both directions of a stream, at once; what its source still has is not sent."""
        entry = self._streams.get(stream)
        if entry is None:
            return
        self._forget(entry)
        if not self._outbox.forget(stream):
            self._outbox.add_control(stream, Close(stream).encode())
            self._signal()

    def mark_ready(self, stream: int) -> None:
        """The source of a stream has bytes, or has reached its end."""
        entry = self._streams.get(stream)
        if entry is None or entry.ready or entry.eof_sent:
            return
        entry.ready = True
        self._enqueue(entry)

    def consumed(self, stream: int, size: int) -> None:
        """The consumer of a stream took ``size`` bytes of its DATA: the peer may send more.

        Raises ValueError for more than came.
        """
        entry = self._streams.get(stream)
        if entry is None or not entry.window.consume(size) or entry.eof_taken:
            return
        window = entry.window
        now = self._clock()
        before = window.size
        window.grant(now, self._round_trip.estimate)
        if window.size > before:
            self.stats.windows_grown += 1
        if window.due:
            self._outbox.windows[stream] = entry
        if self._round_trip.is_stale(now):
            self._outbox.pings = 1
        self._signal()

    # Datagrams, DNS, ICMP

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """Send a datagram to, or (worker) from, ``host``, an IP literal.

        False if it is dropped: the session is not ready, the worker carries no UDP, or (worker) the
        association is not open. Those that wait too long are dropped later, the oldest first, and
        counted. Raises ValueError for a payload over 65507 bytes or what is no host.
        """
        if not self.ready:
            self.stats.datagrams_dropped += 1
            return False
        if self._client:
            allowed = self.peer is not None and self.peer.udp
        else:
            allowed = association in self._associations
            if allowed:
                self._associations.move_to_end(association)
        if not allowed:
            self.stats.datagrams_dropped += 1
            return False
        self._outbox.add_datagram(encode_udp(association, host, port, payload))
        self.stats.datagrams_out += 1
        if not self._signalled:
            self._signal()
        return True

    def udp_close(self, association: int) -> None:
        """End an association. (A datagram for it opens it again.)"""
        if not self._client and self._associations.pop(association, 0) == 0:
            return
        if self.ready:
            self._send_datagram(UdpClose(association).encode())

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Worker: an ICMP error came for what the association sent to ``host`` and ``port``."""
        self._only_worker("udp_error")
        if association in self._associations:
            self._send_datagram(UdpError(association, code, host, port).encode())

    def dns_query(self, request: int, message: bytes) -> bool:
        """Client: ask; False if it is not taken, since too many wait or the worker has no DNS."""
        if not self.ready or self.peer is None or not self.peer.dns:
            return False
        if not self._outbox.add_dns(DnsQuery(request, message).encode(), in_flight=False):
            self.stats.dns_refused += 1
            return False
        self._signal()
        return True

    def dns_response(self, request: int, message: bytes) -> None:
        """Worker: answer a DNS_QUERY; for one that is not in flight, nothing."""
        self._only_worker("dns_response")
        answer = self._queries.answer(request, message)
        if answer is not None:
            self.stats.dns_refused += answer is not message
            self._outbox.add_dns(DnsResponse(request, answer).encode(), in_flight=True)
            self._signal()

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """Client: send an ICMP echo request; False if the worker sends none."""
        if not self.ready or self.peer is None or not self.peer.icmp:
            return False
        self._send_datagram(Echo(request, host, payload).encode())
        return True

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """Worker: the reply to an ECHO."""
        self._only_worker("echo_reply")
        if self.ready:
            self._send_datagram(EchoReply(request, payload).encode())

    # The session

    def goaway(self, code: int, reason: str = "") -> None:
        """Open no new stream: a worker answers CONNECT with 503 from now on."""
        self._going_away = True
        if not self._over:
            self._outbox.goaway = GoAway(code, _cut(reason)).encode()
            self._signal()

    def ping(self) -> None:
        """Send PING, which the peer answers."""
        if not self._over:
            self._outbox.pings = 1
            self._signal()

    def _only_worker(self, what: str) -> None:
        if self._client:
            raise RuntimeError(f"{what}: only a worker does that")


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:_MOST_TEXT].decode(errors="ignore")
