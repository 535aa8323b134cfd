"""Sessions that speak v1 (PROTOCOL.md §9), both ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kits.session import Bytes, Clock, came
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Budget,
    Close,
    Connect,
    Connected,
    Data,
    DataReceived,
    DnsAnswerReceived,
    DnsQuery,
    DnsQueryReceived,
    DnsResponse,
    EofReceived,
    Error,
    Event,
    Frame,
    Ping,
    Pong,
    SessionReady,
    Settings,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
    Udp,
    parse_v1,
)
from zks_lwip.protocol.dns_refusal import servfail
from zks_lwip.protocol.v1 import MAX_HELD, MIN_HELD, ClientV1, WorkerV1

QUERY = bytes.fromhex("abcd0110000100000000000103777777076578616d706c650000010001")


def drain(session: ClientV1 | WorkerV1) -> list[Frame]:
    """All that it sends now: every message is one frame."""
    sent: list[Frame] = []
    while (message := session.next_message()) is not None:
        sent.append(parse_v1(bytes(message)))
    return sent


def feed(session: ClientV1 | WorkerV1, *sent: Frame) -> list[Event]:
    return [event for frame in sent for event in session.receive(frame.encode())]


def client(**options: Any) -> tuple[ClientV1, Clock]:
    clock = Clock()
    unblock = options.pop("unblock", None)
    session = ClientV1(clock=clock, **options)
    session.attach(unblock=unblock)
    session.take_events()
    return session, clock


def connected_client(source: Bytes | None = None, **options: Any) -> tuple[ClientV1, Clock]:
    session, clock = client(**options)
    session.connect("h", 1, source or Bytes())
    assert drain(session) == [Connect(1, "h", 1)]
    assert feed(session, Connected(1)) == [StreamConnected(1)]
    drain(session)
    return session, clock


def worker(**options: Any) -> tuple[WorkerV1, Clock]:
    clock = Clock()
    session = WorkerV1(Settings(**{"dns": True} | options), clock=clock)
    session.take_events()
    return session, clock


def connected_worker(source: Bytes | None = None, **options: Any) -> tuple[WorkerV1, Clock]:
    session, clock = worker(**options)
    feed(session, Connect(1, "h", 1))
    session.accept(1, source or Bytes())
    session.connected(1)
    assert drain(session) == [Connected(1)]
    return session, clock


# The client


def test_client_knows_what_v1_can() -> None:
    session = ClientV1()
    assert session.ready and session.has_output
    (ready,) = session.take_events()
    assert isinstance(ready, SessionReady) and ready.peer == session.peer
    hello = ready.peer
    assert (hello.streams, hello.dns, hello.udp, hello.icmp) == (1, True, False, False)
    assert session.take_events() == [] and not session.has_output
    assert not session.send_udp(1, "192.0.2.1", 1, b"")
    assert not session.echo(1, "192.0.2.1", b"")
    session.ping()
    session.udp_close(1)
    assert drain(session) == []


def test_one_stream_a_session() -> None:
    session, _ = client()
    assert session.can_connect and not session.finished
    assert session.connect("h", 1, Bytes()) == 1
    assert not session.can_connect
    with pytest.raises(RuntimeError, match="one stream"):
        session.connect("h", 1, Bytes())
    drain(session)
    feed(session, Error(1, 502, "no"))
    assert session.finished and not session.can_connect
    with pytest.raises(ValueError):
        client()[0].connect("h", 65536, Bytes())


def test_data_waits_for_connected() -> None:
    source = Bytes(b"early")
    session, _ = client()
    session.connect("h", 1, source)
    session.mark_ready(1)
    assert drain(session) == [Connect(1, "h", 1)] and source.asked == 0
    assert feed(session, Connected(1), Connected(1)) == [StreamConnected(1)]
    assert drain(session) == [Data(1, b"early")]


def test_data_in_pieces_of_16_kib() -> None:
    session, _ = connected_client(Bytes(b"x" * 40_000))
    session.mark_ready(1)
    assert [len(frame.payload) for frame in drain(session)] == [16384, 16384, 40_000 - 32768]


def test_data_is_paced() -> None:
    session, clock = connected_client(Bytes(b"x" * 10_000_000), rate=1_000_000.0)
    session.mark_ready(1)
    burst = sum(len(frame.payload) for frame in drain(session))
    assert 524_288 <= burst <= 524_288 + 32_768
    assert not session.has_output and session.deadline is not None
    assert session.deadline > clock.now
    clock.now = session.deadline
    assert session.has_output
    assert len(drain(session)) == 1
    sent = burst
    for _ in range(100):
        clock.now += 0.1
        sent += sum(len(frame.payload) for frame in drain(session))
    assert 9_900_000 < sent <= 10_000_000
    # control does not wait for its turn
    session.close(1)
    assert drain(session) == [Close(1)]


def test_the_workers_close_is_the_end_behind_all_data() -> None:
    session, _ = connected_client(source := Bytes())
    assert feed(session, Data(1, b"abc"), Close(1), Close(1), Data(1, b"late")) == [
        came(1, b"abc"),
        EofReceived(1),
    ]
    assert session.is_open(1) and not session.finished
    source.end = True
    session.mark_ready(1)
    assert drain(session) == [Close(1)]
    assert session.finished


def test_bytes_for_a_far_end_that_has_gone_are_a_reset() -> None:
    session, _ = connected_client(source := Bytes())
    feed(session, Close(1))
    source.data = b"lost"
    source.end = True
    session.mark_ready(1)
    assert drain(session) == [Close(1)]
    assert session.has_output
    assert session.take_events() == [StreamReset(1)]
    assert session.finished and not session.has_output


def test_a_close_while_bytes_are_under_way_is_a_reset() -> None:
    """Nothing takes them any more, and a FIN first would look like a good end."""
    session, clock = connected_client(source := Bytes(b"x" * 2_000_000), rate=1000.0)
    session.mark_ready(1)
    drain(session)
    assert source.data and not session.has_output  # paced: more waits
    assert feed(session, Data(1, b"abc"), Close(1)) == [came(1, b"abc"), StreamReset(1)]
    assert drain(session) == [Close(1)]
    assert session.finished and session.take_events() == []
    # The application's FIN, and no bytes before it, are no reason.
    session, _ = connected_client(Bytes(end=True))
    session.mark_ready(1)
    assert feed(session, Close(1)) == [EofReceived(1)]
    assert drain(session) == [Close(1)] and session.finished


def test_an_error_of_a_stream_that_was_connected_is_a_reset() -> None:
    session, _ = connected_client()
    error = Error(1, 104, "reset by the far end")
    reset = StreamReset(1, 104, "reset by the far end")
    assert feed(session, Data(1, b"abc"), error, Close(1)) == [came(1, b"abc"), reset]
    assert session.finished
    # Also behind a CLOSE, which was the far end's EOF: what we send meets a reset
    session, _ = connected_client()
    assert feed(session, Close(1), error) == [EofReceived(1), reset]
    assert session.finished


def test_the_applications_fin_leaves_after_30_silent_seconds() -> None:
    session, clock = connected_client(Bytes(b"abc", end=True))
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"abc")]
    assert session.deadline == clock.now + 30
    clock.now += 29
    assert feed(session, Data(1, b"still coming")) == [came(1, b"still coming")]
    clock.now += 29
    assert session.take_events() == [] and drain(session) == []
    clock.now += 1
    assert session.take_events() == [] and drain(session) == [Close(1)]
    assert session.is_open(1) and session.deadline is None
    # It may be the echo of ours, which has cut what was still to come: no clean end
    assert feed(session, Data(1, b"last"), Close(1)) == [came(1, b"last"), StreamReset(1)]
    assert drain(session) == [] and session.finished


def test_both_have_ended() -> None:
    session, _ = connected_client(Bytes(end=True))
    session.mark_ready(1)
    assert drain(session) == []
    assert feed(session, Close(1)) == [EofReceived(1)]
    assert drain(session) == [Close(1)]
    assert session.finished and session.deadline is None


def test_refused_and_closed_before_connected() -> None:
    for end, event in (
        (Error(1, 403, "Blocked host"), StreamReset(1, 403, "Blocked host")),
        (Close(1), StreamReset(1)),
    ):
        session, _ = client()
        session.connect("h", 1, Bytes())
        drain(session)
        assert feed(session, end) == [event]
        assert session.finished


def test_abort() -> None:
    session, _ = connected_client(Bytes(b"abc"))
    session.mark_ready(1)
    session.close(1)
    session.close(1)
    assert drain(session) == [Close(1)]
    assert session.finished
    assert feed(session, Data(1, b"x"), Close(1), Connected(1), Error(1, 1, "")) == []


def test_reading_stops_earlier_the_more_others_hold() -> None:
    budget = Budget(300_000)
    held = []
    sessions = [connected_client(budget=budget)[0] for _ in range(6)]
    for session in sessions:
        size = 0
        while session.may_receive:
            feed(session, Data(1, bytes(8192)))
            size += 8192
        held.append(size)
    assert held == sorted(held, reverse=True) and held[0] > 2 * held[-1]
    assert held[-1] == MIN_HELD + 8192
    assert sum(held) == budget.used <= 300_000 + 6 * (MIN_HELD + 8192)
    sessions[-1].consumed(1, 8192)
    assert sessions[-1].may_receive
    for session in sessions:
        session.end()
    assert budget.used == 0


def test_not_reading_is_the_backpressure() -> None:
    calls: list[bool] = []
    session, _ = connected_client(unblock=lambda: calls.append(True))
    held = 0
    while session.may_receive:
        feed(session, Data(1, bytes(65536)))
        held += 65536
    assert MAX_HELD // 2 < held < MAX_HELD
    session.consumed(1, 65536)
    assert session.may_receive and calls == [True]
    session.consumed(1, held - 65536)
    with pytest.raises(ValueError, match="1 bytes consumed of 0"):
        session.consumed(1, 1)
    # the largest message there is: nothing more fits beside it
    feed(session, Data(1, bytes(MAX_HELD - 9)))
    session.consumed(1, MAX_HELD - 9 - 10)
    assert not session.may_receive
    session.consumed(1, 1)
    assert session.may_receive
    feed(session, Data(1, b"x"))
    assert not session.may_receive
    session.close(1)
    assert session.may_receive


@pytest.mark.parametrize(
    "frame", [Connect(1, "h", 1), DnsQuery(1, b"")], ids=lambda frame: type(frame).__name__
)
def test_what_a_worker_never_sends(frame: Frame) -> None:
    session, _ = connected_client()
    with pytest.raises(ProtocolError, match="a worker never sends it"):
        feed(session, frame)
    assert session.open_streams == 0 and drain(session) == []
    with pytest.raises(ProtocolError):
        feed(session, Ping())


def test_malformed_messages() -> None:
    for message, status in (
        (b"", 1002),
        (b"\x40" + bytes(8), 1002),
        (Ping().encode() * 2, 1002),
        (bytes((1 << 20) + 1), 1009),
    ):
        session, _ = client()
        with pytest.raises(ProtocolError) as caught:
            session.receive(message)
        assert caught.value.status == status
    session, _ = client()
    session.connect("h", 1, Bytes())
    drain(session)
    with pytest.raises(ProtocolError, match="before CONNECTED"):
        feed(session, Data(1, b"x"))


def test_dns() -> None:
    session, clock = client()
    assert session.dns_query(70_000, QUERY) and session.dns_query(70_001, QUERY)
    assert drain(session) == [DnsQuery(1, QUERY), DnsQuery(2, QUERY)]
    answer = QUERY[:2] + b"answer"
    assert feed(session, DnsResponse(2, answer), DnsResponse(2, answer)) == [
        DnsAnswerReceived(70_001, answer)
    ]
    clock.now += 4.9
    assert session.take_events() == []
    assert session.deadline == pytest.approx(clock.now + 0.1)
    clock.now += 0.1
    assert session.take_events() == [DnsAnswerReceived(70_000, servfail(QUERY))]
    assert feed(session, DnsResponse(1, answer)) == [] and session.deadline is None


def test_dns_ids_have_16_bits_and_are_used_again() -> None:
    session, _ = client()
    for number in range(1, 65535):
        session.dns_query(number, QUERY)
        drain(session)
        feed(session, DnsResponse(number, b""))
    assert session.dns_query(1, QUERY) and session.dns_query(2, QUERY)
    assert drain(session) == [DnsQuery(65535, QUERY), DnsQuery(1, QUERY)]
    session.dns_query(3, QUERY)
    assert drain(session) == [DnsQuery(2, QUERY)]


def test_dns_queries_are_bounded() -> None:
    session, _ = client()
    assert sum(session.dns_query(n, QUERY) for n in range(1, 3000)) == 1024


# The worker


def test_worker_round() -> None:
    session, _ = worker()
    assert feed(session, Connect(7, "h", 80), Data(7, b"early")) == [
        StreamOpened(7, "h", 80),
        came(7, b"early"),
    ]
    source = Bytes(b"y" * 70_000, end=True)
    session.accept(7, source)
    session.mark_ready(7)
    assert drain(session) == [] and source.asked == 0
    session.connected(7)
    with pytest.raises(RuntimeError, match="connected already"):
        session.connected(7)
    frames = drain(session)
    assert frames == [
        Connected(7),
        Data(7, b"y" * 65536),
        Data(7, b"y" * (70_000 - 65536)),
        Close(7),
    ]
    # what the client has still to say is taken
    assert feed(session, Data(7, b"more"), Close(7)) == [came(7, b"more"), StreamClosed(7)]
    assert drain(session) == [] and session.open_streams == 0


def test_worker_forgets_a_stream_whose_client_says_nothing_more() -> None:
    session, clock = connected_worker(Bytes(end=True))
    session.mark_ready(1)
    assert drain(session) == [Close(1)]
    clock.now += 20
    feed(session, Data(1, b"x"))
    clock.now += 29
    assert session.take_events() == [] and session.is_open(1)
    clock.now += 1
    assert session.take_events() == [StreamClosed(1)]
    assert session.open_streams == 0 and drain(session) == []


def test_worker_echoes_close_at_once() -> None:
    session, _ = connected_worker(Bytes(b"never asked for"))
    session.mark_ready(1)
    assert feed(session, Close(1), Close(1)) == [StreamClosed(1)]
    assert drain(session) == [Close(1)]


def test_worker_errors() -> None:
    session, _ = worker(streams=2)
    feed(session, Connect(1, "h", 1), Connect(2, "h", 1))
    assert feed(session, Connect(2, "h", 1), Connect(3, "h", 1)) == []
    session.error(1, 111, "x" * 300)
    session.connected(2)
    session.error(2, 104, "reset")
    session.goaway(1001)
    assert feed(session, Connect(1, "h", 1)) == []
    assert drain(session) == [
        Error(2, 409, "this stream is open already"),
        Error(3, 429, "2 streams are open"),
        Error(1, 111, "x" * 200),
        Connected(2),
        Error(2, 104, "reset"),
        Close(2),
        Error(1, 503, "the worker is going away"),
    ]
    assert session.stats.streams_refused == 2


def test_worker_takes_ids_again() -> None:
    session, _ = worker()
    for _ in range(3):
        assert feed(session, Connect(1, "h", 1)) == [StreamOpened(1, "h", 1)]
        assert feed(session, Close(1)) == [StreamClosed(1)]


def test_worker_answers_ping_and_ignores_udp() -> None:
    session, _ = worker()
    assert feed(session, Ping(), Pong(), Udp(1, "192.0.2.1", 1, b"x")) == []
    assert drain(session) == [Pong()]
    with pytest.raises(ProtocolError, match="PING"):
        feed(session, *[Ping()] * 5000)


def test_worker_streams_take_turns() -> None:
    session, _ = worker()
    for number in range(1, 4):
        feed(session, Connect(number, "h", 1))
        session.accept(number, Bytes(b"z" * 200_000))
        session.connected(number)
        session.mark_ready(number)
    drained = [frame.stream for frame in drain(session) if isinstance(frame, Data)]
    assert drained[:6] == [1, 2, 3, 1, 2, 3]


def test_worker_dns() -> None:
    session, _ = worker(requests=1)
    assert feed(session, DnsQuery(1, QUERY), DnsQuery(2, QUERY)) == [DnsQueryReceived(1, QUERY)]
    session.dns_response(1, b"a")
    session.dns_response(9, b"not asked for")
    assert drain(session) == [DnsResponse(2, servfail(QUERY)), DnsResponse(1, b"a")]
    assert feed(session, DnsQuery(1, QUERY)) == [DnsQueryReceived(1, QUERY)]


@pytest.mark.parametrize("kind", ["connect", "close", "dns"])
def test_floods_are_bounded(kind: str) -> None:
    session, _ = worker(streams=1, requests=0)
    with pytest.raises(ProtocolError, match="does not read the answers"):
        for number in range(1, 200_000):
            if kind == "dns":
                feed(session, DnsQuery(number, QUERY))
            else:
                feed(session, Connect(number, "h", 1))
                if kind == "close":
                    feed(session, Close(number))


def test_a_source_that_marks_itself_ready_does_not_spin() -> None:
    session, _ = worker()

    class Restless:
        def pull_into(self, view: memoryview) -> int | None:
            session.mark_ready(1)
            return 0

    feed(session, Connect(1, "h", 1))
    session.accept(1, Restless())
    session.connected(1)
    session.mark_ready(1)
    assert drain(session) == [Connected(1)]


def test_a_source_may_end_its_stream() -> None:
    session, _ = worker()

    class Failing:
        def pull_into(self, view: memoryview) -> int | None:
            session.error(1, 104)
            return 0

    feed(session, Connect(1, "h", 1))
    session.accept(1, Failing())
    session.connected(1)
    session.mark_ready(1)
    assert drain(session) == [Connected(1), Error(1, 104, ""), Close(1)]


def test_wake() -> None:
    calls: list[bool] = []
    session = WorkerV1(Settings())
    session.attach(lambda: calls.append(True))
    session.take_events()
    drain(session)
    feed(session, Ping(), Ping())
    assert calls == [True]
    drain(session)
    feed(session, Ping())
    assert calls == [True, True]
    session.end()
    assert not session.has_output and session.receive(Ping().encode()) == []


def test_client_and_worker_together() -> None:
    (near, _), (far, _) = client(rate=1e12), worker()
    request, response = bytes(range(256)) * 1000, bytes(reversed(range(256))) * 3000
    near.connect("h", 1, Bytes(request, end=True))
    got: dict[type, bytearray] = {ClientV1: bytearray(), WorkerV1: bytearray()}
    ended: list[str] = []
    source = Bytes(response)
    for _ in range(200):
        for here, there in ((near, far), (far, near)):
            message = here.next_message()
            for event in there.receive(message) if message else ():
                if isinstance(event, StreamOpened):
                    there.accept(1, source)  # type: ignore[union-attr]
                    there.connected(1)  # type: ignore[union-attr]
                elif isinstance(event, StreamConnected):
                    there.mark_ready(1)
                elif isinstance(event, DataReceived):
                    got[type(there)] += event.payload
                    there.consumed(1, len(event.payload))
                    if there is far and len(got[WorkerV1]) == len(request):
                        source.end = True
                        far.mark_ready(1)
                else:
                    ended.append(f"{type(there).__name__} {type(event).__name__}")
    assert got[WorkerV1] == request and got[ClientV1] == response
    assert ended == ["ClientV1 EofReceived", "WorkerV1 StreamClosed"]
    assert near.finished and far.open_streams == 0


def test_a_source_may_close_its_stream_with_bytes_in_hand() -> None:
    session, _ = worker()

    class Failing:
        def pull_into(self, view: memoryview) -> int | None:
            view[:3] = b"abc"
            session.close(1)
            return 3

    feed(session, Connect(1, "h", 1))
    session.accept(1, Failing())
    session.connected(1)
    session.mark_ready(1)
    assert drain(session) == [Connected(1), Close(1)]


def test_what_has_left_is_not_counted_as_waiting() -> None:
    session, _ = worker()
    for number in range(1, 3000):
        feed(session, DnsQuery(number, QUERY))
        session.dns_response(number, QUERY)
        assert len(drain(session)) == 1
    assert len(session.queries) == 0 and session.outbox.size == 0


def test_one_request_id_twice_in_flight() -> None:
    session, _ = worker(requests=2)
    assert len(feed(session, DnsQuery(1, QUERY), DnsQuery(1, QUERY))) == 2
    session.dns_response(1, b"a")
    assert drain(session) == [DnsResponse(1, b"a")]
    session.dns_response(1, b"b")
    assert drain(session) == [DnsResponse(1, b"b")]
    assert len(session.queries) == 0


def test_a_session_is_not_finished_while_something_waits() -> None:
    session, _ = connected_client()
    session.dns_query(1, QUERY)
    session.close(1)
    assert not session.finished
    assert drain(session) == [DnsQuery(1, QUERY), Close(1)]
    assert not session.finished
    feed(session, DnsResponse(1, b"a"))
    assert session.finished


def test_streams_expire_in_their_own_time() -> None:
    session, clock = worker()
    for number in (1, 2):
        feed(session, Connect(number, "h", 1))
        session.accept(number, Bytes(end=True))
        session.connected(number)
        session.mark_ready(number)
        drain(session)
    clock.now += 10
    feed(session, Data(1, b"x"))
    clock.now += 20
    assert session.take_events() == [StreamClosed(2)]
    assert session.deadline == clock.now + 10
    clock.now += 10
    assert session.take_events() == [StreamClosed(1)]
    assert session.deadline is None
