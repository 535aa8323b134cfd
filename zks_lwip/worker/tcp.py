"""One TCP stream: the far end's socket, between the session's frames and the kernel.

No task and no buffer while it is idle. The session pulls what the far end sent from the kernel
straight into its message; what the client sent goes straight to the kernel, and only what that does
not take is kept, at most the credit that was granted.

Until the client's EOF has been passed on, the kernel resets the far end if this process dies: an
upload that was cut is not taken for a whole one.
"""

from __future__ import annotations

import socket
from typing import Protocol

import trio

from ..tunnel.frames import Code
from ..tunnel.session import Session
from ..tunnel.session_v1 import WorkerV1
from .dial import Dialer, DialError, error_code
from .limits import Account, Descriptors
from .readiness import READ, WRITE, Readiness
from .sockets import close_in_order, end_in_order, reset

__all__ = ["StreamOwner", "TcpStream"]


class StreamOwner(Protocol):
    """What a stream needs of its session's owner."""

    session: Session | WorkerV1
    account: Account
    readiness: Readiness
    descriptors: Descriptors
    dialer: Dialer

    def stream_ended(self, stream: TcpStream, *, lingers: bool) -> None:
        """It is gone for the session; ``lingers``: it still has bytes for the far end."""

    def stream_lingers(self, stream: TcpStream) -> None:
        """The far end has taken some of what a lingering stream has for it."""

    def stream_closed(self, stream: TcpStream) -> None:
        """A lingering stream has delivered everything, or has failed."""


class TcpStream:
    """A stream from its CONNECT on. It is the session's ``Source`` for its DATA."""

    __slots__ = (
        "_broken",
        "_closed",
        "_dialing",
        "_eof_sent",
        "_eof_taken",
        "_gone",
        "_owner",
        "_pending",
        "_sock",
        "id",
    )

    def __init__(self, owner: StreamOwner, id: int) -> None:
        self.id = id
        self._owner = owner
        self._sock: socket.socket | None = None
        self._pending: bytearray | None = None  # from the client, not yet taken by the kernel
        self._dialing: trio.CancelScope | None = None
        self._eof_taken = False
        self._eof_sent = False
        self._broken = False  # the far end takes no more; what it sent before is still read
        self._gone = False  # for the session: it lingers, or is closed
        self._closed = False
        owner.account.streams += 1
        owner.account.connecting += 1  # until connect(), which has to follow, returns

    # connecting

    async def connect(self, host: str, port: int) -> None:
        """Open the connection and answer CONNECTED or ERROR. Runs in a task until then."""
        owner = self._owner
        counted = False
        with trio.CancelScope() as self._dialing:
            try:
                owner.descriptors.take()
                counted = True
                self._sock = await owner.dialer.dial(host, port, owner.account.queries)
                counted = False  # from here on it is _release that gives it back
                owner.readiness.add(self._sock, self._on_ready)
            except DialError as error:
                self._fail(error.code, str(error))
            except OSError as error:
                self._fail(error_code(error), error.strerror or str(error))
            finally:
                self._dialing = None
                owner.account.connecting -= 1
                if counted:
                    owner.descriptors.give()
        if self._gone:  # aborted, perhaps in the very moment that it was connected
            self._release(abort=True)
            return
        owner.session.accept(self.id, self)
        owner.session.connected(self.id)
        if self._pending:
            self._flush()
        elif self._eof_taken:
            self._shut_down()

    # far end to client

    def pull_into(self, view: memoryview) -> int | None:
        """As ``zks_lwip.tunnel.session.Source``: bytes of the far end, 0 for none, None at its
        end."""
        sock = self._sock
        if sock is None:
            return 0
        try:
            size = sock.recv_into(view)
        except BlockingIOError:
            self._owner.readiness.want_read(sock)
            return 0
        except OSError as error:
            self._fail_soon(error_code(error), error.strerror or str(error))
            return 0
        if size:
            return size
        if self._broken:
            self._fail_soon(Code.RESET, "reset by the far end")
            return 0
        self._eof_sent = True
        if self._eof_taken:
            self._end()
        return None

    # client to far end

    def on_data(self, payload: memoryview) -> None:
        """DATA from the client; ``payload`` is not kept."""
        owner = self._owner
        size = len(payload)
        if self._broken:
            owner.session.consumed(self.id, size)
            return
        sent = 0
        pending = self._pending
        if pending is None and self._sock is not None:
            try:
                sent = self._sock.send(payload)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                owner.session.consumed(self.id, size)
                self._write_failed(error)
                return
            if sent:
                owner.session.consumed(self.id, sent)
                if sent == size:
                    return
        if owner.account.held + size - sent > owner.account.limits.held:
            self._fail(Code.FAILED, "the worker holds too many bytes for this token")
            return
        owner.account.held += size - sent
        if pending is None:
            self._pending = bytearray(payload[sent:])
            if self._sock is not None:
                owner.readiness.want_write(self._sock)
        else:
            pending += payload

    def on_eof(self) -> None:
        """The client sends no more."""
        self._eof_taken = True
        if self._eof_sent:
            self._end()
        elif self._pending is None and self._sock is not None:
            self._shut_down()

    @property
    def eof_taken(self) -> bool:
        """Whether the client has ended its direction in order."""
        return self._eof_taken

    def finish(self) -> None:
        """A v1 client's CLOSE, or one after EOF: it has said all; deliver that, and close without
        a reset. (The kernel resets it if the far end sends more.)
        """
        if self._sock is None:
            self.abort()
        else:
            self._end()

    def _flush(self) -> None:
        pending, sock, owner = self._pending, self._sock, self._owner
        if pending is None or sock is None:
            return
        try:
            sent = sock.send(pending)
        except BlockingIOError:
            owner.readiness.want_write(sock)
            return
        except OSError as error:
            self._write_failed(error)
            return
        owner.account.held -= sent
        if self._gone:
            owner.stream_lingers(self)
        else:
            owner.session.consumed(self.id, sent)
        if sent < len(pending):
            del pending[:sent]
            owner.readiness.want_write(sock)
            return
        self._pending = None
        if self._gone:
            self._close(abort=False)
        elif self._eof_taken:
            self._shut_down()

    def _shut_down(self) -> None:
        assert self._sock is not None
        try:
            end_in_order(self._sock)  # before FIN: from here on the kernel has the whole upload
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: the far end has reset it
            self._write_failed(error)

    def _write_failed(self, error: OSError) -> None:
        """The far end is gone for what we send. What it sent before that is still worth reading."""
        self._broken = True
        held = self._drop_pending()
        if self._gone:
            self._close(abort=True)
        elif self._eof_sent:
            self._fail(error_code(error), error.strerror or str(error))
        else:
            if held:
                self._owner.session.consumed(self.id, held)
            self._owner.session.mark_ready(self.id)

    # both

    def _on_ready(self, directions: int) -> None:
        if directions & READ and not self._gone:
            if not self._eof_sent:
                self._owner.session.mark_ready(self.id)
            elif self._sock is not None:  # nothing is read any more: only this tells of a reset
                code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    self._fail(error_code(OSError(code, "")), "reset by the far end")
                    return
        if directions & WRITE and self._pending is not None:
            self._flush()

    def _drop_pending(self) -> int:
        held = len(self._pending) if self._pending is not None else 0
        self._pending = None
        self._owner.account.held -= held
        return held

    def _fail(self, code: int, message: str) -> None:
        """ERROR, and the end of everything; harmless when it has ended."""
        if not self._gone:
            self._owner.session.error(self.id, code, message)
            self._leave(lingers=False)
        self._close(abort=True)

    def _fail_soon(self, code: int, message: str) -> None:
        """ERROR, behind the message that is being put together: it may hold our last bytes."""
        self._broken = True  # the kernel tells of a reset once, and then of a plain end
        token = trio.lowlevel.current_trio_token()
        token.run_sync_soon(self._fail, code, message)

    def _end(self) -> None:
        """The session has forgotten it, as EOF has gone both ways. Deliver what is left."""
        if self._pending is None:
            self._leave(lingers=False)
            self._close(abort=False)
        else:
            self._leave(lingers=True)

    def abort(self) -> None:
        """CLOSE, the end of the session, or of patience: reset the far end."""
        if not self._gone:
            self._leave(lingers=False)
        self._close(abort=True)

    def _leave(self, *, lingers: bool) -> None:
        self._gone = True
        self._owner.stream_ended(self, lingers=lingers)

    def _close(self, *, abort: bool) -> None:
        """The end; harmless a second time."""
        if self._closed:
            return
        self._closed = True
        self._drop_pending()
        if self._dialing is not None:
            self._dialing.cancel()
        self._release(abort=abort)
        self._owner.account.streams -= 1
        self._owner.stream_closed(self)

    def _release(self, *, abort: bool) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._owner.readiness.remove(sock)
        self._owner.descriptors.give()
        if abort:
            reset(sock)
        else:
            close_in_order(sock)
