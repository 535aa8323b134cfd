"""When a silent path is suspected: as PROTOCOL.md §8 says, and not while anything is heard."""

from __future__ import annotations

import pytest

from zks_lwip.carrier.suspicion import Suspicion


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
