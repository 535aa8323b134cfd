"""A peer that asks, and does not read what it is answered: what waits for it is bounded in bytes.

Everything that one end can make the other send, for either end and both versions, without a byte
that leaves. What is over the bounds is dropped, refused, not read, or ends the session.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from tests.kits.session import Bytes, client, drain, feed, worker
from tests.kits.short import SHORT
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Connect,
    DatagramReceived,
    DnsQuery,
    DnsQueryReceived,
    DnsResponse,
    Echo,
    EchoReceived,
    EchoReply,
    Event,
    Frame,
    GoAway,
    Ping,
    Session,
    Settings,
    StreamOpened,
    Udp,
    UdpClose,
)
from zks_lwip.protocol.in_flight import MAX_ANSWER_BYTES, MAX_QUERY_BYTES, QueriesInFlight
from zks_lwip.protocol.v1 import WorkerV1

MOST = 6 << 20  # bytes of this process for one session, and where it may have 16,384 streams:
MOST_STREAMS = {"CONNECT that fails": 8 << 20, "CONNECT": 16 << 20}
#: What the peer sends: more than is ever held of it, whether it is frames or bytes.
FRAMES, ASKED = (6_000, 12 << 20) if SHORT else (25_000, 24 << 20)

QUERY = bytes.fromhex("abcd0110000100000000000103777777076578616d706c650000010001")
BIG_QUERY = QUERY + bytes(60_000)
BIG_ANSWER = bytes(60_000)

Answer = Callable[[Session, Event], None]


def no_answer(session: Session, event: Event) -> None:
    pass


def dns_answer(message: bytes) -> Answer:
    def answer(session: Session | WorkerV1, event: Event) -> None:
        if isinstance(event, DnsQueryReceived):
            session.dns_response(event.request, message)

    return answer


def echo_answer(session: Session, event: Event) -> None:
    if isinstance(event, EchoReceived):
        session.echo_reply(event.request, event.payload)


def udp_answer(session: Session, event: Event) -> None:
    if isinstance(event, DatagramReceived):
        session.send_udp(event.association, event.host, event.port, bytes(event.payload))


def udp_error(session: Session, event: Event) -> None:
    if isinstance(event, DatagramReceived):
        session.udp_error(event.association, 111, event.host, event.port)


def refuse(session: Session | WorkerV1, event: Event) -> None:
    if isinstance(event, StreamOpened):
        session.error(event.stream, 111, "connection refused" * 12)


def connect(session: Session | WorkerV1, event: Event) -> None:
    if isinstance(event, StreamOpened):
        session.accept(event.stream, Bytes(b"x" * 1000))
        session.connected(event.stream)
        session.mark_ready(event.stream)


#: What a client asks for again and again, and how the worker answers.
ASKS: dict[str, tuple[Callable[[int], Frame], Answer]] = {
    "one DNS id": (lambda n: DnsQuery(7, QUERY), dns_answer(bytes(500))),
    "one DNS id, large answers": (lambda n: DnsQuery(7, QUERY), dns_answer(BIG_ANSWER)),
    "one DNS id, never answered": (lambda n: DnsQuery(7, BIG_QUERY), no_answer),
    "DNS": (lambda n: DnsQuery(n, QUERY), dns_answer(bytes(500))),
    "DNS, large answers": (lambda n: DnsQuery(n, QUERY), dns_answer(BIG_ANSWER)),
    "DNS, large queries": (lambda n: DnsQuery(n, BIG_QUERY), no_answer),
    "no DNS queries": (lambda n: DnsQuery(n, b""), dns_answer(b"\0" * 12)),
    "ECHO": (lambda n: Echo(n, "192.0.2.1", bytes(56)), echo_answer),
    "large ECHO": (lambda n: Echo(n, "192.0.2.1", bytes(60_000)), echo_answer),
    "UDP": (lambda n: Udp(1, "192.0.2.1", 9, b"x"), udp_answer),
    "large UDP": (lambda n: Udp(1, "192.0.2.1", 9, bytes(60_000)), udp_answer),
    "UDP of many associations": (lambda n: Udp(n, "192.0.2.1", 9, b"x"), udp_answer),
    "UDP that is refused": (lambda n: Udp(1, "192.0.2.1", 9, b"x"), udp_error),
    "PING": (lambda n: Ping(), no_answer),
    "CONNECT that fails": (lambda n: Connect(n, "192.0.2.1", 9), refuse),
    "CONNECT": (lambda n: Connect(n, "192.0.2.1", 9), connect),
}

SETTINGS = Settings(
    udp=True, icmp=True, dns=True, ipv6=True, streams=16384, associations=4096, requests=256
)


def batches(make: Callable[[int], Frame]) -> Iterator[bytes]:
    """Messages full of what ``make`` gives."""
    asked, number = 0, 2
    while asked < ASKED and number < FRAMES:
        message = bytearray()
        while len(message) < 100_000:
            message += make(number).encode()
            number += 1
        asked += len(message)
        yield bytes(message)


def held_by(work: Callable[[], object]) -> int:
    """Most bytes of this process that ``work`` held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ASKS)
def test_a_client_that_reads_nothing(name: str) -> None:
    make, answer = ASKS[name]

    def work() -> None:
        session = worker(settings=SETTINGS)
        try:
            for message in batches(make):
                for event in session.receive(message):
                    answer(session, event)
        except ProtocolError as error:
            print(error)

    held = held_by(work)
    print(f"{held} bytes")
    assert held < MOST_STREAMS.get(name, MOST)


@pytest.mark.parametrize("name", [n for n in ASKS if "ECHO" not in n and "UDP" not in n])
def test_a_v1_client_that_reads_nothing(name: str) -> None:
    """It is not read either, once a little waits for it; PINGs are counted."""
    make, answer = ASKS[name]
    taken = 0

    def work() -> None:
        nonlocal taken
        session = WorkerV1(SETTINGS)
        session.take_events()
        try:
            for n in range(2, FRAMES):
                frame = make(n).encode()
                if not session.may_receive or taken > ASKED:
                    break
                taken += len(frame)
                for event in session.receive(frame):
                    answer(session, event)  # type: ignore[arg-type]
        except ProtocolError as error:
            print(error)
            assert name == "PING"

    held = held_by(work)
    print(f"{held} bytes for {taken}")
    assert held < MOST
    assert taken < ASKED or answer is no_answer


def test_a_v1_client_is_read_again_once_it_reads() -> None:
    told: list[None] = []
    session = WorkerV1(SETTINGS)
    session.attach(unblock=lambda: told.append(None))
    while session.may_receive:
        session.receive(DnsQuery(1, QUERY).encode())
        session.dns_response(1, bytes(500))
    assert not told
    while (message := session.next_message()) is not None:
        assert message
    assert len(told) == 1 and session.may_receive
    assert len(session.receive(DnsQuery(1, QUERY).encode())) == 1


#: What a worker sends again and again to a client of which nothing leaves.
LIES: dict[str, Callable[[int], Frame]] = {
    "PING": lambda n: Ping(),
    "answers that are not waited for": lambda n: DnsResponse(n, BIG_ANSWER),
    "replies that are not waited for": lambda n: EchoReply(n, BIG_ANSWER),
    "UDP": lambda n: Udp(n, "192.0.2.1", 9, bytes(1000)),
    "UDP_CLOSE": lambda n: UdpClose(n),
    "GOAWAY": lambda n: GoAway(1, "again"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_worker_that_reads_nothing(name: str) -> None:
    def work() -> None:
        session = client()
        try:
            for message in batches(LIES[name]):
                session.receive(message)
        except ProtocolError as error:
            print(error)
            assert name == "PING"

    held = held_by(work)
    print(f"{held} bytes")
    assert held < MOST


# No client that reads is left without an answer.


def test_answers_over_the_bound_are_servfail() -> None:
    session = worker(settings=SETTINGS)
    number = MAX_ANSWER_BYTES // len(BIG_ANSWER) + 3
    response = QUERY[:2] + b"\x81\x80" + QUERY[4:] + bytes(60_000)
    for request in range(1, number + 1):
        assert len(feed(session, DnsQuery(request, QUERY))) == 1
        session.dns_response(request, response)
    answers = [frame for frame in drain(session) if isinstance(frame, DnsResponse)]
    assert [answer.request for answer in answers] == [*range(1, number + 1)]
    short = [answer.message for answer in answers if len(answer.message) < 100]
    assert 1 <= len(short) <= 4 and len(short) == session.stats.dns_refused
    assert all(m[:2] == QUERY[:2] and m[3] & 15 == 2 and m[12:] == QUERY[12:] for m in short)
    feed(session, DnsQuery(1, QUERY))
    session.dns_response(1, response)  # all has left: there is room again
    assert drain(session) == [DnsResponse(1, response)]


def test_one_id_asked_often_counts_as_often() -> None:
    session = worker(settings=Settings(dns=True, requests=10))
    assert len(feed(session, *[DnsQuery(1, QUERY)] * 100)) == 10
    assert session.stats.dns_refused == 90
    assert len(drain(session)) == 90
    for _ in range(20):
        session.dns_response(1, b"a")
    assert drain(session) == [DnsResponse(1, b"a")] * 10
    assert len(feed(session, *[DnsQuery(1, QUERY)] * 10)) == 10


def test_queries_in_flight_are_bounded_in_bytes() -> None:
    queries = QueriesInFlight(1000)
    most = MAX_QUERY_BYTES // 60_000
    assert [queries.take(1, 60_000) for _ in range(most + 1)] == [True] * most + [False]
    assert queries.answer(1, b"a") == b"a" and queries.answer(2, b"a") is None
    assert queries.take(2, 60_000) and len(queries) == most + 1
    queries.left(1)
    assert len(queries) == most
    queries.clear()
    assert len(queries) == 0 and queries.answer(1, b"a") is None
