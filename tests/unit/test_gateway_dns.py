"""Port 53: framing, pipelining, answers out of order, bounds, and what ends a connection."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.gateway_fakes import FakeFlow, FakeStack
from zks_lwip.gateway.dns import IDLE_SECONDS, MAX_PIPELINED, DnsFront
from zks_lwip.gateway.tcp import FlowTable
from zks_lwip.stack import Datagram, Reject
from zks_lwip.stats import GatewayCounters

CLIENT = ("198.18.0.1", 5353)
SERVER = ("9.9.9.9", 53)


class Service:
    """Answers a message when the test lets it, with the transport and the message itself."""

    def __init__(self) -> None:
        self.gates: dict[bytes, trio.Event] = {}
        self.dropped: set[bytes] = set()

    def gate(self, message: bytes) -> trio.Event:
        return self.gates.setdefault(message, trio.Event())

    async def answer(self, message: bytes, *, tcp: bool) -> bytes | None:
        await self.gate(message).wait()
        if message in self.dropped:
            return None
        return (b"tcp " if tcp else b"udp ") + message

    def overloaded(self, message: bytes) -> bytes | None:
        return b"servfail " + message


class Bench:
    def __init__(self, nursery: trio.Nursery, limit: int) -> None:
        self.now = 0.0
        self.stack, self.service, self.counters = FakeStack(), Service(), GatewayCounters()
        self.table = FlowTable(10, self.counters)
        self.front = DnsFront(
            self.stack,
            self.service,
            self.counters,
            nursery,
            limit=limit,
            clock=lambda: self.now,
        )

    def open(self) -> FakeFlow:
        flow = FakeFlow(destination=SERVER, source=CLIENT)
        self.front.open_flow(flow, self.table)  # type: ignore[arg-type]
        flow.handler.on_established()
        return flow

    def feed(self, flow: FakeFlow, data: bytes) -> None:
        flow.incoming += data
        flow.handler.on_readable()


@asynccontextmanager
async def bench(limit: int = 1000) -> AsyncIterator[Bench]:
    async with trio.open_nursery() as nursery:
        yield Bench(nursery, limit)
        nursery.cancel_scope.cancel()


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


async def test_the_answer_to_a_datagram_comes_from_the_server_asked() -> None:
    async with bench() as b:
        b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=b"q1"))
        b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=b"q2"))
        b.service.dropped.add(b"q2")
        b.service.gate(b"q1").set()
        b.service.gate(b"q2").set()
        await wait_all_tasks_blocked()
        assert b.stack.sent == [(SERVER, CLIENT, b"udp q1")]
        assert b.counters.dns_queries == 2 and b.counters.dns_dropped == 1
        assert b.front.in_flight == 0


async def test_too_many_queries_get_servfail_at_once() -> None:
    async with bench(limit=1) as b:
        b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=b"q1"))
        b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=b"q2"))
        flow = b.open()
        b.feed(flow, framed(b"q3"))
        assert b.stack.sent == [(SERVER, CLIENT, b"servfail q2")]
        assert flow.delivered == framed(b"servfail q3")
        assert b.counters.dns_overload == 2


async def test_tcp_messages_however_split_and_answered_out_of_order() -> None:
    async with bench() as b:
        flow = b.open()
        assert flow.log == ["accept"]
        for byte in framed(b"first", b"second"):
            b.feed(flow, bytes([byte]))
        b.service.gate(b"second").set()
        await wait_all_tasks_blocked()
        assert flow.delivered == framed(b"tcp second")
        b.service.gate(b"first").set()
        await wait_all_tasks_blocked()
        assert flow.delivered == framed(b"tcp second", b"tcp first")
        assert flow.log == ["accept"]


async def test_a_client_that_closed_its_side_gets_all_answers_and_then_fin() -> None:
    async with bench() as b:
        flow = b.open()
        flow.fin = True
        b.feed(flow, framed(b"q"))
        await wait_all_tasks_blocked()
        assert flow.log == ["accept"]
        flow.room = 3
        b.service.gate(b"q").set()
        await wait_all_tasks_blocked()
        assert flow.log == ["accept"]
        flow.room = 100
        flow.handler.on_writable()
        assert flow.delivered == framed(b"tcp q") and flow.log == ["accept", "eof"]
        flow.handler.on_closed()
        assert len(b.table) == 0


async def test_a_connection_is_not_read_while_too_many_of_its_queries_wait() -> None:
    async with bench() as b:
        flow = b.open()
        messages = [b"%06d" % number + bytes(20) for number in range(3 * MAX_PIPELINED)]
        b.feed(flow, framed(*messages))
        await wait_all_tasks_blocked()
        assert flow.incoming and b.front.in_flight < 2 * MAX_PIPELINED
        for message in messages:
            b.service.gate(message).set()
        for _ in range(5):
            await wait_all_tasks_blocked()
        assert not flow.incoming
        assert b.counters.dns_queries == len(messages)


async def test_an_asker_that_has_gone_is_not_answered() -> None:
    async with bench() as b:
        flow = b.open()
        b.feed(flow, framed(b"q"))
        flow.handler.on_reset()
        b.service.gate(b"q").set()
        await wait_all_tasks_blocked()
        assert flow.delivered == b"" and len(b.table) == 0
        assert b.counters.dns_dropped == 1 and b.front.in_flight == 0


async def test_an_idle_connection_is_closed_and_then_aborted() -> None:
    async with bench() as b:
        flow, asking = b.open(), b.open()
        b.feed(asking, framed(b"q"))
        b.front.expire(IDLE_SECONDS - 1)
        assert flow.log == ["accept"]
        b.front.expire(IDLE_SECONDS)
        assert flow.log == ["accept", "eof"] and asking.log == ["accept"]
        b.front.expire(2 * IDLE_SECONDS)
        assert flow.log == ["accept", "eof", "abort"] and len(b.table) == 1


async def test_one_that_asks_and_does_not_read_is_aborted() -> None:
    async with bench() as b:
        flow = b.open()
        flow.room = 0
        b.feed(flow, framed(b"q"))
        b.service.gate(b"q").set()
        await wait_all_tasks_blocked()
        b.front.expire(IDLE_SECONDS)
        assert flow.log == ["accept", "abort"]


async def test_shutting_down_aborts() -> None:
    async with bench() as b:
        flow = b.open()
        for member in b.table:
            member.refuse(Reject.RST)
        assert flow.log == ["accept", "abort"] and len(b.table) == 0
