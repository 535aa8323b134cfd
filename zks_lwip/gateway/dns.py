"""Port 53, UDP and TCP: every query goes to the DNS service, whatever server it was meant for.

The answer leaves as if from the server asked. Nothing here waits, and there is no task: the
service calls back with each answer, at once or later. TCP messages are length-prefixed, pipelined
and may be answered out of order (RFC 7766).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from ..dns.tcp_server import AnswerBudget, Conversation
from ..errors import StackError
from ..net.scratch import Scratch
from ..stack import Datagram, Flow, Reject
from .counters import GatewayCounters
from .flow_table import FlowTable
from .flows import FlowInfo
from .policy import GIVES_WAY, NO_ROOM
from .udp import UdpStack

__all__ = ["IDLE_SECONDS", "MAX_CONNECTIONS", "DnsConnection", "DnsInterceptor", "QueryHandler"]

_log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""A TCP connection without a query in flight is closed after this time (RFC 7766 §6.2.3)."""
MAX_CONNECTIONS = 512
"""TCP connections at a time. A busy forwarder opens some tens; each may hold 1 MiB of answers."""

_SCRATCH = Scratch(16384)


class QueryHandler(Protocol):
    """What answers queries: :class:`zks_lwip.dns.DnsService`."""

    def submit(
        self,
        query: bytes,
        reply: Callable[[bytes], None],
        *,
        transport: str = "udp",
        source: Hashable = None,
    ) -> None:
        """Call ``reply`` with the answer, once, at once or later; never for what is no query.

        Each ``source`` has its share of what may wait.
        """
        ...


class DnsInterceptor:
    """Takes queries from the stack and gives their answers back to it."""

    def __init__(
        self,
        stack: UdpStack,
        service: QueryHandler,
        counters: GatewayCounters,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.counters = counters
        self.clock = clock
        self.budget = AnswerBudget()
        self._stack = stack
        self._flows: dict[DnsConnection, None] = {}

    def on_datagram(self, datagram: Datagram) -> None:
        """Answer one UDP query, now or later."""
        self.counters.dns_queries += 1
        reply = partial(self._reply, datagram.destination, datagram.source)
        self.service.submit(bytes(datagram.payload), reply, source=datagram.source)

    def open_flow(self, flow: Flow, table: FlowTable) -> None:
        """Serve a TCP connection to port 53.

        Where there are :data:`MAX_CONNECTIONS`, the one that has been idle for longest makes room.
        If none is, the SYN is left unanswered: the kernel sends it again.
        """
        if len(self._flows) >= MAX_CONNECTIONS:
            self.counters.dns_connections_over_limit += 1
            idle = min(
                (one for one in self._flows if one.idle), key=lambda one: one.used, default=None
            )
            if idle is None:
                flow.reject(NO_ROOM)
                return
            idle.refuse(GIVES_WAY)
        served = DnsConnection(self, flow, table)
        if not served.over:
            self._flows[served] = None

    def expire(self, now: float) -> None:
        """Close the TCP connections that have been idle for :data:`IDLE_SECONDS`.

        :param now: by trio's clock.
        """
        for flow in tuple(self._flows):
            flow.expire(now)

    def forget(self, flow: DnsConnection) -> None:
        """Note that a connection has ended."""
        self._flows.pop(flow, None)

    def _reply(self, source: tuple[str, int], destination: tuple[str, int], answer: bytes) -> None:
        if not self._stack.send_datagram(source, destination, answer):
            self.counters.dns_dropped += 1


class DnsConnection:
    """One TCP connection to port 53; the handler of its flow.

    What it holds is bounded by the :class:`Conversation`: while too many queries wait, or the
    client does not read its answers, nothing more is taken from it.
    """

    __slots__ = (
        "_conversation",
        "_done",
        "_eof",
        "_finished",
        "_flow",
        "_interceptor",
        "_moving",
        "_out",
        "_readable",
        "_table",
        "since",
        "used",
    )

    def __init__(self, interceptor: DnsInterceptor, flow: Flow, table: FlowTable) -> None:
        self._interceptor = interceptor
        self._flow = flow
        self._table = table
        self._conversation = Conversation(self, self._move, interceptor.budget)
        self._out = memoryview(b"")  # taken from the conversation, not yet by the stack
        self._readable = False
        self._moving = False
        self._eof = False  # nothing more is read
        self._finished = False  # FIN is sent
        self._done = False  # forgotten
        self.since = self.used = interceptor.clock()
        flow.handler = self
        table.accept(self)
        try:
            flow.accept(quiet=True)
        except StackError as error:
            _log.warning("a DNS connection was dropped: %s", error)
            self._forget()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._done

    @property
    def idle(self) -> bool:
        """Whether it waits for no answer and has been given all."""
        return not self._conversation.in_flight and not self._out

    def submit(
        self, query: bytes, reply: Callable[[bytes], None], *, transport: str = "tcp"
    ) -> None:
        """Pass a query of the conversation on."""
        self._interceptor.counters.dns_queries += 1
        self.used = self._interceptor.clock()
        self._interceptor.service.submit(
            query, reply, transport=transport, source=self._flow.source
        )

    def on_established(self) -> None:
        """The handshake is done."""

    def on_readable(self) -> None:
        """Bytes or the end of them: read as long as there is room for more queries."""
        self._readable = True
        self._move()

    def on_writable(self) -> None:
        """The stack takes bytes again."""
        self._move()

    def on_reset(self) -> None:
        """The application aborted: its answers are not delivered."""
        self._forget()

    def on_closed(self) -> None:
        """Both directions are done."""
        self._forget()
        self._flow.close()

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it; its bytes are not counted."""
        source, destination = self._flow.source, self._flow.destination
        return FlowInfo("tcp", source, destination, "dns", "open", now - self.since, 0, 0)

    def refuse(self, how: Reject) -> None:
        """Abort, whatever ``how`` says: a connection to port 53 is never held."""
        self._forget()
        self._flow.abort()

    def end(self) -> None:
        """Abort."""
        self.refuse(GIVES_WAY)

    def expire_orphan(self, unmoved: float) -> None:
        """Do nothing: such a connection ends with its application."""

    def expire(self, now: float) -> None:
        """Close after :data:`IDLE_SECONDS` without a query; abort if that does not end it."""
        if self._conversation.in_flight or now - self.used < IDLE_SECONDS:
            return
        if self._out or self._finished:  # it does not read, or does not close its side
            self.refuse(GIVES_WAY)
        else:
            self.used = now
            self._readable = False
            self._end()
            self._move()

    def _move(self) -> None:
        """Move answers out and queries in until one side has no more or no room.

        An answer that comes at once calls this from within; the outer loop then goes on.
        """
        if self._moving or self._done:
            return
        self._moving = True
        try:
            while self._push_answers() and self._pull_queries():
                pass
        finally:
            self._moving = False
        if self._conversation.finished and not self._out and not self._finished:
            self._finished = True
            self._flow.send_eof()

    def _push_answers(self) -> bool:
        """Push answers; return whether all have been taken."""
        while True:
            if not self._out:
                self._out = memoryview(self._conversation.take())
                if not self._out:
                    return True
            taken = self._flow.push(self._out)
            self._out = self._out[taken:]
            if self._out:
                return False
            self.used = self._interceptor.clock()

    def _pull_queries(self) -> bool:
        """Read queries; return whether any bytes came, and so might be answered already."""
        if self._eof or not self._readable or self._conversation.paused:
            return False
        scratch = _SCRATCH.view
        count = self._flow.pull_into(scratch)
        if count is None:
            self._end()
        elif count == 0:
            self._readable = False
        else:
            self._conversation.receive(scratch[:count])
        return bool(count)

    def _end(self) -> None:
        self._eof = True
        self._conversation.end()

    def _forget(self) -> None:
        self._done = True
        self._out = memoryview(b"")
        self._conversation.close()
        self._table.remove(self)
        self._interceptor.forget(self)
