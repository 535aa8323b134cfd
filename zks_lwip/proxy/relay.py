"""One TCP connection of a client, between its socket and a stream of the tunnel.

No task and no buffer while it is idle. The session pulls what the client sends from the kernel
straight into its message; what the far end sends goes straight to the kernel, and only what that
does not take is kept, at most the credit that was granted. So each end is read as fast as the
other one reads.

Until the far end's EOF has been passed on, the kernel resets the client if this process dies: a
download that was cut is not taken for a whole one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Protocol

import trio

from ..net.readiness import READ, WRITE, Readiness
from ..net.sockets import close_in_order, end_in_order, end_in_reset, reset
from .counters import ProxyCounters

__all__ = ["ORPHAN_SECONDS", "Relay", "RelayedStream"]

ORPHAN_SECONDS = 300.0
"""Seconds in which the worker has to take what a client that is gone has left: as long as a kernel
tries to deliver what a closed socket has left, or more."""

_STOPPED = "the proxy ends"


class RelayedStream(Protocol):
    """What a relay needs of a tunnel stream. All of it is harmless after the stream's end."""

    def mark_ready(self) -> None: ...
    def consumed(self, n: int, /) -> None: ...
    def close(self) -> None: ...


class Relay:
    """The peer of a tunnel stream that a client asked for. It closes the client's socket.

    :param sock: non-blocking.
    :param early: what the client has sent behind its request.
    :param patience: seconds for which what a client that is gone has left is offered to the worker.
    """

    __slots__ = (
        "_begun",
        "_broken",
        "_counters",
        "_early",
        "_eof_sent",
        "_eof_taken",
        "_life",
        "_patience",
        "_pending",
        "_readiness",
        "_sock",
        "_stream",
        "code",
        "connected",
        "decided",
        "ended",
        "message",
        "why",
    )

    def __init__(
        self,
        sock: socket.socket,
        early: bytes,
        readiness: Readiness,
        counters: ProxyCounters,
        *,
        patience: float = ORPHAN_SECONDS,
    ) -> None:
        self._sock: socket.socket | None = sock
        self._early = bytearray(early)
        self._readiness = readiness
        self._counters = counters
        self._stream: RelayedStream | None = None
        self._pending: bytearray | None = None  # of the far end, not yet taken by the kernel
        self._begun = False
        self._eof_sent = False  # the client's, into the tunnel
        self._eof_taken = False  # the far end's
        self._broken = False  # the client takes no more; what it has sent is still passed on
        self._patience = patience
        self._life = trio.CancelScope()
        self.decided = trio.Event()
        """Set when the far end is connected, will not be, or the client is gone."""
        self.ended = trio.Event()
        """Set when both directions are over, and the socket is closed."""
        self.connected = False
        """Whether the far end was, at any time."""
        self.code: int | None = None
        """Why it ended before its time: a code of ERROR (PROTOCOL.md §4), 0 for CLOSE."""
        self.message = ""
        """What the worker says of that; may be empty."""
        self.why = "closed"
        """For the log."""

    def attach(self, stream: RelayedStream) -> None:
        """Give it its end of the stream, and watch the client; to be called once, at once.

        :raises OSError: the kernel watches no more.
        """
        self._stream = stream
        if self._sock is not None:
            self._readiness.add(self._sock, self._on_ready)

    def begin(self) -> None:
        """Let bytes pass: the client has been told that the far end is connected."""
        sock, stream = self._sock, self._stream
        if sock is None:
            return
        if stream is None:  # meanwhile
            self._reset_by_far_end()
            return
        self._begun = True
        if self._pending:
            self._flush()
        elif self._eof_taken:
            self._shut_down()
        stream.mark_ready()

    async def run(self) -> None:
        """Carry bytes until both directions are over; cancelled, both ends are reset."""
        try:
            self.begin()
            with self._life:
                await self.ended.wait()
        finally:
            self.abort()

    # client to far end

    def pull_into(self, view: memoryview) -> int | None:
        """Give the worker bytes of the client: 0 for none now, None at its end."""
        sock = self._sock
        if sock is None or not self._begun:
            return 0
        if self._early:
            size = min(len(view), len(self._early))
            view[:size] = self._early[:size]
            del self._early[:size]
            self._counters.bytes_up += size
            return size
        try:
            size = sock.recv_into(view)
        except BlockingIOError:
            self._readiness.want_read(sock)
            return 0
        except OSError as error:
            self._soon(self._client_reset, error)
            return 0
        if size:
            self._counters.bytes_up += size
            return size
        self._eof_sent = True
        if self._broken:  # behind the EOF, which is in the message that is being put together
            self._soon(self._finish_orphan)
        elif self._eof_taken and self._pending is None:
            self._end()
        return None

    # far end to client

    def on_connected(self) -> None:
        """The worker has connected."""
        if self._sock is None:
            return
        try:
            end_in_reset(self._sock)
        except OSError as error:  # the client has reset it
            self._client_reset(error)
            return
        self.connected = True
        self.decided.set()

    def on_data(self, payload: memoryview) -> None:
        """Pass on bytes of the far end; what the kernel does not take now is copied and kept."""
        size = len(payload)
        sock = self._sock
        if self._broken or sock is None:
            self._took(size)
            return
        if self._pending is not None:
            self._pending += payload
            return
        sent = 0
        if self._begun:
            try:
                sent = sock.send(payload)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._took(size)
                self._write_failed(error)
                return
            self._counters.bytes_down += sent
            self._took(sent)
        if sent < size:
            self._pending = bytearray(payload[sent:])
            if self._begun:
                self._readiness.want_write(sock)

    def on_eof(self) -> None:
        """The far end sends no more: FIN, behind what is still kept."""
        self._eof_taken = True
        if self._begun and self._pending is None:
            self._shut_down()

    def on_end(self, code: int, message: str) -> None:
        """The stream has gone: the client is answered by the owner, or reset."""
        self._stream = None
        self.code, self.message = code, message
        if not self._begun:
            if self._sock is not None:
                self._readiness.remove(self._sock)
            self.decided.set()
            return
        self._reset_by_far_end()

    def _flush(self) -> None:
        pending, sock = self._pending, self._sock
        if not pending or sock is None:
            return
        try:
            sent = sock.send(pending)
        except BlockingIOError:
            self._readiness.want_write(sock)
            return
        except OSError as error:
            self._write_failed(error)
            return
        self._counters.bytes_down += sent
        self._took(sent)
        if sent < len(pending):
            del pending[:sent]
            self._readiness.want_write(sock)
            return
        self._pending = None
        if self._eof_taken:
            self._shut_down()

    def _shut_down(self) -> None:
        sock = self._sock
        if sock is None or self._broken:
            return
        if self._eof_sent:
            self._end()
            return
        try:
            end_in_order(sock)  # before FIN: from here on the kernel has the whole download
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: the client has reset it
            self._write_failed(error)

    def _took(self, size: int) -> None:
        if size and self._stream is not None:
            self._stream.consumed(size)

    # both

    def _on_ready(self, directions: int) -> None:
        sock = self._sock
        if sock is None:
            return
        # Also where nothing is read, for want of credit or behind EOF: only this tells of a reset.
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            error = OSError(code, errno.errorcode.get(code, str(code)))
            if self._begun:
                self._write_failed(error)
            else:
                self._client_reset(error)
            return
        if directions & READ and self._begun and not self._eof_sent and self._stream is not None:
            self._stream.mark_ready()
        if directions & WRITE and self._begun:
            self._flush()

    def _write_failed(self, error: OSError) -> None:
        """The client is gone, by a reset; or, by EPIPE, its socket was closed after its EOF."""
        if error.errno != errno.EPIPE:
            self._client_reset(error)
            return
        held = 0 if self._pending is None else len(self._pending)
        self._broken, self._pending = True, None
        self._took(held)
        if self._eof_sent:
            self._finish_orphan()
        else:
            self._life.deadline = trio.current_time() + self._patience
            if self._stream is not None:
                self._stream.mark_ready()

    def _finish_orphan(self) -> None:
        """The client has gone, and the tunnel has all that it sent: what is the far end's is not
        wanted any more. A CLOSE behind EOF discards nothing of the client's (PROTOCOL.md §4).
        """
        self._abort("closed by the client, which did not take all")

    def _reset_by_far_end(self) -> None:
        text = f" ({self.code} {self.message})" if self.code else ""
        self._abort(f"reset by the far end{text}")

    def _client_reset(self, error: OSError) -> None:
        self._abort(f"reset by the client ({error.strerror})")

    def _soon(self, act: Callable[..., object], *arguments: object) -> None:
        """Act behind the message that is being put together: it may hold the client's bytes."""
        trio.lowlevel.current_trio_token().run_sync_soon(act, *arguments)

    def _end(self) -> None:
        """Both directions are over and delivered, and the session has forgotten the stream."""
        self._stream = None
        sock = self._leave()
        if sock is not None:
            close_in_order(sock)

    def abort(self) -> None:
        """End both directions at once, by RST; harmless when it has ended."""
        self._abort(_STOPPED)

    def _abort(self, why: str) -> None:
        sock = self._leave()
        if sock is None:
            return
        self.why = why
        self._counters.resets += 1
        trio.lowlevel.notify_closing(sock)  # the owner may be sending its answer
        reset(sock)

    def give_socket_back(self) -> socket.socket | None:
        """Let go of the socket, with the stream that was refused: its owner answers the client.

        None: the client is gone.
        """
        return self._leave()

    def _leave(self) -> socket.socket | None:
        """End the stream, if it has not ended; return the socket, if it was not closed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._readiness.remove(sock)
        self._pending = None
        self._early.clear()
        self.decided.set()
        self.ended.set()
        return sock
