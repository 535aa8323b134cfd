"""The streams of a session in C: which sends next, and what DATA and WINDOW do to them.

C (``native/mux``) holds the open streams with their credit and the lines in which they send. It
writes DATA into messages and takes DATA and WINDOW out of them. Where a stream has a *target*, a
connection of the stack or a socket, its bytes go between that and the message without Python;
else its :class:`~.stream.Source` is asked here, and DATA becomes an event. What is not usual, a
stream's end or a breach of the protocol above all, is left to Python in any case.

A stream that becomes ready is served first, once, with a small quantum. One that still has bytes
after that is bulk, and these are served round-robin, until they run dry.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .._lwip import ffi, lib
from .stream import Stream

__all__ = ["DATA", "ERRNO", "GRANT", "SOCKETS", "Multiplexer"]

_HEADER = 9  # of DATA
_RECORD = struct.Struct("=IIII")
"""struct zks_mux_record: kind, stream, offset and length of bytes in the message."""
_BYTES = ffi.typeof("uint8_t[]")
_apply = lib.zks_mux_apply
_ready = lib.zks_mux_ready
_fill = lib.zks_mux_fill
_address = ffi.addressof
_from_buffer = ffi.from_buffer
_buffer = ffi.buffer
_MAX_U32 = 2**32 - 1

DATA: int = lib.ZKS_RECORD_DATA
"""Bytes for the stream's owner: there is no target, or it has not taken them."""
GRANT: int = lib.ZKS_RECORD_GRANT
"""The target has taken so much of a stream that it is time to grant."""
ERRNO: int = lib.ZKS_RECORD_ERRNO
"""The target has failed with this errno (in place of the length); its bytes follow as DATA."""


def _sockets() -> Any:
    target = ffi.new("struct zks_mux_target *")
    return target if lib.zks_mux_sockets(target) else None


SOCKETS: Any = _sockets()
"""The target of all sockets, which are named by their descriptors; None: this system has none."""


_new_records = partial(ffi.new, ffi.typeof("struct zks_mux_record[]"), lib.ZKS_MUX_RECORDS)
_spare_records: list[Any] = []
"""Where C writes what it leaves to us: a kilobyte each, for all sessions. One is taken out while it
is in use, so that sessions of two threads never share one."""


class Multiplexer:
    """The open streams of a session.

    :param max_data: most payload bytes of a DATA frame that comes.
    :param on_eof: called with each stream whose EOF has been written.
    :raises MemoryError: there is no memory for it.
    """

    __slots__ = ("_on_eof", "c", "open")

    def __init__(self, client: bool, max_data: int, on_eof: Callable[[Stream], None]) -> None:
        c = lib.zks_mux_new(client, min(max_data, _MAX_U32), secrets.randbits(32))
        if c == ffi.NULL:
            raise MemoryError("no memory for the streams of a session")
        self.c = ffi.gc(c, lib.zks_mux_free)
        """The ``struct zks_mux``, for what is read for every message: ``lined`` (streams in line:
        they have something to send, and credit), ``frames`` (DATA and EOF written so far, which are
        all counted, PROTOCOL.md §6), ``payload`` (bytes of DATA written so far) and ``sparse``
        (DATA frames so far, modulo 2**32, of streams that send little and not for the first time,
        while bulk ones waited); and of the last :meth:`apply`, ``applied`` (frames taken, all
        counted), ``position`` (where the first begins that was not) and ``data_in`` (bytes of DATA
        in them)."""
        self._on_eof = on_eof
        self.open: dict[int, Stream] = {}
        """The open streams by their ids; to be changed by :meth:`add` and :meth:`remove` only."""

    def add(self, stream: Stream) -> None:
        """Open a stream."""
        self.open[stream.id] = stream
        lib.zks_mux_add(self.c, _address(stream.c))

    def remove(self, stream: Stream) -> None:
        """Let an open stream be gone."""
        del self.open[stream.id]
        lib.zks_mux_remove(self.c, _address(stream.c))

    # sending

    def __bool__(self) -> bool:
        """Streams are in line: they have something to send, and credit."""
        return bool(self.c.lined)

    def __iter__(self) -> Iterator[int]:
        """Yield the ids of the streams in line."""
        for line in self.c.lines:
            stream = line.first
            while stream:
                yield stream.id
                stream = stream.line_next

    def forget_frames(self) -> None:
        """Count ``frames`` from 0."""
        self.c.frames = 0

    def ready(self, identifier: int) -> bool:
        """Note that a stream has bytes, or its end.

        :returns: whether it has come in line by that.
        """
        return bool(_ready(self.c, identifier))

    def schedule(self, stream: Stream) -> bool:
        """Put a ready stream in line, if it may send.

        :returns: whether it is in line.
        """
        return bool(lib.zks_mux_schedule(self.c, _address(stream.c)))

    def fill(self, view: memoryview, position: int, max_data: int) -> int:
        """Write DATA and EOF frames into ``view`` from ``position`` on.

        :param max_data: most payload bytes of a frame.
        :returns: where they end.
        :raises ValueError: for a source that claims more bytes than it had room for.
        """
        c = self.c
        buffer = _from_buffer(_BYTES, view)
        try:
            lib.zks_mux_begin(c, buffer, position, len(view), min(max_data, _MAX_U32))
            identifier = _fill(c, 0)
            while identifier:
                identifier = self._supply(identifier, view)
        finally:
            ffi.release(buffer)
        return int(c.at)

    def _supply(self, identifier: int, view: memoryview) -> int:
        """Ask the source of a stream for its part of the frame that is being written.

        :returns: the stream whose source is next; 0: none.
        """
        c = self.c
        stream = self.open[identifier]
        start, room = c.at + _HEADER + c.filled, c.room
        source = stream.source
        assert source is not None  # a stream without one never stands in line
        if c.error:
            source.broke(c.error, pushing=False)
        got = source.pull_into(view[start : start + room])
        if got is None:
            identifier = int(_fill(c, -1))
            if stream.c.eof_sent:  # not if its own source has closed it
                self._on_eof(stream)
            return identifier
        if got > room and not stream.gone:
            raise ValueError(f"{source!r} claims {got} bytes, in {room} of room")
        return int(_fill(c, got))

    # receiving

    def apply(
        self, message: Any, size: int, position: int, now: float
    ) -> Iterable[tuple[int, int, int, int]]:
        """Take DATA and WINDOW frames of a message, up to one that is left to Python, or until
        there is much to tell. See :attr:`c` for what became of it.

        :param message: as C has it (``ffi.from_buffer``); its bytes are not kept.
        :param size: of it, in bytes.
        :param position: where the first frame begins.
        :param now: seconds, by the session's clock.
        :returns: kind (:data:`DATA`, :data:`GRANT`, :data:`ERRNO`), stream, offset and length each.
        """
        try:
            records = _spare_records.pop()
        except IndexError:
            records = _new_records()
        count = _apply(self.c, message, size, position, now, records)
        told = _buffer(records, count * _RECORD.size)[:] if count else b""
        _spare_records.append(records)
        return _RECORD.iter_unpack(told) if told else ()
