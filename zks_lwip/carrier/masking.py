"""WebSocket framing in C, put under wsproto and trio-websocket: the one place where that is done.

Why: wsproto 1.3 masks with four strided ``bytes.translate`` passes and copies a payload five times
on its way out and four times on its way in; a tunnel that does nothing but move bytes spends most
of its time there. Here a binary message is sent as a frame that C builds in one pass (header, key
and masked payload), or masked in place where its owner can do with that, and is received in the
buffer that the socket wrote it to, unmasked in place.

How: :class:`FramedConnection` is a ``wsproto.WSConnection``. The opening handshake, control frames,
text, fragmented messages, oversized and malformed frames all go through wsproto's own code, so
that nothing but the fast path is ours; RFC 6455 §5.3's masking key comes from ``os.urandom`` for
every frame.

When not: :func:`make_protocol` gives wsproto's own framing, within the same bounds
(:mod:`.framing`), if a self-check, run once, finds that wsproto no longer behaves as it did, or
that the extension module is missing. Everything then still works, at wsproto's speed.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Generator
from functools import partial
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, Event, Request

from ..net.rounds import ROUND
from .buffers import MIN_BUFFER, Spares, in_use
from .framing import BoundedConnection, Buffer, OnChange
from .pacing import MAX_LIMIT

try:
    from .._lwip import ffi, lib
except ImportError as _error:  # not built: wsproto's own framing serves, slowly
    _missing: ImportError | None = _error
    ffi = lib = None
else:
    _missing = None

__all__ = [
    "IN_C",
    "RECEIVE_BUFFERS",
    "SEND_BUFFERS",
    "FramedConnection",
    "FramingInC",
    "frame",
    "make_protocol",
    "self_check",
    "unmask",
]

_log = logging.getLogger(__name__)

_BINARY = 0x2
_FIN_BINARY = 0x82
_MASKED = 0x80
_LENGTH = 0x7F
_MAX_HEADER = 14

_SHORT_HEADER = struct.Struct("!BBH")
_LONG_HEADER = struct.Struct("!BBQ")
_WORTH_GATHERING = 4 * 1024
"""Bytes of a message below which a copy costs less than a second part."""

_SMALL = 2 * 1024
"""Bytes up to which a new buffer costs less than to find one that is not in use."""
_MIN_ROOM = 4 * 1024
# Two frames of the largest message that a session makes, and room behind them: with a bit less,
# almost all of the second one would have to be moved to the front each time.
_BULK_BUFFER = 2 * (MAX_LIMIT + _MAX_HEADER) + _MIN_ROOM


def frame(payload: Buffer, key: bytes | None, out: bytearray, *, opcode: int = _BINARY) -> int:
    """Write one whole frame (RFC 6455 §5.2).

    :param key: the masking key, 4 bytes; None: a server's frame is not masked.
    :param out: at least 14 bytes longer than the payload.
    :returns: the length of the frame, in bytes.
    :raises ValueError: a size is wrong.
    """
    source = ffi.from_buffer(payload)
    if len(out) < len(source) + _MAX_HEADER or (key is not None and len(key) != 4):
        raise ValueError("a frame needs 14 bytes more than its payload, and a key of 4 bytes")
    target = ffi.from_buffer(out, require_writable=True)
    key_in = ffi.NULL if key is None else key
    return int(lib.zks_ws_frame(target, opcode, source, len(source), key_in))


def unmask(data: Buffer, key: bytes) -> None:
    """Mask or unmask ``data`` (writable) in place (RFC 6455 §5.3).

    :param key: 4 bytes.
    :raises ValueError: it has another length.
    """
    if len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(key)}")
    view = ffi.from_buffer(data, require_writable=True)
    lib.zks_ws_mask(view, view, len(view), key, 0)


SEND_BUFFERS = Spares(4, max_size=_BULK_BUFFER)
RECEIVE_BUFFERS = Spares(4, max_size=_BULK_BUFFER)
_NO_BUFFER = bytearray()


class FramedConnection(BoundedConnection):
    """A ``BoundedConnection`` whose whole binary messages take the short way.

    ``on_message``, while set, is called with every binary message, synchronously, from
    :meth:`events`, instead of that giving a ``BytesMessage``: a memoryview that is valid as long as
    it is held, into a buffer that is used again once no view holds it. It must not raise. A message
    of more than ``max_message`` bytes is never assembled here.
    """

    _connection: Connection | None  # set by WSConnection, as ``connection``

    def __init__(self, connection_type: ConnectionType, max_message: int = 1 << 20) -> None:
        super().__init__(connection_type, max_message)
        self._buffer = _NO_BUFFER  # where it receives; none while it rests
        self._room = MIN_BUFFER  # bytes that it shall have, which grows with what comes
        self._start = 0  # of what has not been parsed
        self._end = 0  # of what has been received
        self._needed = 0  # bytes from _start that the frame in progress has in all, if known
        self._filled = False  # the last receive filled all the room
        self._slow = 0  # bytes of the current frame that still go to wsproto
        self._fragmented = False  # wsproto is inside a fragmented message
        self._left: list[Event] = []  # by take_messages, for events()
        self.bytes_moved = 0
        """Bytes that were moved to the front because there was no room behind them."""

    @property
    def connection(self) -> Connection | None:
        """As ``WSConnection.connection``. It is made anew when wsproto is needed: by a control
        frame, say. It takes kilobytes, which an idle WebSocket goes without."""
        if self._connection is None and self.opened:
            self._connection = Connection(
                ConnectionType.CLIENT if self.client else ConnectionType.SERVER
            )
        return self._connection

    @connection.setter
    def connection(self, connection: Connection | None) -> None:
        self._connection = connection

    @property
    def state(self) -> ConnectionState:
        """As :attr:`BoundedConnection.state`."""
        if self._connection is None and self.opened:
            return ConnectionState.OPEN
        return super().state

    @property
    def buffer_size(self) -> int:
        """Bytes of the buffer that it receives into; 0 while it rests."""
        return len(self._buffer)

    # sending

    def send(self, event: Event) -> Any:
        """As ``WSConnection.send``; a frame from C is a memoryview, valid as long as it is held."""
        if (
            type(event) is BytesMessage
            and event.message_finished
            and self.state is ConnectionState.OPEN
        ):
            return self._frame(event.data)
        return super().send(event)

    def frame_message(
        self, message: Buffer, *, gather: bool = False, on_change: OnChange | None = None
    ) -> tuple[Buffer, ...]:
        """See :meth:`BoundedConnection.frame_message`. A client's is masked: in place if that may
        be, else in a copy, whose memory has to pass through the processor's cache as well."""
        if self.state is not ConnectionState.OPEN:
            return super().frame_message(message)
        size = len(message)
        masked = _MASKED if self.client else 0
        if not gather or (masked and on_change is None) or size < _WORTH_GATHERING:
            return (self._frame(message),)
        if size < 1 << 16:
            header = _SHORT_HEADER.pack(_FIN_BINARY, masked | 126, size)
        else:
            header = _LONG_HEADER.pack(_FIN_BINARY, masked | 127, size)
        if masked:
            assert on_change is not None
            key = os.urandom(4)
            on_change(partial(unmask, key=key))
            unmask(message, key)
            header += key
        return (header, message)

    def _frame(self, payload: Buffer) -> memoryview:
        size = memoryview(payload).nbytes + _MAX_HEADER
        small = size <= _SMALL
        buffer = bytearray(size) if small else SEND_BUFFERS.take(size)
        length = frame(payload, os.urandom(4) if self.client else None, buffer)
        if not small:
            SEND_BUFFERS.give(buffer)
        return memoryview(buffer)[:length]

    # receiving

    def get_buffer(self, size: int = _MIN_ROOM) -> memoryview:
        """Return room of ``size`` bytes or more to receive into, once the handshake is over.

        Give what was filled to :meth:`receive_data`, as a part of it. (That takes bytes, too.)
        """
        self._make_room(max(size, _MIN_ROOM))
        return memoryview(self._buffer)[self._end :]

    def take_messages(self) -> bool:
        """Give ``on_message`` what has come, as :meth:`events` does; return whether that is all.

        If not, :meth:`events` has more.
        """
        self.unfinished = False
        with ROUND:
            self._left += self._frames(time.perf_counter() + self.slice)
        return not self._left and not self.unfinished

    def events(self) -> Generator[Event, None, None]:
        """As ``BoundedConnection.events``."""
        if self._left:
            left, self._left = self._left, []
            yield from left
        yield from super().events()

    def rest(self) -> None:
        """Nothing is there to be received: hold no buffer, unless it holds a part of a frame."""
        if self._start == self._end:
            self._give_buffer()
        connection = self._connection
        if connection is None or self._slow or self._fragmented or self._dead or not self.opened:
            return
        if connection.state is ConnectionState.OPEN:  # it is in the midst of nothing
            self._connection = None

    def end(self) -> None:
        """As :meth:`BoundedConnection.end`."""
        super().end()
        self._give_buffer()

    def _give_buffer(self) -> None:
        if self._buffer is not _NO_BUFFER:
            RECEIVE_BUFFERS.give(self._buffer)
            self._buffer = _NO_BUFFER
        self._start = self._end = 0

    def receive_data(self, data: Any) -> None:
        """As ``WSConnection.receive_data``; takes any bytes-like object, and releases its own."""
        if isinstance(data, memoryview) and data.obj is self._buffer:
            self._end += 0 if self._dead else len(data)
            data.release()  # or the caller's variable would keep the buffer in use
            self._filled = self._end == len(self._buffer)
        else:
            super().receive_data(data)

    def _receive_frames(self, data: Any) -> None:
        if data is None:
            super()._receive_frames(None)
        else:
            self._append(data)

    def _append(self, data: Buffer) -> None:
        size = memoryview(data).nbytes
        self._make_room(size)
        self._buffer[self._end : self._end + size] = data
        self._end += size
        self._filled = False

    def _make_room(self, size: int) -> None:
        """Have ``size`` bytes free after ``_end``, and the frame in progress fit.

        Of a large frame, twice what has come of it: a header alone could promise anything.
        """
        held = self._end - self._start
        if self._filled and self._room < _BULK_BUFFER:
            self._room = min(2 * len(self._buffer), _BULK_BUFFER)
        self._filled = False
        needed = max(held + size, min(self._needed, max(self._room, 2 * held)))
        if held and self._start + needed <= len(self._buffer):
            return
        self.bytes_moved += held if self._start else 0
        wanted = max(needed, self._room)
        if wanted > len(self._buffer) or in_use(self._buffer):
            fresh = RECEIVE_BUFFERS.take(wanted)
            fresh[:held] = memoryview(self._buffer)[self._start : self._end]
            if self._buffer is not _NO_BUFFER:
                RECEIVE_BUFFERS.give(self._buffer)
            self._buffer = fresh
        elif held:
            with memoryview(self._buffer) as view:
                view[:held] = view[self._start : self._end]
        self._start, self._end = 0, held

    def _frames(self, deadline: float) -> Generator[Event, None, None]:
        own_mask = 0 if self.client else _MASKED
        now = time.perf_counter
        moved = False  # a slice is one frame at least
        while not self._dead:
            if moved and now() > deadline:
                self.unfinished = True
                return
            moved = True
            buffer, start = self._buffer, self._start
            held = self._end - start
            if self._slow:
                if not held:
                    return
                part = min(held, self._slow)
                self._start += part
                self._slow -= part
                yield from self._through_wsproto(bytes(memoryview(buffer)[start : start + part]))
                continue
            if held < 2:
                return
            first, second = buffer[start], buffer[start + 1]
            header = 2 + (4 if second & _MASKED else 0)
            size = second & _LENGTH
            if size >= 126:
                header += 2 if size == 126 else 8
            if held < header:
                return
            shortest = 0
            if size == 126:
                size, shortest = struct.unpack_from("!H", buffer, start + 2)[0], 126
            elif size == 127:
                size, shortest = struct.unpack_from("!Q", buffer, start + 2)[0], 1 << 16
            if (
                first != _FIN_BINARY
                or second & _MASKED != own_mask
                or size < shortest
                or size > self.max_message
                or self._fragmented
            ):
                self._slow = header + size
                if not first & 0x08:
                    self._fragmented = not first & 0x80
                continue
            if held < header + size:
                self._needed = header + size
                return
            self._needed = 0
            self._start = start + header + size
            message = memoryview(buffer)[start + header : self._start]
            if own_mask:
                unmask(message, bytes(buffer[start + header - 4 : start + header]))
            if self.on_message is None:
                yield BytesMessage(data=bytes(message))
            else:
                self.on_message(message)
            del message
        self._start = self._end = 0

    def _through_wsproto(self, data: bytes) -> Generator[Event, None, None]:
        connection = self.connection
        assert connection is not None
        if connection.state is ConnectionState.CLOSED:
            self._dead = True
            return
        connection.receive_data(data)
        yield from self._bounded(connection.events())


class FramingInC:
    """Whether WebSockets are framed in C: decided when it is first asked, by a self-check.

    :param missing: why the extension module is not there; None: it is.
    """

    def __init__(self, missing: ImportError | None = _missing) -> None:
        self._missing = missing
        self.enabled: bool | None = None
        """None: not decided yet."""

    def usable(self) -> bool:
        """Return the decision; log it once if it is no."""
        if self.enabled is None:
            missing = "the extension module is not built"
            why = missing if self._missing is not None else self_check()
            self.enabled = why is None
            if why is not None:
                _log.warning("WebSocket framing in C is off: %s; bulk transfers are slower", why)
        return self.enabled


IN_C = FramingInC()
"""Of this process."""


def make_protocol(
    connection_type: ConnectionType, max_message: int = 1 << 20, *, framing: FramingInC = IN_C
) -> BoundedConnection:
    """Return the protocol for a ``trio_websocket.WebSocketConnection``, framing in C if it can.

    :param max_message: bytes.
    """
    if framing.usable():
        return FramedConnection(connection_type, max_message)
    return BoundedConnection(connection_type, max_message)


def self_check() -> str | None:
    """Send messages between our framing and wsproto's own, both ways.

    :returns: None if all is well, or why not, in a clause.
    """
    payload = bytes(range(256)) * 300
    try:
        for ours in (ConnectionType.CLIENT, ConnectionType.SERVER):
            mine: WSConnection = FramedConnection(ours)
            other = WSConnection(
                ConnectionType.SERVER if ours is ConnectionType.CLIENT else ConnectionType.CLIENT
            )
            client, server = (mine, other) if mine.client else (other, mine)
            server.receive_data(client.send(Request(host="check", target="/")))
            (request,) = server.events()
            client.receive_data(server.send(AcceptConnection()))
            (accepted,) = client.events()
            if type(request) is not Request or type(accepted) is not AcceptConnection:
                return "wsproto's opening handshake has changed"
            for sender, receiver in ((mine, other), (other, mine)):
                for size in (0, 1, 125, 126, 65535, 65536, len(payload)):
                    receiver.receive_data(bytes(sender.send(BytesMessage(data=payload[:size]))))
                    got = b"".join(event.data for event in receiver.events())  # type: ignore[attr-defined]
                    if got != payload[:size]:
                        return f"a message of {size} bytes came out wrong through wsproto"
    except Exception as error:  # whatever it is, wsproto alone is the safer choice
        return f"wsproto does not work as expected ({type(error).__name__}: {error})"
    return None
