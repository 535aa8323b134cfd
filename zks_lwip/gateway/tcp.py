"""TCP: one bridge per connection, between a flow of the stack and a stream of the tunnel.

A bridge is driven by events from both sides and never waits: there is no task per connection, and
bytes move in whatever pieces the two sides give. The SYN is held until the worker has connected,
so that the application sees what the far end did (PROTOCOL.md §4); with ``fast_connect`` it is
accepted first.

Backpressure goes both ways. Towards the application, the credit of the stream is given back only
for bytes that the stack took; what it did not take is kept here, and so never exceeds that credit.
Towards the worker, the session pulls from the stack's receive buffer as it has credit, and the
receive window of the application opens only by that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ..errors import StackError
from ..stack import Flow, Reject
from ..stats import GatewayCounters
from .backlog import Backlog
from .policy import Policy, refusal_for
from .talk import tell, told

__all__ = ["HELD_SECONDS", "FlowTable", "StreamHandle", "StreamOpener", "TcpBridge"]

_log = logging.getLogger(__name__)

#: A held SYN is given up in silence after this time. A kernel with Linux's default of six retries
#: gives up after 127 s without telling anybody, so nothing else would end it if the worker forgot.
HELD_SECONDS = 130.0
#: What an application that is gone has left is given up when the worker has taken none of it for
#: this time: as long as a kernel tries to deliver what a closed socket has left, or more.
LEFT_SECONDS = 300.0


class StreamHandle(Protocol):
    """What a bridge needs of a tunnel stream. All of it is harmless after the stream's end."""

    def mark_ready(self) -> None: ...
    def consumed(self, n: int, /) -> None: ...
    def close(self) -> None: ...


class StreamOpener(Protocol):
    """What a bridge needs of the tunnel."""

    @property
    def hopeless(self) -> bool:
        """Down, and for longer than one waits for it."""

    def open_stream(self, host: str, port: int, peer: TcpBridge, /) -> StreamHandle: ...


class Tabled(Protocol):
    """A connection in the :class:`FlowTable`."""

    since: float

    def refuse(self, how: Reject) -> None: ...
    def leave(self, now: float) -> None: ...


class FlowTable:
    """All connections, held and accepted, at most ``limit`` of them.

    Held ones are kept in the order in which they came: when the table is full, the oldest of them
    makes room, since it is the least likely to be still wanted. In silence: if it is, its kernel
    sends the SYN again, and that is a new connection.
    """

    __slots__ = ("_accepted", "_counters", "_held", "_left", "limit")

    def __init__(self, limit: int, counters: GatewayCounters) -> None:
        self.limit = limit
        self._counters = counters
        self._held: dict[Tabled, None] = {}
        self._accepted: set[Tabled] = set()
        self._left: dict[Tabled, None] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._accepted)

    @property
    def held(self) -> int:
        """How many connections wait for their far end."""
        return len(self._held)

    def make_room(self) -> bool:
        """Whether one more fits, if need be after giving up the oldest held one."""
        if len(self) < self.limit:
            return True
        self._counters.flows_over_limit += 1
        if not self._held:
            return False
        next(iter(self._held)).refuse(Reject.SILENT)
        return True

    def hold(self, member: Tabled) -> None:
        self._held[member] = None

    def accept(self, member: Tabled) -> None:
        self._held.pop(member, None)
        self._accepted.add(member)

    def remove(self, member: Tabled) -> None:
        """Forget a connection; harmless if it is forgotten already."""
        self._held.pop(member, None)
        self._accepted.discard(member)
        self._left.pop(member, None)

    def left(self, member: Tabled) -> None:
        """The application of an accepted one is gone; ``leave`` is called until it is removed."""
        self._left[member] = None

    def expire(self, now: float) -> None:
        """Give up the held ones that are older than :data:`HELD_SECONDS`, and let go of those
        whose application is gone.
        """
        for member in tuple(self._left):
            member.leave(now)
        late = [member for member in self._held if now - member.since >= HELD_SECONDS]
        for member in late:
            member.refuse(Reject.SILENT)

    def __iter__(self) -> Iterator[Tabled]:
        yield from tuple(self._held)
        yield from tuple(self._accepted)


class TcpBridge:
    """One connection: the peer of a tunnel stream and the handler of a stack's flow."""

    __slots__ = (
        "_accepted",
        "_clock",
        "_closed",
        "_counters",
        "_done",
        "_flow",
        "_moved",
        "_pending",
        "_pulled_eof",
        "_remote_eof",
        "_stream",
        "_table",
        "_tunnel",
        "since",
    )

    def __init__(
        self,
        flow: Flow,
        table: FlowTable,
        counters: GatewayCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._table = table
        self._counters = counters
        self._stream: StreamHandle | None = None
        self._tunnel: StreamOpener | None = None
        self._pending: Backlog | None = None
        self._accepted = False  # the SYN went to the stack
        self._pulled_eof = False  # the application's FIN went to the tunnel
        self._remote_eof = False  # the far end's EOF has come (maybe behind pending bytes)
        self._closed = False  # the stack is done with it: nothing more goes to the application
        self._done = False  # nothing may happen any more
        self._clock = clock
        self._moved = 0.0  # when the worker last took bytes of an application that is gone
        self.since = clock()

    def start(self, tunnel: StreamOpener, policy: Policy, *, fast_connect: bool) -> None:
        """Ask the worker to connect; the flow is held meanwhile, unless ``fast_connect``."""
        self._flow.handler = self
        self._tunnel = tunnel
        host, port = self._flow.destination
        if told():
            tell("tcp", self._flow.source, self._flow.destination, "asked for")
        if not fast_connect:
            self._table.hold(self)
        elif not self._accept():
            return
        stream = tunnel.open_stream(policy.to_worker(host), port, self)
        if self._done:  # it was refused at once
            stream.close()
        else:
            self._stream = stream

    # from the tunnel

    def pull_into(self, view: memoryview) -> int | None:
        """Bytes of the application for the worker; None once its FIN has been seen."""
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
            self._counters.bytes_up += count
            if self._closed:
                self._moved = self._clock()
        return count

    def on_connected(self) -> None:
        """The far end has connected: shake hands with the application."""
        if not self._done and not self._accepted:
            self._accept()

    def on_data(self, payload: memoryview) -> None:
        """Bytes of the far end; what the stack does not take now is copied and kept."""
        if self._done:
            return
        if self._pending is not None:
            self._pending.add(payload)
            return
        taken = self._flow.push(payload)
        self._took(taken)
        if taken < len(payload) and not self._done:  # it ends in the push if memory runs out
            self._pending = Backlog()
            self._pending.add(payload[taken:])

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
            self._counters.flows_reset += 1
            self._forget()
            self._flow.abort()
        else:
            self._tell_end(f"refused by the far end{why}")
            self._stream = None
            self._counters.refused[code] += 1
            hopeless = self._tunnel is not None and self._tunnel.hopeless
            self._refuse(refusal_for(code, hopeless=hopeless))

    # from the stack

    def on_established(self) -> None:
        """The application's ACK has come; nothing waits for it but what is kept."""
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
        self._counters.flows_reset += 1
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
        self._moved = self._clock()
        self._table.left(self)
        if not self._pulled_eof and self._stream is not None:
            self._stream.mark_ready()

    # both

    def leave(self, now: float) -> None:
        """End it when the worker has all that an application has left, or takes no more of it.

        Not in :meth:`pull_into`: its EOF has to leave before the CLOSE.
        """
        if self._pulled_eof:
            self._finish()
        elif now - self._moved >= LEFT_SECONDS:
            self.on_reset()
            self._flow.abort()

    def refuse(self, how: Reject) -> None:
        """End a held flow towards both sides."""
        if not self._done:
            self._tell_end("without an answer for too long, or too many wait")
            self._refuse(how)

    def _refuse(self, how: Reject) -> None:
        stream = self._stream
        self._forget()
        self._flow.reject(how)
        if stream is not None:
            stream.close()

    def _accept(self) -> bool:
        """Hand the held SYN to lwIP; whether there was memory for that."""
        self._accepted = True
        self._table.accept(self)
        self._counters.flows_accepted += 1
        try:
            self._flow.accept()
        except StackError as error:
            _log.warning("a TCP connection was dropped: %s", error)
            self.on_reset()
            return False
        return True

    def _took(self, count: int) -> None:
        if count:
            self._counters.bytes_down += count
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
        if told():
            how = f"{how}, after {self._clock() - self.since:.1f} s"
            tell("tcp", self._flow.source, self._flow.destination, how)

    def _forget(self) -> None:
        self._done = True
        self._pending = None
        self._stream = None
        self._table.remove(self)
