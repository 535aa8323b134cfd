"""Port 53, UDP and TCP: every query goes to the DNS service, whatever server it was meant for.

The answer leaves as if from the server asked. A query that waits for its answer is one task; a TCP
connection itself has none. TCP messages are length-prefixed, pipelined and may be answered out of
order (RFC 7766).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from ..dns.framing import Deframer, frame
from ..stack import Datagram, Flow, Reject
from ..stats import GatewayCounters
from .tcp import FlowTable
from .udp import UdpStack

__all__ = ["IDLE_SECONDS", "MAX_IN_FLIGHT", "MAX_PIPELINED", "DnsFlow", "DnsFront", "DnsService"]

_log = logging.getLogger(__name__)

#: Queries that wait for an answer, of all applications; more are answered SERVFAIL at once.
MAX_IN_FLIGHT = 4096
#: Unanswered queries on one TCP connection; while there are that many it is not read.
MAX_PIPELINED = 64
#: A TCP connection without a query in flight is closed after this time (RFC 7766 §6.2.3).
IDLE_SECONDS = 30.0

_scratch = memoryview(bytearray(65536))


class DnsService(Protocol):
    """Who answers. ``tcp`` says that the answer may be as long as 65535 bytes."""

    async def answer(self, message: bytes, *, tcp: bool) -> bytes | None:
        """The answer to ``message``; None where it deserves none. Raises no error of its own."""
        ...

    def overloaded(self, message: bytes) -> bytes | None:
        """SERVFAIL for a query that is not asked on, without waiting."""
        ...


class DnsFront:
    """Takes queries from the stack and gives their answers back to it."""

    def __init__(
        self,
        stack: UdpStack,
        service: DnsService,
        counters: GatewayCounters,
        nursery: trio.Nursery,
        *,
        limit: int = MAX_IN_FLIGHT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stack = stack
        self._service = service
        self._counters = counters
        self._nursery = nursery
        self._limit = limit
        self.clock = clock
        self._flows: set[DnsFlow] = set()
        self.in_flight = 0

    def on_datagram(self, datagram: Datagram) -> None:
        """Answer one UDP query, now or later."""
        message = bytes(datagram.payload)
        if self._admit():
            self._nursery.start_soon(self._answer_datagram, datagram, message)
        else:
            self._reply(datagram, self._service.overloaded(message))

    def open_flow(self, flow: Flow, table: FlowTable) -> None:
        """Serve a TCP connection to port 53."""
        self._flows.add(DnsFlow(self, flow, table))

    def expire(self, now: float) -> None:
        """Close the TCP connections that have been idle for :data:`IDLE_SECONDS`."""
        for flow in tuple(self._flows):
            flow.expire(now)

    def query(self, flow: DnsFlow, message: bytes) -> None:
        """Answer one query of a TCP connection, now or later."""
        if self._admit():
            self._nursery.start_soon(self._answer_flow, flow, message)
        else:
            flow.answer(self._service.overloaded(message))

    def forget(self, flow: DnsFlow) -> None:
        self._flows.discard(flow)

    def _admit(self) -> bool:
        self._counters.dns_queries += 1
        if self.in_flight >= self._limit:
            self._counters.dns_overload += 1
            return False
        self.in_flight += 1
        return True

    async def _answer_datagram(self, datagram: Datagram, message: bytes) -> None:
        try:
            answer = await self._service.answer(message, tcp=False)
        finally:
            self.in_flight -= 1
        self._reply(datagram, answer)

    async def _answer_flow(self, flow: DnsFlow, message: bytes) -> None:
        try:
            answer = await self._service.answer(message, tcp=True)
        finally:
            self.in_flight -= 1
        flow.answer(answer)

    def _reply(self, datagram: Datagram, answer: bytes | None) -> None:
        sent = answer is not None and self._stack.send_datagram(
            datagram.destination, datagram.source, answer
        )
        if not sent:
            self._counters.dns_dropped += 1


class DnsFlow:
    """One TCP connection to port 53; the handler of its flow."""

    __slots__ = (
        "_deframer",
        "_done",
        "_eof",
        "_finished",
        "_flow",
        "_front",
        "_out",
        "_readable",
        "_table",
        "_used",
        "_waiting",
        "since",
    )

    def __init__(self, front: DnsFront, flow: Flow, table: FlowTable) -> None:
        self._front = front
        self._flow = flow
        self._table = table
        self._deframer = Deframer()
        self._out: deque[memoryview] = deque()  # bounded by MAX_PIPELINED answers
        self._waiting = 0
        self._readable = False
        self._eof = False  # nothing more is read
        self._finished = False  # our FIN is sent
        self._done = False  # forgotten
        self.since = self._used = front.clock()
        flow.handler = self
        table.accept(self)
        flow.accept()

    def on_established(self) -> None:
        """The handshake is done."""

    def on_readable(self) -> None:
        """Bytes or the end of them: read as long as there is room for more queries."""
        self._readable = True
        self._read()

    def on_writable(self) -> None:
        """The stack takes bytes again."""
        out = self._out
        while out:
            chunk = out[0]
            taken = self._flow.push(chunk)
            if taken < len(chunk):
                out[0] = chunk[taken:]
                return
            out.popleft()
        self._read()
        self._end_if_over()

    def on_reset(self) -> None:
        """The application aborted: its answers are not delivered."""
        self._forget()

    def on_closed(self) -> None:
        """Both directions are done."""
        self._forget()

    def refuse(self, how: Reject) -> None:
        """Abort; a connection of ours is never held."""
        self._forget()
        self._flow.abort()

    def answer(self, message: bytes | None) -> None:
        """One query has been answered (None: it deserves no answer)."""
        self._waiting -= 1
        if self._done:
            self._front._counters.dns_dropped += 1
            return
        if message is not None:
            self._used = self._front.clock()
            self._out.append(memoryview(frame(message)))
        self.on_writable()

    def expire(self, now: float) -> None:
        """Close after :data:`IDLE_SECONDS` without a query; abort if that does not end it."""
        if self._done or self._waiting or now - self._used < IDLE_SECONDS:
            return
        if self._out or self._finished:  # it does not read, or does not close its side
            self.refuse(Reject.RST)
        else:
            self._used = now
            self._eof = True
            self._end_if_over()

    def _read(self) -> None:
        while self._readable and not self._done and not self._eof:
            if self._waiting + len(self._out) >= MAX_PIPELINED:
                return
            # Room for this many whole queries; the smallest is 14 bytes with its length.
            count = self._flow.pull_into(_scratch[:1024])
            if count == 0:
                self._readable = False
                return
            if count is None:
                self._eof = True
                self._end_if_over()
                return
            self._used = self._front.clock()
            for message in self._deframer.feed(_scratch[:count]):
                self._waiting += 1
                self._front.query(self, message)

    def _end_if_over(self) -> None:
        if not self._eof or self._finished or self._done or self._waiting or self._out:
            return
        self._finished = True
        self._flow.send_eof()

    def _forget(self) -> None:
        self._done = True
        self._out.clear()
        self._table.remove(self)
        self._front.forget(self)
