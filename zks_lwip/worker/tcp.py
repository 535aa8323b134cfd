"""One TCP stream: the far end's socket, between the session and the kernel.

No task and no buffer while it is idle. The session pulls what the far end sent from the kernel
straight into its message; what the client sent goes straight to the kernel, and only what that does
not take is kept, at most the credit that was granted. Once bytes have gone through, C moves them
(:meth:`~zks_lwip.protocol.Session.bind`), and asks here for all but that.

Until the client's EOF has been passed on, the kernel resets the far end if this process dies: an
upload that was cut is not taken for a whole one.
"""

from __future__ import annotations

import os
import socket
from typing import Protocol

import trio

from ..net.descriptors import Descriptors
from ..net.readiness import READ, WRITE, Readiness
from ..net.sockets import close_in_order, end_in_order, reset
from ..protocol import SOCKETS, Code, WorkerSession
from .dial import Attempt, Dialer, DialError, error_code
from .limits import Account

__all__ = ["StreamOwner", "FarEndStream"]


class StreamOwner(Protocol):
    """What a stream needs of its session's owner."""

    session: WorkerSession
    account: Account
    readiness: Readiness
    descriptors: Descriptors
    dialer: Dialer
    attempts: dict[FarEndStream, float]
    """Streams whose connection is being made without a task, and until when; the oldest first."""

    def stream_ended(self, stream: FarEndStream, *, undelivered: bool) -> None:
        """The stream is gone for the session.

        :param undelivered: it still has bytes for the far end; ``stream_closed`` follows later.
        """

    def stream_delivers(self, stream: FarEndStream) -> None:
        """The far end has taken some of what an ended stream still had for it."""

    def stream_closed(self, stream: FarEndStream) -> None:
        """The stream is closed; called once for each."""


class FarEndStream:
    """A stream from its CONNECT on. It is the session's ``Source`` for its DATA."""

    __slots__ = (
        "_broken",
        "_closed",
        "_dialing",
        "_ended",
        "_eof_sent",
        "_eof_taken",
        "_errno",
        "_gone",
        "_owner",
        "_pending",
        "_push_errno",
        "_sock",
        "id",
    )

    def __init__(self, owner: StreamOwner, id: int) -> None:
        self.id = id
        self._owner = owner
        self._sock: socket.socket | None = None
        self._pending: bytearray | None = None  # from the client, not yet taken by the kernel
        self._dialing: Attempt | trio.CancelScope | None = None  # until it is connected
        self._eof_taken = False
        self._eof_sent = False
        self._broken = False  # the far end takes no more; what it sent before is still read
        self._gone = False  # for the session: it delivers what is left, or is closed
        self._closed = False
        self._ended = False  # the kernel has all that is to be sent, and delivers it by itself
        # Of C, when it last pulled bytes of this stream, and pushed some
        self._errno = self._push_errno = 0
        owner.account.streams += 1
        owner.account.connecting += 1  # until it is connected, or not: begin() has to follow

    # connecting

    def begin(self, host: str, port: int) -> bool:
        """Begin to connect where the host is an address; CONNECTED or ERROR follow by themselves.

        :returns: False: it is a name, or has to wait; :meth:`connect` is to be called.
        """
        owner = self._owner
        destination = owner.dialer.literal(host) if owner.account.rate is None else None
        if destination is None:
            self._dialing = trio.CancelScope()
            return False
        attempt: Attempt | None = None
        counted = False
        try:
            owner.descriptors.take()
            counted = True
            attempt = owner.dialer.begin(destination, port)
            owner.readiness.add(attempt.sock, self._on_ready)
        except (DialError, OSError) as error:
            owner.account.connecting -= 1
            if attempt is not None:
                attempt.sock.close()
            if counted:
                owner.descriptors.give()
            if isinstance(error, DialError):
                self._fail(error.code, str(error))
            else:
                self._fail(error_code(error), error.strerror or str(error))
            return True
        self._dialing = attempt
        if attempt.decided:
            self._finish(attempt)
        else:
            owner.attempts[self] = trio.current_time() + owner.dialer.seconds
            owner.readiness.want_write(attempt.sock)
        return True

    def _finish(self, attempt: Attempt) -> None:
        """Act on what has come of an attempt."""
        self._leave_attempt()
        try:
            attempt.finish()
        except DialError as error:
            self._drop(attempt.sock)
            self._fail(error.code, str(error))
            return
        self._sock = attempt.sock
        self._owner.readiness.want_read(attempt.sock)
        self._on_connected()

    def give_up(self) -> None:
        """End an attempt that has taken too long."""
        self._fail(Code.TIMED_OUT, "the far end did not answer in time")

    def _leave_attempt(self) -> None:
        self._dialing = None
        self._owner.account.connecting -= 1
        self._owner.attempts.pop(self, None)

    def _drop(self, sock: socket.socket) -> None:
        """Close a socket that was never connected."""
        self._owner.readiness.remove(sock)
        self._owner.descriptors.give()
        sock.close()

    async def connect(self, host: str, port: int) -> None:
        """Open the connection and answer CONNECTED or ERROR. Runs in a task until then."""
        owner = self._owner
        counted = False
        assert isinstance(self._dialing, trio.CancelScope)
        with self._dialing:
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
        if self._closed:  # aborted, perhaps in the very moment that it was connected
            self._release(abort=True)
            return
        self._on_connected()

    def _on_connected(self) -> None:
        owner, sock = self._owner, self._sock
        if not self._gone and sock is not None:
            owner.session.accept(self.id, self)
            owner.session.connected(self.id)
            self._bind(sock, pull=True, push=self._pending is None)
        if self._pending:
            self._flush()
        elif self._eof_taken:
            self._shut_down()

    def limits_changed(self) -> None:
        """Go on as the session that its owner has now says."""
        session = self._owner.session
        session.unbind(self.id)  # what moves from here on says who moves the rest
        if self._sock is not None and not (self._gone or self._eof_sent):
            session.accept(self.id, self)

    # far end to client

    def pull_into(self, view: memoryview) -> int | None:
        """Read bytes of the far end, as a ``Source``: 0 for none now, None at its end."""
        sock = self._sock
        if sock is None:
            return 0
        try:
            if self._errno:
                errno, self._errno = self._errno, 0
                raise OSError(errno, os.strerror(errno))
            size = sock.recv_into(view)
        except BlockingIOError:
            self._owner.readiness.want_read(sock)
            return 0
        except OSError as error:
            self._fail_soon(error_code(error), error.strerror or str(error))
            return 0
        if size:
            self._bind(sock, pull=True)
            return size
        if self._broken or self._push_errno:  # what it sent before is read by now
            self._fail_soon(Code.RESET, "reset by the far end")
            return 0
        self._eof_sent = True
        if self._eof_taken:
            self._end()
        return None

    def broke(self, errno: int, *, pushing: bool) -> None:
        """Take note of an error that C has met; :meth:`on_data` or :meth:`pull_into` follows."""
        if pushing:
            self._push_errno = errno
        else:
            self._errno = errno

    def _bind(self, sock: socket.socket, *, pull: bool = False, push: bool = False) -> None:
        """Have C move what else comes."""
        owner = self._owner
        if SOCKETS is not None and owner.readiness.by_itself:
            owner.session.bind(self.id, SOCKETS, sock.fileno(), pull=pull, push=push)

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
                if self._push_errno:
                    errno, self._push_errno = self._push_errno, 0
                    raise OSError(errno, os.strerror(errno))
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
                    self._bind(self._sock, push=True)
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

    def finish(self) -> None:
        """Deliver what the client has sent, which is all it had, and close without a reset. (The
        kernel resets it if the far end sends more.)
        """
        if self._sock is not None:
            self._end()
        elif self._pending:
            self._leave(undelivered=True)  # when it is connected
        else:
            self.abort()

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
            owner.stream_delivers(self)
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
            self._ended = True
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
        if isinstance(self._dialing, Attempt):
            if not directions & WRITE:
                return
            self._finish(self._dialing)
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
            self._leave(undelivered=False)
        self._close(abort=True)

    def _fail_soon(self, code: int, message: str) -> None:
        """ERROR, behind the message that is being put together: it may hold our last bytes."""
        self._broken = True  # the kernel tells of a reset once, and then of a plain end
        token = trio.lowlevel.current_trio_token()
        token.run_sync_soon(self._fail, code, message)

    def _end(self) -> None:
        """Deliver what is left: EOF has gone both ways, so the session has forgotten it."""
        if self._pending is None:
            self._leave(undelivered=False)
            self._close(abort=False)
        else:
            self._leave(undelivered=True)

    def abort(self) -> None:
        """CLOSE, the end of the session, or of patience: reset the far end."""
        if not self._gone:
            self._leave(undelivered=False)
        self._close(abort=True)

    def _leave(self, *, undelivered: bool) -> None:
        self._gone = True
        self._owner.stream_ended(self, undelivered=undelivered)

    def _close(self, *, abort: bool) -> None:
        """Close everything; harmless a second time."""
        if self._closed:
            return
        self._closed = True
        if self._pending is not None:
            self._drop_pending()
        dialing = self._dialing
        if isinstance(dialing, Attempt):
            self._leave_attempt()
            self._drop(dialing.sock)
        elif dialing is not None:
            dialing.cancel()
        self._release(abort=abort)
        self._owner.account.streams -= 1
        self._owner.stream_closed(self)

    def _release(self, *, abort: bool) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._owner.session.unbind(self.id)  # the descriptor may be another's at once
        self._owner.readiness.remove(sock)
        self._owner.descriptors.give()
        if abort:
            reset(sock)
        elif self._ended:
            sock.close()
        else:
            close_in_order(sock)
