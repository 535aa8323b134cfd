"""When a peer is pinged and when it is dead, without sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zks_lwip.carrier.liveness import ALONE, Liveness, Others, Verdict

QUIET, PATIENCE, MAX_PATIENCE = 15.0, 10.0, 120.0
START = 1000.0
PING_AT = START + QUIET

Acknowledged = Callable[[float], "int | None"]


def death(
    acknowledged: Acknowledged,
    *,
    end: int | None = None,
    heard: Callable[[float], float] = lambda now: START,
    others: Callable[[float], Others] = lambda now: ALONE,
    until: float = START + 1000,
) -> float | None:
    """When the peer of a connection is found dead, which was last heard at START.

    ``end`` is where the ping ends in what was written.
    """
    liveness = Liveness(QUIET, PATIENCE, MAX_PATIENCE)
    now, pings = START, 0
    while now < until:
        verdict = liveness.step(now, heard(now), acknowledged(now), others(now))
        if verdict is Verdict.DEAD:
            return now
        if verdict is Verdict.PING:
            pings += 1
            liveness.pinged(end)
        assert liveness.due > now, "a busy loop"
        assert liveness.due <= now + QUIET, "too long a sleep"
        now = liveness.due
    assert pings
    return None


@pytest.mark.parametrize("count", [None, 0, 5000])
def test_silence_without_acknowledgements(count: int | None) -> None:
    assert death(lambda now: count) == PING_AT + PATIENCE


def test_nothing_is_asked_of_who_talks() -> None:
    liveness = Liveness(QUIET, PATIENCE)
    for second in range(100):
        now = START + second
        assert liveness.step(now, now - 1, None) is Verdict.WAIT
        assert liveness.due == now - 1 + QUIET


def test_a_ping_behind_data_that_is_acknowledged_is_on_its_way() -> None:
    """8 kB a second, and the ping stands 400 kB behind."""
    answered = PING_AT + 50
    assert death(
        lambda now: int(8000 * (now - START)),
        end=int(8000 * QUIET) + 400_000,
        heard=lambda now: answered if now > answered else START,
        until=answered + QUIET,
    ) is None  # fmt: skip


def test_a_link_that_breaks_while_the_ping_is_on_its_way() -> None:
    broken = PING_AT + 20
    found = death(lambda now: int(8000 * (min(now, broken) - START)), end=1 << 30)
    assert found is not None
    assert broken + PATIENCE <= found <= broken + 1.2 * PATIENCE


def test_a_stopped_process_whose_kernel_acknowledges() -> None:
    """What is acknowledged behind the ping is no life: the ping has arrived, and no answer came."""
    position = 1_000_000
    found = death(lambda now: position + int(8000 * (now - PING_AT)), end=position)
    assert found is not None and found <= PING_AT + 1.2 * PATIENCE


def test_the_answer_has_its_time_from_the_arrival_of_the_ping() -> None:
    arrival = PING_AT + 30
    rate = 100_000 / (arrival - START)
    found = death(lambda now: int(rate * (now - START)), end=100_000)
    assert found is not None
    assert arrival + PATIENCE <= found <= arrival + 1.3 * PATIENCE


@pytest.mark.parametrize("end", [None, 1 << 40])
def test_it_is_bounded_whatever_is_acknowledged(end: int | None) -> None:
    """Behind a proxy all that is acknowledged counts; a hostile peer acknowledges byte by byte."""
    assert death(lambda now: int(now * 1000), end=end) == PING_AT + MAX_PATIENCE


def test_zero_window_probes_are_no_progress() -> None:
    """The peer's kernel answers them for ever, with the same number."""
    closed = PING_AT + 3
    found = death(lambda now: int(1e6 * (min(now, closed) - START)), end=1 << 40)
    assert found is not None and found <= closed + 1.2 * PATIENCE


def test_a_count_that_falls_is_no_progress() -> None:
    """Where it is an estimate (macOS), what TLS adds to what was written makes it fall."""
    assert death(lambda now: -int(now), end=None) == PING_AT + PATIENCE


def test_an_idle_connection_beside_a_slow_one() -> None:
    """Its acknowledgements stand in the same queue: 25 s, as the other connections see."""
    found = death(lambda now: 0, others=lambda now: Others(25.0, START))
    assert found is not None
    assert PING_AT + 50 <= found <= PING_AT + 50 + PATIENCE
    found = death(lambda now: 0, others=lambda now: Others(500.0, START))
    assert found == PING_AT + MAX_PATIENCE


def test_an_idle_connection_while_others_are_heard() -> None:
    """A busy download of others: its queue holds the pong, and no round trip tells for how long."""
    found = death(lambda now: 0, others=lambda now: Others(0.0, now))
    assert found is not None
    assert PING_AT + 4 * PATIENCE <= found <= PING_AT + 5 * PATIENCE
    # What was heard of them before the ping says nothing.
    assert death(lambda now: 0, others=lambda now: Others(0.0, PING_AT)) == PING_AT + PATIENCE


def test_after_an_answer_all_begins_again() -> None:
    answers = [PING_AT + 3, PING_AT + 3 + QUIET + 4]

    def heard(now: float) -> float:
        return max([START, *(each for each in answers if each <= now)])

    found = death(lambda now: 7, heard=heard)
    assert found is not None
    assert found == pytest.approx(answers[-1] + QUIET + PATIENCE, abs=PATIENCE / 4)
