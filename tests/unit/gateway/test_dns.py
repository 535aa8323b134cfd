"""Port 53: framing, pipelining, answers out of order, bounds, and what ends a connection."""

from __future__ import annotations

import struct
from collections.abc import Callable

import dns.message
import dns.rcode

from tests.kits.gateway import FakeFlow, FakeStack
from zks_lwip.dns.message.framing import Deframer
from zks_lwip.dns.tcp_server import MAX_HELD_BY_ALL, MAX_IN_FLIGHT
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.dns import IDLE_SECONDS, MAX_CONNECTIONS, DnsInterceptor
from zks_lwip.gateway.flow_table import FlowTable
from zks_lwip.stack import Datagram, Reject

CLIENT = ("198.18.0.1", 5353)
SERVER = ("9.9.9.9", 53)


def query(name: bytes) -> bytes:
    """Enough of a header to be taken for a query; what is in it is the service's business."""
    return bytes(12) + name


class Service:
    """Answers when the test says so, with the transport and the message itself."""

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self.asked: dict[bytes, Callable[[], None]] = {}

    def submit(
        self,
        message: bytes,
        reply: Callable[[bytes], None],
        *,
        transport: str = "udp",
        source: object = None,
    ) -> None:
        if len(message) < 12:
            return
        answer = transport.encode() + b" " + message
        if self.at_once:
            reply(answer)
        else:
            self.asked[message] = lambda: reply(answer)

    def answer(self, *messages: bytes) -> None:
        for message in messages:
            self.asked.pop(message)()


class Bench:
    def __init__(self, at_once: bool = False) -> None:
        self.now = 0.0
        self.stack, self.service, self.counters = FakeStack(), Service(at_once), GatewayCounters()
        self.table = FlowTable(10, self.counters)
        self.front = DnsInterceptor(self.stack, self.service, self.counters, clock=lambda: self.now)

    def open(self) -> FakeFlow:
        flow = FakeFlow(destination=SERVER, source=CLIENT)
        self.front.open_flow(flow, self.table)  # type: ignore[arg-type]
        flow.handler.on_established()
        return flow

    def feed(self, flow: FakeFlow, data: bytes) -> None:
        flow.incoming += data
        flow.handler.on_readable()


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


A, B = query(b"a"), query(b"b")


def test_the_answer_to_a_datagram_comes_from_the_server_asked() -> None:
    b = Bench()
    b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=A))
    assert b.stack.sent == []
    b.service.answer(A)
    assert b.stack.sent == [(SERVER, CLIENT, b"udp " + A)]
    b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=b"short"))
    b.stack.room = 1
    b.front.on_datagram(Datagram(source=CLIENT, destination=SERVER, payload=B))
    b.service.answer(B)
    assert b.counters.dns_queries == 3 and b.counters.dns_dropped == 1


def test_tcp_messages_however_split_and_answered_out_of_order() -> None:
    b = Bench()
    flow = b.open()
    assert flow.log == ["accept"]
    for byte in framed(A, B):
        b.feed(flow, bytes([byte]))
    b.service.answer(B)
    assert flow.delivered == framed(b"tcp " + B)
    b.service.answer(A)
    assert flow.delivered == framed(b"tcp " + B, b"tcp " + A)
    assert flow.log == ["accept"]


def test_answers_that_come_at_once_in_any_number() -> None:
    b = Bench(at_once=True)
    flow = b.open()
    messages = [query(b"%05d" % number) for number in range(3000)]
    b.feed(flow, framed(*messages))
    assert flow.delivered == framed(*(b"tcp " + message for message in messages))


def test_a_client_that_closed_its_side_gets_all_answers_and_then_fin() -> None:
    b = Bench()
    flow = b.open()
    flow.fin = True
    b.feed(flow, framed(A))
    assert flow.log == ["accept"]
    flow.room = 3
    b.service.answer(A)
    assert flow.log == ["accept"] and len(flow.delivered) == 3
    flow.room = 100
    flow.handler.on_writable()
    assert flow.delivered == framed(b"tcp " + A) and flow.log == ["accept", "eof"]
    flow.handler.on_closed()
    assert len(b.table) == 0


def test_a_connection_is_not_read_while_too_many_of_its_queries_wait() -> None:
    b = Bench()
    flow = b.open()
    messages = [query(b"%06d" % number) for number in range(30 * MAX_IN_FLIGHT)]
    b.feed(flow, framed(*messages))
    assert flow.incoming and len(b.service.asked) == MAX_IN_FLIGHT
    while b.service.asked:
        b.service.answer(next(iter(b.service.asked)))
    assert not flow.incoming and b.counters.dns_queries == len(messages)


def test_a_client_that_does_not_read_is_not_read() -> None:
    b = Bench(at_once=True)
    flow = b.open()
    flow.room = 0
    b.feed(flow, framed(*[query(bytes(1000))] * 3000))
    assert len(flow.incoming) > 1000 * 1000
    flow.room = 1 << 30
    flow.handler.on_writable()
    assert not flow.incoming and len(flow.delivered) == 3000 * (2 + 4 + 12 + 1000)


def test_an_asker_that_has_gone_is_not_answered() -> None:
    b = Bench()
    flow = b.open()
    b.feed(flow, framed(A))
    flow.handler.on_reset()
    b.service.answer(A)
    assert flow.delivered == b"" and len(b.table) == 0


def test_an_idle_connection_is_closed_and_then_aborted() -> None:
    b = Bench()
    flow, asking = b.open(), b.open()
    b.feed(asking, framed(A))
    b.front.expire(IDLE_SECONDS - 1)
    assert flow.log == ["accept"]
    b.front.expire(IDLE_SECONDS)
    assert flow.log == ["accept", "eof"] and asking.log == ["accept"]
    b.front.expire(2 * IDLE_SECONDS)
    assert flow.log == ["accept", "eof", "abort"] and len(b.table) == 1


def test_one_that_asks_and_does_not_read_is_aborted() -> None:
    b = Bench()
    flow = b.open()
    flow.room = 0
    b.feed(flow, framed(A))
    b.service.answer(A)
    b.front.expire(IDLE_SECONDS)
    assert flow.log == ["accept", "abort"]


def test_shutting_down_aborts() -> None:
    b = Bench()
    flow = b.open()
    for member in b.table:
        member.refuse(Reject.RST)
    assert flow.log == ["accept", "abort"] and len(b.table) == 0


def test_connections_are_bounded_and_idle_ones_make_room() -> None:
    b = Bench()
    b.table = FlowTable(10_000, b.counters)
    flows = [b.open() for _ in range(MAX_CONNECTIONS)]
    for number, flow in enumerate(flows[1:]):
        b.feed(flow, framed(query(b"%d" % number)))
    newest = b.open()
    assert newest.log == ["accept"]
    assert flows[0].log == ["accept", "abort"] and flows[1].log == ["accept"]
    b.feed(newest, framed(A))
    late = FakeFlow(destination=SERVER, source=CLIENT)
    b.front.open_flow(late, b.table)  # type: ignore[arg-type]
    assert late.log == [Reject.SILENT] and len(b.table) == MAX_CONNECTIONS
    assert b.counters.dns_connections_over_limit == 2
    b.service.answer(A)
    assert b.open().log == ["accept"] and newest.log == ["accept", "abort"]


def large(number: int) -> bytes:
    """A message that is nearly as long as an answer can be; every other one has an OPT record."""
    edns = number % 2
    head = struct.pack("!6H", number, 0, 1, 1, 0, edns) + b"\1a\0\0\1\0\1"
    record = b"\xc0\x0c\0\x10\0\1" + bytes(4) + struct.pack("!H", 60_000) + bytes(60_000)
    return head + record + (b"\0\0\x29\x04\xd0\0\0\x80\0\0\0" if edns else b"")


class Echo(Service):
    """Answers with the query's own bytes."""

    def submit(
        self,
        message: bytes,
        reply: Callable[[bytes], None],
        *,
        transport: str = "udp",
        source: object = None,
    ) -> None:
        self.asked[message] = lambda: reply(message)


def test_the_answers_that_connections_hold_are_bounded_in_bytes() -> None:
    b = Bench()
    b.front.service = b.service = Echo()
    flows = []
    for number in range(40):
        flow = b.open()
        flow.room = 0
        flows.append(flow)
        b.feed(flow, framed(*(large(number * 100 + index) for index in range(30))))
    b.service.answer(*list(b.service.asked))
    assert b.front.budget.held <= MAX_HELD_BY_ALL + 40 * 30 * 100
    for flow in flows:
        flow.room = 1 << 30
        flow.handler.on_writable()
    whole = refused = 0
    for flow in flows:
        for message in Deframer().feed(flow.delivered):
            if len(message) > 60_000:
                whole += 1
                continue
            seen = dns.message.from_wire(message)
            assert seen.rcode() == dns.rcode.SERVFAIL and seen.edns == (0 if seen.id % 2 else -1)
            assert [option.code for option in seen.options] == [14] * (seen.id % 2)
            refused += 1
    assert whole + refused == 40 * 30
    assert whole * 60_000 < MAX_HELD_BY_ALL + 40 * 80_000  # what each had taken to send, besides
    assert b.front.budget.held == 0


def test_what_a_lost_connection_held_is_free_again() -> None:
    b = Bench()
    b.front.service = b.service = Echo()
    flow = b.open()
    flow.room = 0
    b.feed(flow, framed(*(large(number) for number in range(4))))
    asked = list(b.service.asked)
    b.service.answer(*asked[:3])
    assert b.front.budget.held > 60_000
    flow.handler.on_reset()
    b.service.answer(*asked[3:])
    assert b.front.budget.held == 0
