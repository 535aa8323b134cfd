"""Flow control and the windows that grow (PROTOCOL.md §4)."""

from __future__ import annotations

import pytest

from tests.kits.session import (
    WORKER,
    Bytes,
    Clock,
    broken,
    came,
    connected_client,
    connected_worker,
    drain,
    feed,
    worker,
)
from zks_lwip.protocol import (
    MAX_WINDOW,
    Ack,
    Budget,
    Close,
    Connect,
    Connected,
    Data,
    Eof,
    Frame,
    Hello,
    Ping,
    Pong,
    Role,
    Session,
    Settings,
    Unknown,
    Window,
)
from zks_lwip.protocol.credit import RoundTrip
from zks_lwip.protocol.receive_window import MAX_GROWTH, ReceiveWindow

# Credit


def test_sending_stops_at_the_credit() -> None:
    session = connected_client(Bytes(b"x" * 100), peer=Hello(window=30))
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"x" * 30)]
    assert feed(session, Window(1, 0)) == []
    assert drain(session) == []
    feed(session, Window(1, 5))
    assert session.has_output
    assert drain(session) == [Data(1, b"x" * 5)]
    feed(session, Window(1, 100))
    assert drain(session) == [Data(1, b"x" * 65)]


def test_the_peer_may_not_send_more_than_it_was_granted() -> None:
    session = connected_client(settings=Settings(window=10))
    assert feed(session, Data(1, b"x" * 4), Data(1, b"x" * 6)) == [
        came(1, b"x" * 4),
        came(1, b"x" * 6),
    ]
    broken(session, "DATA: 1 bytes for stream 1, its credit is 0", Data(1, b"x"))


def test_credit_that_has_not_left_is_not_granted_yet() -> None:
    session = connected_client(settings=Settings(window=10))
    feed(session, Data(1, b"x" * 10))
    session.consumed(1, 10)
    broken(session, "its credit is 0", Data(1, b"x"))


def test_window_at_a_quarter_and_coalesced() -> None:
    session = connected_client(settings=Settings(window=100), clock=(clock := Clock()))
    feed(session, Data(1, b"x" * 100))
    clock.now += 1
    session.consumed(1, 24)
    assert not session.has_output
    session.consumed(1, 1)
    clock.now += 1
    session.consumed(1, 75)
    frames = [frame for frame in drain(session) if not isinstance(frame, Ping)]
    assert frames == [Window(1, 100)]
    assert feed(session, Data(1, b"x" * 100))
    clock.now += 1
    session.consumed(1, 25)
    assert Window(1, 25) in drain(session)


def test_consuming_more_than_came() -> None:
    session = connected_client()
    feed(session, Data(1, b"xx"))
    session.consumed(1, 2)
    with pytest.raises(ValueError, match="1 bytes consumed of 0"):
        session.consumed(1, 1)
    with pytest.raises(ValueError):
        session.consumed(1, -1)


def test_no_window_after_eof() -> None:
    session = connected_client(settings=Settings(window=10))
    feed(session, Data(1, b"x" * 10))
    session.consumed(1, 5)
    feed(session, Eof(1))
    session.consumed(1, 5)
    assert not any(isinstance(frame, Window) for frame in drain(session))


def test_credit_over_the_limit() -> None:
    session = connected_client(peer=Hello(window=10))
    assert feed(session, Window(1, MAX_WINDOW - 10)) == []
    broken(session, "WINDOW: stream 1 would have 2147483648 bytes", Window(1, 1))
    session = connected_client(peer=Hello(window=MAX_WINDOW))
    broken(session, "WINDOW: ", Window(1, 2**32 - 1))


def test_largest_window() -> None:
    session = connected_client(settings=Settings(window=MAX_WINDOW), clock=(clock := Clock()))
    feed(session, Data(1, b"x" * 262144))
    clock.now += 0.001
    session.consumed(1, 262144)
    assert drain(session) == []


# Windows that grow


def fast_stream(budget: Budget | None = None, *, round_trip: float = 0.1) -> tuple[Session, Clock]:
    """A client with a round trip, in seconds, whose stream 1 has a window of 100,000."""
    clock = Clock()
    session = Session(Role.CLIENT, Settings(window=100_000), clock=clock, budget=budget)
    session.attach()
    drain(session)
    clock.now += round_trip
    feed(session, WORKER.hello(Role.WORKER))
    assert session.round_trip == pytest.approx(round_trip)
    session.connect("h", 1, Bytes())
    drain(session)
    feed(session, Connected(1))
    return session, clock


def granted(session: Session) -> int:
    return sum(frame.credit for frame in drain(session) if isinstance(frame, Window))


def test_window_grows_when_it_drains_within_four_round_trips() -> None:
    session, clock = fast_stream()
    feed(session, Data(1, bytes(100_000)))
    clock.now += 0.35
    session.consumed(1, 100_000)
    assert granted(session) == 200_000
    assert session.stats.windows_grown == 1
    feed(session, Data(1, bytes(200_000)))


def test_window_does_not_grow_for_a_slow_consumer() -> None:
    session, clock = fast_stream()
    feed(session, Data(1, bytes(100_000)))
    clock.now += 0.45
    session.consumed(1, 100_000)
    assert granted(session) == 100_000


def pace(session: Session, clock: Clock, seconds: float, rounds: int) -> int:
    """Drain whole windows, each in so many seconds; returns the last one's size."""
    window = 100_000
    feed(session, Data(1, b"x"))
    session.consumed(1, 1)
    credit = window - 1
    for _ in range(rounds):
        size = credit
        while credit:
            piece = min(credit, 262144)
            feed(session, Data(1, bytes(piece)))
            credit -= piece
        clock.now += seconds
        session.consumed(1, size)
        credit = granted(session)
    return credit


def test_window_grows_beyond_4_mib_on_a_long_fat_link_only() -> None:
    session, clock = fast_stream()
    assert pace(session, clock, 0.01, 12) > MAX_GROWTH
    session, clock = fast_stream(round_trip=0.002)
    assert pace(session, clock, 0.001, 12) <= MAX_GROWTH + 1


def test_budget_bounds_all_windows_together() -> None:
    """A lone stream may have half of it; what it has is as much as is left for the others."""
    budget = Budget(150_000)
    session, clock = fast_stream(budget)
    assert pace(session, clock, 0.01, 20) == pytest.approx(175_000, abs=2)
    assert budget.used == pytest.approx(75_000, abs=2)
    other, clock2 = fast_stream(budget)
    pace(other, clock2, 0.01, 20)
    assert budget.used <= 150_000
    session.close(1)
    other.close(1)
    assert budget.used == 0


def test_many_streams_share_the_budget_and_leave_some_for_the_next() -> None:
    budget = Budget(1 << 20)
    windows = [ReceiveWindow(1000, budget) for _ in range(50)]
    now = 0.0
    for _ in range(300):
        now += 0.001
        for window in windows:
            _drain(window, now)
    surplus = [window.size - window.initial for window in windows]
    fair = (1 << 20) / 51
    assert all(0.7 * fair < each < 1.3 * fair for each in surplus), surplus
    assert sum(surplus) == budget.used < 1 << 20
    newcomer = ReceiveWindow(1000, budget)
    for step in range(20):
        _drain(newcomer, now + 0.001 * step)
    assert newcomer.size > 9_000


def test_windows_shrink_where_others_need_the_budget() -> None:
    """Nothing is taken back: it is what has been consumed that is not granted again."""
    budget = Budget(1 << 20)
    window = ReceiveWindow(1000, budget)
    for step in range(20):
        _drain(window, 0.001 * step)
    grown = window.size
    assert grown > 500_000
    budget.take(400_000)  # by others
    assert window.available == grown
    sizes = []
    for step in range(20):
        _drain(window, 1.0 + 0.001 * step)
        sizes.append(window.size)
    assert sizes[0] < grown and sizes[-1] <= budget.left + 1000 + 2
    budget.take(10 << 20)
    for step in range(20):
        _drain(window, 2.0 + 0.001 * step)
    assert window.size == window.initial == window.available


def test_a_stream_starts_with_more_where_much_is_left() -> None:
    """In a WINDOW behind its CONNECT: before that one the stream is idle."""
    budget = Budget(128 << 20, opening=1 << 20)
    settings = Settings(window=16 << 10)
    session = Session(Role.CLIENT, settings, budget=budget)
    session.attach()
    drain(session)
    feed(session, WORKER.hello(Role.WORKER))
    session.connect("host.example", 1, Bytes())
    session.connect("2001:db8::1", 1, Bytes())
    sent = drain(session)
    assert [type(frame) for frame in sent] == [Connect, Window, Connect, Window]
    assert session.counted_sent == 4
    first = sent[1]
    assert isinstance(first, Window) and first.credit == (512 << 10) - (16 << 10)
    feed(session, Connected(1))
    feed(session, Data(1, bytes(256 << 10)), Data(1, bytes(256 << 10)))
    broken(session, "its credit is 0", Data(1, b"x"))
    assert budget.used == 0
    session = Session(Role.CLIENT, settings, budget=budget)
    session.attach()
    drain(session)
    feed(session, WORKER.hello(Role.WORKER))
    gone = session.connect("host.example", 1, Bytes())
    session.close(gone)
    assert drain(session) == [] and budget.used == 0
    budget.take(128 << 20)
    session.connect("host.example", 1, Bytes())
    assert [type(frame) for frame in drain(session)] == [Connect]


def test_a_window_that_starts_small_grows_at_once_where_it_is_too_small() -> None:
    """Quiet streams hold what they started with, and leave little for the start of others."""
    budget = Budget(128 << 20, opening=1 << 20)
    budget.take(124 << 20)
    window = ReceiveWindow(16 << 10, budget)
    assert window.open_up() == 0
    _drain(window, 1.0)
    window.since = 1.0
    _drain(window, 1.01)
    assert window.size == 1 << 20
    other = ReceiveWindow(16 << 10, budget)
    for now in (1.0, 11.0, 21.0):  # a slow consumer
        _drain(other, now)
    assert other.size == 16 << 10
    budget.take(budget.left - (100 << 10))
    other.since = 30.0
    _drain(other, 30.01)
    assert other.size == (16 << 10) + (50 << 10)  # half of what is left


def _drain(window: ReceiveWindow, now: float) -> None:
    """All that was granted comes, and is consumed within four round trips."""
    size = window.available
    assert window.take(size) and window.consume(size)
    window.grant(now, 0.1)
    window.hand_out()


def test_surplus_goes_back_when_the_consumer_turns_slow() -> None:
    budget = Budget()
    session, clock = fast_stream(budget)
    pace(session, clock, 0.01, 5)
    grown = budget.used
    assert grown > 1_000_000
    window = session.streams.open[1].window
    for _ in range(100):
        feed(session, Data(1, bytes(min(window.available, 262144))))
        clock.now += 10
        session.consumed(1, window.held)
        granted(session)
    assert budget.used == 0
    assert window.size == 100_000


def test_every_byte_of_a_window_is_somewhere() -> None:
    window = ReceiveWindow(1000, Budget())
    for held in (300, 600, 50):
        assert window.take(held)
        window.consume(held // 2)
        window.grant(1.0, 0.1)
        total = window.available + window.held + window.consumed + window.due
        assert total == window.size
    assert not window.take(window.available + 1)


def test_a_budget_that_is_a_part_of_another() -> None:
    whole = Budget(1000)
    parts = [Budget(600, parent=whole), Budget(600, parent=whole)]
    assert [part.left for part in parts] == [600, 600]
    parts[0].take(600)
    assert (whole.used, parts[0].left, parts[1].left) == (600, 0, 400)
    assert parts[1].room(0) == 200 and parts[0].room(600) == -300
    parts[1].take(400)
    assert parts[1].left == 0
    parts[0].give(600)
    assert (whole.used, parts[0].left, parts[1].left) == (400, 600, 200)


def test_the_end_gives_the_budget_back() -> None:
    budget = Budget()
    session, clock = fast_stream(budget)
    pace(session, clock, 0.01, 5)
    assert budget.used
    session.end()
    session.end()
    assert budget.used == 0 and session.open_streams == 0
    assert session.receive(Ping().encode()) == [] and session.next_message() is None


# ACK (of a session that does not resume), round trips


def test_ack_is_checked() -> None:
    session = connected_client(Bytes(b"x"))
    session.mark_ready(1)
    drain(session)
    assert feed(session, Ack(0), Ack(1), Ack(1), Ack(2)) == []
    broken(session, "ACK: 1 frames, not 2 to 2", Ack(1))
    session = connected_client()
    broken(session, "ACK: 2 frames, not 0 to 1", Ack(2))


def test_counted_frames_are_counted_as_they_are_taken() -> None:
    session = connected_worker()
    feed(session, Data(1, b""), Window(1, 0), Eof(1), Ping(), Ack(0))
    feed(session, Unknown(0x5F, 0, b""), Unknown(0x60, 0, b""), Close(1), Close(1))
    assert session.counted_taken == 1 + 3 + 1 + 2


def test_round_trip_by_ping() -> None:
    clock = Clock()
    session = worker(clock=clock)
    assert session.round_trip == 0.0
    session.ping()
    session.ping()
    assert drain(session) == [Ping()]
    clock.now += 0.2
    feed(session, Pong())
    assert session.round_trip == pytest.approx(0.2)
    clock.now += 5
    feed(session, Pong())
    assert session.round_trip == pytest.approx(0.2)


def test_a_busy_stream_has_the_round_trip_measured() -> None:
    clock = Clock()
    session = connected_worker(settings=Settings(window=1000), clock=clock)
    sent: list[Frame] = []
    for _ in range(5):
        feed(session, Data(1, bytes(1000)))
        session.consumed(1, 1000)
        sent += drain(session)
    assert sent.count(Ping()) == 1 and sent.count(Window(1, 1000)) == 5
    feed(session, Pong())
    clock.now += 2
    feed(session, Data(1, bytes(1000)))
    session.consumed(1, 1000)
    assert drain(session).count(Ping()) == 1


def test_round_trip_is_smoothed() -> None:
    trip = RoundTrip()
    trip.answered(5.0)
    assert trip.estimate == 0.0
    trip.sent(1.0)
    trip.answered(2.0)
    trip.sent(2.0)
    trip.answered(2.2)
    assert trip.estimate == pytest.approx(0.8)


def test_a_longer_round_trip_counts_at_once() -> None:
    """Or the windows stay too small for seconds, on a path that has become longer."""
    trip = RoundTrip()
    for begin, sample in ((1.0, 0.01), (2.0, 0.1)):
        trip.sent(begin)
        trip.answered(begin + sample)
        assert trip.estimate == pytest.approx(sample)


def test_the_first_round_trip_of_another_websocket_counts_alone() -> None:
    trip = RoundTrip()
    trip.sent(1.0)
    trip.answered(1.5)
    trip.sent(2.0)
    trip.lost()
    assert trip.estimate == pytest.approx(0.5)  # the best that is known
    trip.sent(3.0)
    trip.answered(3.02)
    assert trip.estimate == pytest.approx(0.02)
