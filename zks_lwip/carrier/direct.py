"""Sockets that are read and written without a pass through the scheduler, plain and by TLS.

trio's streams look at the scheduler before and after every call, and an ``SSLStream`` for every
record of 16 KiB, in fresh memory each time. Here the owner waits until a socket is ready, and these
take or give what there is.
"""

from __future__ import annotations

import errno
import os
import ssl
import time
from collections.abc import Sequence
from typing import Any, Protocol

import trio

from .buffers import Spares
from .dependencies import TlsState, tls_state
from .framing import SLICE, Buffer

__all__ = ["DirectSocket", "direct"]

_PIECE = 64 * 1024
"""Bytes that are encrypted, or read to be decrypted, at a time: each connection's TLS keeps memory
for as many, and they stay in the processor's cache."""
_RECORD = 16 * 1024
"""Bytes in one record of TLS."""
_APART = 1024
"""Bytes that a buffer to be decrypted from has besides. OpenSSL's, to which it is copied, may be
what malloc gives next: it would begin 16 bytes further within a page, and where that is 1 to 16 the
copy by ``rep movsb`` (glibc's, of such a size) is 20 times slower on AMD's Zen 3."""
_RAW = Spares(2)


class DirectSocket(Protocol):
    """A socket that never waits."""

    may_have_more: bool
    """The last :meth:`read_into` may have left something: ask again before waiting."""
    renegotiating: bool
    """The last :meth:`write` waits for what the peer has to say, which :meth:`read_into` takes, and
    not for room: the peer has begun another handshake (TLS 1.2)."""

    def fileno(self) -> int:
        """Return its descriptor.

        :raises trio.ClosedResourceError: it was closed here.
        """

    def write(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """Give the kernel what it takes; return what is to be given again when it takes more.

        :raises trio.BrokenResourceError: the connection is gone.
        :raises trio.ClosedResourceError: it was closed here.
        """

    def read_into(self, view: memoryview) -> int | None:
        """Read what has come, at most as much as ``view`` holds; 0: the end; None: nothing yet.

        :raises trio.BrokenResourceError: the connection is gone.
        :raises trio.ClosedResourceError: it was closed here.
        """


def direct(stream: trio.abc.Stream) -> DirectSocket | None:
    """Return the socket of a stream; None: only the stream itself can be used."""
    if not hasattr(os, "readv"):  # Windows
        return None
    if isinstance(stream, trio.SocketStream):
        return _Plain(stream.socket)
    if isinstance(stream, trio.SSLStream) and isinstance(
        stream.transport_stream, trio.SocketStream
    ):
        state = tls_state(stream)
        return None if state is None else _Tls(stream.transport_stream.socket, state)
    return None


class _Plain:
    __slots__ = ("_sock", "may_have_more", "renegotiating")

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self.may_have_more = False
        self.renegotiating = False

    def fileno(self) -> int:
        number = self._sock.fileno()
        if number < 0:
            raise trio.ClosedResourceError("this socket was already closed")
        return number

    def write(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        try:
            sent = os.writev(self._sock.fileno(), parts)
        except BlockingIOError:
            return parts
        except OSError as error:
            raise _broken(error) from error
        for at, part in enumerate(parts):
            size = len(part)
            if sent < size:
                return memoryview(part)[sent:], *parts[at + 1 :]
            sent -= size
        return ()

    def read_into(self, view: memoryview) -> int | None:
        try:
            size = os.readv(self._sock.fileno(), (view,))
        except BlockingIOError:
            self.may_have_more = False
            return None
        except OSError as error:
            raise _broken(error) from error
        self.may_have_more = size == len(view)
        return size


class _Tls(_Plain):
    """TLS whose handshake a trio stream has made, on the memory that this has for it.

    One copy beyond OpenSSL's own each way: between the kernel's side of it and that memory.
    """

    __slots__ = ("_cipher", "_end", "_state")

    def __init__(self, sock: trio.socket.SocketType, state: TlsState) -> None:
        super().__init__(sock)
        self._state = state
        self._cipher: Sequence[Buffer] = ()  # encrypted, and not taken by the kernel yet
        self._end = False
        self.may_have_more = True  # it may have come with the handshake

    def write(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        if len(parts) > 1:  # a header and what follows it: one record
            head, body = parts
            most = _RECORD - len(head)
            parts = (bytes(head) + bytes(memoryview(body)[:most]), memoryview(body)[most:])
        state = self._state
        self.renegotiating = False
        while True:
            if self._cipher:
                self._cipher = super().write(self._cipher)
                if self._cipher:
                    return parts or (b"",)
            parts = self._encrypt(parts)
            if self.renegotiating:
                self._answer()
                return parts
            if not state.outgoing.pending:
                return ()
            self._cipher = (state.outgoing.read(),)

    def _encrypt(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """Encrypt what leaves together; return the rest."""
        room = _PIECE
        while parts and room:
            piece = memoryview(parts[0])[:room]
            if len(piece):
                try:
                    size = self._state.tls.write(piece)
                except ssl.SSLWantReadError:
                    self.renegotiating = True
                    return parts
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError(f"TLS: {error}") from error
                room -= size
                piece = memoryview(parts[0])[size:]
            parts = (piece, *parts[1:]) if len(piece) else parts[1:]
        return parts

    def read_into(self, view: memoryview) -> int | None:
        deadline = time.perf_counter() + SLICE
        size = self._decrypt(view, 0)
        more = False
        raw = _RAW.take(_PIECE + _APART)
        with memoryview(raw) as whole, whole[:_PIECE] as room:
            while size < len(view) and not self._end:
                count = super().read_into(room)
                if count is None:
                    break
                if count:
                    self._state.incoming.write(room[:count])
                else:
                    self._end = True
                before = size
                size = self._decrypt(view, size)
                if not self.may_have_more:
                    break
                # Records may hold a byte each, or be TLS's own: others have their turns
                if size == before or time.perf_counter() > deadline:
                    more = True
                    break
        _RAW.give(raw)
        if self._state.outgoing.pending:
            self._answer()
        self.may_have_more = more or self._end or size == len(view)
        return size or (0 if self._end else None)

    def _answer(self) -> None:
        """Give the kernel what TLS itself has to say, behind what it has not taken yet."""
        if self._cipher:
            self._cipher = super().write(self._cipher)
        if not self._cipher:
            self._cipher = super().write((self._state.outgoing.read(),))
        elif self._state.outgoing.pending > _PIECE:
            raise trio.BrokenResourceError("TLS: the peer has it answer, but reads nothing")

    def _decrypt(self, view: memoryview, size: int) -> int:
        """Decrypt what has come behind the first ``size`` bytes; return where that ends."""
        tls, incoming = self._state.tls, self._state.incoming
        read: Any = tls.read  # with a buffer it returns a count, whatever typeshed says
        try:
            # To ask where there is nothing costs an exception; an error is only told if asked again
            while size < len(view) and (incoming.pending or tls.pending() or self._end):
                count = read(len(view) - size, view[size:])
                if not count:
                    self._end = True
                    break
                size += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end = True
        except ssl.SSLError as error:
            if not size:
                raise trio.BrokenResourceError(f"TLS: {error}") from error
            self._end = True  # it says so again, when it is asked for more
        return size


def _broken(error: OSError) -> Exception:
    """Return what trio's streams say of an error of the socket."""
    if error.errno in (errno.EBADF, errno.ENOTSOCK):
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
