"""TCP: one bridge per connection, between a flow of the stack and a stream of the tunnel.

A bridge is driven by events from both sides and never waits: there is no task per connection, and
bytes move in whatever pieces the two sides give. Once they do, C moves them (:meth:`~zks_lwip.
protocol.Session.bind`) while both sides take all that there is; a bridge is asked again for what is
left over, and for the ends. The SYN is held until the worker has connected,
so that the application sees what the far end did (PROTOCOL.md §4); with ``fast_connect`` it is
accepted first.

Backpressure goes both ways. Towards the application, the credit of the stream is given back only
for bytes that the stack took; what it did not take is kept here, and so never exceeds that credit.
Towards the worker, the session pulls from the stack's receive buffer as it has credit, and the
receive window of the application opens only by that.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ..errors import StackError
from ..stack import Flow, Reject
from .backlog import ByteBacklog
from .flow_table import FlowTable
from .flows import FlowInfo
from .policy import FlowPolicy, refusal_for
from .trace import log_flow, logs_flows

__all__ = ["ORPHAN_SECONDS", "BridgedStream", "StreamOpener", "TcpBridge"]

_log = logging.getLogger(__name__)

ORPHAN_SECONDS = 300.0
"""What an application that is gone has left is given up when the worker has taken none of it for
this time: as long as a kernel tries to deliver what a closed socket has left, or more.
"""


class BridgedStream(Protocol):
    """What a bridge needs of a tunnel stream. All of it is harmless after the stream's end."""

    def mark_ready(self) -> None: ...
    def consumed(self, n: int, /) -> None: ...
    def bind(self, target: Any, handle: int, /, *, pull: bool = ..., push: bool = ...) -> None: ...
    def unbind(self) -> None: ...
    def close(self) -> None: ...


class StreamOpener(Protocol):
    """What a bridge needs of the tunnel."""

    @property
    def hopeless(self) -> bool:
        """Down, and for longer than one waits for it."""

    def open_stream(
        self, host: str, port: int, peer: TcpBridge, /, *, marked: bool = ...
    ) -> BridgedStream: ...


class TcpBridge:
    """One connection: the peer of a tunnel stream and the handler of a stack's flow."""

    __slots__ = (
        "_accepted",
        "_closed",
        "_done",
        "_flow",
        "_pending",
        "_pulled_eof",
        "_remote_eof",
        "_stream",
        "_table",
        "_to",
        "_tunnel",
        "since",
    )

    def __init__(self, flow: Flow, table: FlowTable) -> None:
        self._flow = flow
        self._table = table
        self._stream: BridgedStream | None = None
        self._tunnel: StreamOpener | None = None
        self._pending: ByteBacklog | None = None
        self._accepted = False  # the SYN went to the stack
        self._pulled_eof = False  # the application's FIN went to the tunnel
        self._remote_eof = False  # the far end's EOF has come (maybe behind pending bytes)
        self._closed = False  # the stack is done with it: nothing more goes to the application
        self._done = False  # nothing may happen any more
        self._to: tuple[str, int] | None = None  # in place of the flow's destination
        self.since = table.clock()

    def start(
        self,
        tunnel: StreamOpener,
        policy: FlowPolicy,
        *,
        fast_connect: bool,
        to: tuple[str, int] | None = None,
    ) -> None:
        """Ask the worker to connect; the flow is held meanwhile, unless ``fast_connect``.

        :param to: where the worker connects to; None: to the flow's destination.
        """
        self._flow.handler = self
        self._tunnel = tunnel
        self._to = to
        host, port = self._flow.destination
        if logs_flows():
            log_flow("tcp", self._flow.source, self._flow.destination, "asked for")
        if not fast_connect:
            self._table.hold(self)
        elif not self._accept():
            return
        host, port = (policy.to_worker(host), port) if to is None else to
        # A connection that is not accepted has no bytes
        stream = tunnel.open_stream(host, port, self, marked=fast_connect)
        if self._done:  # it was refused at once
            stream.close()
        else:
            self._stream = stream

    # from the tunnel

    def pull_into(self, view: memoryview) -> int | None:
        """Give the worker bytes of the application.

        :returns: bytes written to ``view``; 0: none now; None: its FIN has been seen.
        """
        if self._done or not self._accepted:
            return 0
        if self._pulled_eof:
            return None
        count = self._flow.pull_into(view)
        if count is None:
            self._pulled_eof = True
            if self._closed and self._remote_eof:
                self._finish()
        elif count:
            self._table.counters.bytes_up += count
            if self._closed:
                self._table.orphan(self)
            else:
                self._bind(pull=True)
        return count

    def on_connected(self) -> None:
        """The far end has connected: shake hands with the application."""
        if not self._done and not self._accepted and self._accept():
            self._bind(pull=True, push=True)

    def on_data(self, payload: memoryview) -> None:
        """Pass on bytes of the far end; what the stack does not take now is copied and kept."""
        if self._done:
            return
        if self._pending is not None:
            self._pending.add(payload)
            return
        taken = self._flow.push(payload)
        self._took(taken)
        if self._done:  # it ends in the push if memory runs out
            return
        if taken < len(payload):
            self._pending = ByteBacklog()
            self._pending.add(payload[taken:])
        else:
            self._bind(push=True)

    def on_eof(self) -> None:
        """The far end sends no more: FIN, behind what is still kept."""
        if self._done:
            return
        self._remote_eof = True
        if self._pending is None:
            self._flow.send_eof()

    def on_end(self, code: int, message: str) -> None:
        """The stream has gone: a held flow is refused as ``code`` says, an accepted one reset."""
        if self._done or (self._pulled_eof and self._remote_eof):
            return  # after EOF both ways there is nothing left to end; the stack drains the rest
        why = f" ({code} {message})" if code else ""
        if self._accepted:
            self._tell_end(f"reset by the far end{why}")
            self._table.counters.flows_reset += 1
            self._forget()
            self._flow.abort()
        else:
            self._tell_end(f"refused by the far end{why}")
            self._stream = None
            self._table.counters.refused[code] += 1
            hopeless = self._tunnel is not None and self._tunnel.hopeless
            self._refuse(refusal_for(code, hopeless=hopeless))

    # from the stack

    def on_established(self) -> None:
        """The application's ACK has come; nothing waits for it but what is kept."""
        if self._pending is not None:
            self.on_writable()

    def on_readable(self) -> None:
        """The application has sent bytes or its FIN."""
        if self._stream is not None:
            self._stream.mark_ready()

    def on_writable(self) -> None:
        """The stack takes bytes again."""
        pending = self._pending
        if pending is None or self._done:
            return
        total = 0
        while pending:
            with pending.first() as chunk:
                taken = self._flow.push(chunk)
                cut = taken < len(chunk)
            pending.drop(taken)
            total += taken
            if cut:
                break
        self._took(total)
        if not pending:
            self._pending = None
            if self._remote_eof and not self._done:
                self._flow.send_eof()

    def on_reset(self) -> None:
        """The application aborted, also while the SYN was held: the worker resets its side."""
        if self._done:
            return
        stream = self._stream
        self._tell_end(
            "reset by the application" if self._accepted else "given up by the application"
        )
        self._table.counters.flows_reset += 1
        self._forget()
        if stream is not None:
            stream.close()

    def on_closed(self) -> None:
        """Both directions of the application's connection are done, or it has sent its FIN and is
        gone: what it sent before that is still to be pulled.
        """
        self._closed = True
        if self._done:
            return
        if self._pulled_eof and self._remote_eof:
            self._finish()
            return
        self._table.orphan(self)
        if not self._pulled_eof and self._stream is not None:
            self._stream.unbind()  # from here on it is told when something is taken
            self._stream.mark_ready()

    # from the table

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it."""
        return FlowInfo(
            "tcp",
            self._flow.source,
            self._to or self._flow.destination,
            "tunnel",
            "open" if self._accepted else "connecting",
            now - self.since,
            *self._flow.moved,
        )

    def expire_orphan(self, unmoved: float) -> None:
        """End it when the worker has all that an application has left, or takes no more of it.

        Not in :meth:`pull_into`: its EOF has to leave before the CLOSE.
        """
        if self._pulled_eof:
            self._finish()
        elif unmoved >= ORPHAN_SECONDS:
            self.on_reset()
            self._flow.abort()

    def refuse(self, how: Reject) -> None:
        """End a held flow, towards the application and the worker."""
        if not self._done:
            self._tell_end("without an answer for too long, or too many wait")
            self._refuse(how)

    def end(self) -> None:
        """Reset both ends, as asked for; a SYN that is held is refused."""
        if self._done:
            return
        self._tell_end("reset, as asked for")
        if not self._accepted:
            self._refuse(Reject.RST)
            return
        stream = self._stream
        self._table.counters.flows_reset += 1
        self._forget()
        self._flow.abort()
        if stream is not None:
            stream.close()

    def _refuse(self, how: Reject) -> None:
        stream = self._stream
        self._forget()
        self._flow.reject(how)
        if stream is not None:
            stream.close()

    def _accept(self) -> bool:
        """Hand the held SYN to lwIP; return whether there was memory for that."""
        self._accepted = True
        self._table.accept(self)
        self._table.counters.flows_accepted += 1
        try:
            self._flow.accept(quiet=True)
        except StackError as error:
            _log.warning("a TCP connection was dropped: %s", error)
            self.on_reset()
            return False
        return True

    def _bind(self, *, pull: bool = False, push: bool = False) -> None:
        """Have C move what else comes, as long as nothing is left over."""
        target = self._flow.target
        if target is not None and self._stream is not None:
            self._stream.bind(*target, pull=pull, push=push)

    def _took(self, count: int) -> None:
        if count:
            self._table.counters.bytes_down += count
            if self._stream is not None:
                self._stream.consumed(count)

    def _finish(self) -> None:
        """Both directions are over and delivered."""
        self._tell_end("closed")
        stream = self._stream
        self._forget()
        self._flow.close()
        if stream is not None and not self._remote_eof:
            stream.close()

    def _tell_end(self, how: str) -> None:
        if logs_flows():
            how = f"{how}, after {self._table.clock() - self.since:.1f} s"
            log_flow("tcp", self._flow.source, self._flow.destination, how)

    def _forget(self) -> None:
        self._done = True
        self._pending = None
        self._stream = None
        self._table.remove(self)
