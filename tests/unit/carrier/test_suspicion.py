"""When a silent path is suspected: as PROTOCOL.md §8 says, and not while anything is heard."""

from __future__ import annotations

import pytest

from zks_lwip.carrier.suspicion import Question, Suspicion, Uncounted


def suspected_at(
    events: dict[float, int | None] | None = None,
    *,
    heard: float = 0.0,
    since: float = 0.0,
    round_trip: float = 0.0,
    most: float = 60.0,
) -> float | None:
    """When a path is suspected, by looks that are taken when they are due.

    :param events: what TCP has acknowledged, by the time from which on.
    """
    events = events or {}
    suspicion, now = Suspicion(), 0.0
    looks = 0
    while now < most:
        known = [value for at, value in events.items() if at <= now]
        acknowledged = known[-1] if known else None
        if suspicion.step(now, since, heard, acknowledged, round_trip):
            return now
        looks += 1
        assert suspicion.due > now and looks < 1000
        now = suspicion.due
    return None


def test_two_seconds_of_silence_are_suspicious() -> None:
    assert suspected_at() == pytest.approx(2.0)
    assert suspected_at(since=1.0) == pytest.approx(3.0)
    assert suspected_at(heard=5.0) == pytest.approx(7.0)


@pytest.mark.parametrize(("round_trip", "at"), [(0.1, 2.0), (0.5, 2.0), (0.6, 2.4), (3.0, 12.0)])
def test_a_long_round_trip_takes_longer(round_trip: float, at: float) -> None:
    assert suspected_at(round_trip=round_trip) == pytest.approx(at)


def test_what_tcp_acknowledges_is_no_silence() -> None:
    slow = {second / 2: second for second in range(20)}  # a throttled link, until 9.5 s
    found = suspected_at(slow)
    assert found is not None and 11.5 <= found <= 11.8


def test_what_is_acknowledged_once_delays_once() -> None:
    found = suspected_at({0.0: 10, 1.1: 20})
    assert found is not None and 3.1 <= found <= 3.5
    assert suspected_at({0.0: 10}) == pytest.approx(2.0)


def test_a_peer_that_speaks_is_looked_at_seldom() -> None:
    suspicion = Suspicion()
    assert not suspicion.step(100.0, 99.9, 99.99, None, 0.01)
    assert suspicion.due == pytest.approx(100.99)


def test_what_was_acknowledged_before_the_silence_does_not_count() -> None:
    suspicion = Suspicion()
    assert not suspicion.step(90.0, 89.0, 89.5, 1000, 0.01)
    assert not suspicion.step(101.0, 100.0, 99.0, 2000, 0.01)
    assert suspicion.due == pytest.approx(101.25)
    assert suspicion.step(102.0, 100.0, 99.0, 2000, 0.01)


def silent_path(round_trip: float = 0.0, late: float = 0.0) -> tuple[float, float]:
    """When the peer is asked, and when the path is suspect, after a query that nothing follows.

    :param late: seconds by which the first look is late, as after a suspend.
    """
    unanswered, now = Uncounted(2.0, 0.0), late
    while True:
        now += 0.25
        question = unanswered.step(now, -1.0, 0.0, round_trip)
        if question is Question.PING:
            break
        assert question is Question.WAIT
    asked, suspicion = now, Suspicion()
    while not suspicion.step(now, unanswered.since, -1.0, None, round_trip):
        now = suspicion.due
    return asked, now


def test_a_query_that_waits_makes_a_path_suspect_no_later_than_data() -> None:
    assert silent_path() == pytest.approx((1.0, 2.0))


def test_the_answer_to_a_ping_is_waited_for_two_round_trips_at_least() -> None:
    assert silent_path(round_trip=3.0) == pytest.approx((6.0, 12.0))


def test_a_late_look_suspects_no_path_before_it_was_asked() -> None:
    assert silent_path(late=30.0) == pytest.approx((30.25, 31.25))


def test_what_is_answered_is_not_asked_about() -> None:
    unanswered = Uncounted(2.0, 10.0)
    assert unanswered.step(10.25, 9.0, 10.0, 0.0) is Question.WAIT
    assert unanswered.step(10.50, 10.4, 10.45, 0.0) is Question.WAIT  # another query, meanwhile
    assert unanswered.step(11.25, 10.4, 11.2, 0.0) is Question.WAIT
    assert unanswered.step(11.40, 11.3, 11.2, 0.0) is Question.NONE
