"""One TCP connection of a published port: bytes between the host's socket and the command's.

No task runs and no buffer is held while it is idle. Each end is read as fast as the other one
takes; EOF is passed on for each direction, and a reset of one end resets the other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial

import trio

from ...net.readiness import READ, WRITE, Readiness
from ...net.scratch import Scratch
from ...net.sockets import close_in_order, end_in_reset, reset

__all__ = ["LINGER", "PublishedConnection"]

_PIECE = 1 << 16
_TURNS = 8
"""Pieces of one end before others have their turn."""
LINGER = 5.0
"""Seconds for which an end may still send, unheard, whose other end has gone after its EOF: a reset
at once could cost it what it has not read yet."""

_KEEPALIVE_IDLE = 60
"""Seconds after which a silent client of another machine is asked whether it is there."""

# Where all bytes arrive. What the other end does not take at once is copied.
_SCRATCH = Scratch(_PIECE)


class _End:
    """One of the two sockets, and what is to be sent to it."""

    __slots__ = ("eof", "gone", "name", "other", "pending", "shut", "sock")

    other: _End

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.pending: memoryview | None = None
        self.eof = False
        """Its EOF has been read."""
        self.shut = False
        """The other's EOF has been passed on to it."""
        self.gone = False
        """It has been reset after its EOF: it takes no more."""


class PublishedConnection:
    """Owns both sockets, which are non-blocking and connected.

    :param client: the host's.
    :param program: of the command's namespace.
    :param count: called with bytes that have come from the client, and from the program.
    :raises OSError: one of them was reset already; both are closed.
    """

    def __init__(
        self,
        client: socket.socket,
        program: socket.socket,
        readiness: Readiness,
        count: Callable[[int, int], None],
    ) -> None:
        self._client = _End("the client", client)
        self._program = _End("the program", program)
        self._client.other, self._program.other = self._program, self._client
        self._ends = (self._client, self._program)
        self._readiness = readiness
        self._count = count
        self._life = trio.CancelScope()
        self.moved = 0
        """Bytes that have been read, of both directions: grows while anything moves."""
        self.ended = trio.Event()
        self.why = "closed"
        """For the log."""
        try:
            for end in self._ends:
                prepare(end.sock)
                end_in_reset(end.sock)  # if this process is killed, no half is taken for a whole
            for end in self._ends:
                readiness.add(end.sock, partial(self._on_ready, end))
        except BaseException:
            self._abort("reset")
            raise

    async def run(self) -> None:
        """Wait for the end of both directions; cancelled, both ends are reset."""
        try:
            with self._life:
                await self.ended.wait()
        finally:
            self._abort(self.why)

    @property
    def delivered(self) -> bool:
        """All that the program sent has been given to the client's kernel, with its EOF."""
        return self.ended.is_set() or self._client.shut

    def finish(self) -> None:
        """End it, for the program has ended: in order if all was delivered, by reset if not.

        What the client has sent since is discarded first: the kernel would reset over it.
        """
        if self.ended.is_set():
            return
        if self._client.shut and self._discard(self._client):
            self._end()
        else:
            self._abort("the command has ended")

    # what the kernel tells

    def _on_ready(self, end: _End, directions: int) -> None:
        if directions & WRITE and end.pending is not None:
            self._flush(end)
        if directions & READ and not self.ended.is_set():
            self._read(end)

    def _read(self, end: _End) -> None:
        other, scratch = end.other, _SCRATCH.view
        for _ in range(_TURNS):
            if end.eof or other.pending is not None:
                self._check(end)  # nothing is to be read: only a reset can be news
                return
            try:
                size = end.sock.recv_into(scratch)
            except BlockingIOError:
                self._readiness.want_read(end.sock)
                return
            except OSError as error:
                self._broken(end, error)
                return
            if not size:
                end.eof = True
                self._shut(other)
                return
            self.moved += size
            self._count(*(size, 0) if end is self._client else (0, size))
            if not other.gone:
                self._send(other, scratch[:size])
            if self.ended.is_set():
                return
        self._readiness.rearm(end.sock)

    def _check(self, end: _End) -> None:
        code = end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._broken(end, OSError(code, os.strerror(code)))

    # to an end

    def _send(self, end: _End, data: memoryview) -> None:
        """Give data, which is only lent, to the kernel; keep what it does not take."""
        try:
            sent = end.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(end, error)
            return
        if sent < len(data):
            end.pending = memoryview(bytes(data[sent:]))
            self._readiness.want_write(end.sock)

    def _flush(self, end: _End) -> None:
        pending = end.pending
        assert pending is not None
        try:
            sent = end.sock.send(pending)
        except BlockingIOError:
            self._readiness.want_write(end.sock)
            return
        except OSError as error:
            self._broken(end, error)
            return
        self.moved += sent
        if sent < len(pending):
            end.pending = pending[sent:]
            self._readiness.want_write(end.sock)
            return
        end.pending = None
        if end.other.eof:
            self._shut(end)
        else:
            self._read(end.other)

    def _shut(self, end: _End) -> None:
        """Pass the other's EOF on, behind what is pending."""
        if end.pending is not None:
            return
        if not end.shut and not end.gone:
            end.shut = True
            try:
                end.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._broken(end, error)
                return
        self._settle()

    # the end

    def _broken(self, end: _End, error: OSError) -> None:
        """The peer has reset this end.

        Behind its EOF that only says that it takes no more: what it has sent is still delivered.
        """
        if not end.eof:
            self._abort(f"reset by {end.name} ({error.strerror})")
        elif not end.gone:
            end.gone, end.pending = True, None
            self._readiness.remove(end.sock)
            self.why = f"closed by {end.name}, which did not take all"
            self._settle()
            if not self.ended.is_set():
                self._read(end.other)  # it may have been waiting for this end

    def _settle(self) -> None:
        ends = self._ends
        if all(end.eof and (end.other.shut or end.other.gone) for end in ends):
            self._end()
        elif any(end.gone and end.other.shut for end in ends):
            self._life.deadline = min(self._life.deadline, trio.current_time() + LINGER)

    def _discard(self, end: _End) -> bool:
        """Read what has come from an end, in bounds; whether it is still connected."""
        try:
            for _ in range(64):
                if not end.sock.recv_into(_SCRATCH.view):
                    break
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def _end(self) -> None:
        if self._leave(self.why):
            for end in self._ends:
                close_in_order(end.sock)

    def _abort(self, why: str) -> None:
        if self._leave(why):
            for end in self._ends:
                reset(end.sock)

    def _leave(self, why: str) -> bool:
        if self.ended.is_set():
            return False
        self.why = why
        for end in self._ends:
            end.pending = None
            self._readiness.remove(end.sock)
        self.ended.set()
        return True


def prepare(sock: socket.socket) -> None:
    """Set what a relayed connection needs: nothing waits for an acknowledgement here."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # An urgent byte stays in its place (RFC 6093 §4), where recv() would leave it out.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
