"""Attempts beside each other, on a clock that jumps: when they are made, and which one wins."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from zks_lwip.errors import AuthError, WorkerUnreachable, ZksError
from zks_lwip.net.backoff import Backoff
from zks_lwip.tunnel.attempts import MAX_PENDING, Attempts, Overtaken, outage_interval

SILENCE = WorkerUnreachable("no answer", answered=False)
REFUSAL = WorkerUnreachable("refused")


class Path:
    """A path to a worker that is silent but for some time, and what happens on it.

    :param round_trip: seconds until a SYN is answered, and again until the upgrade is.
    """

    def __init__(self, *, back: float = math.inf, round_trip: float = 0.01) -> None:
        self.back = back
        self.round_trip = round_trip
        self.begun: list[float] = []
        self.open = 0
        self.discarded: list[int] = []
        self.failures: list[tuple[ZksError, float | None]] = []
        self.upgrades = True  #: what takes the connection upgrades it, too

    async def attempt(self, number: int, answered: Callable[[], None]) -> int:
        self.begun.append(trio.current_time())
        self.open += 1
        try:
            if trio.current_time() < self.back:
                await trio.sleep_forever()  # its SYN is lost
            await trio.sleep(self.round_trip)
            answered()
            if not self.upgrades:
                await trio.sleep_forever()
            await trio.sleep(self.round_trip)
            return number
        finally:
            self.open -= 1

    async def discard(self, number: int) -> None:
        self.discarded.append(number)

    def failed(self, error: ZksError, delay: float | None) -> None:
        self.failures.append((error, delay))

    def attempts(
        self, attempt: Callable[[int, Callable[[], None]], Awaitable[int]] | None = None, **how: Any
    ) -> Attempts[int]:
        began = trio.current_time()
        options = {
            "interval": lambda: outage_interval(trio.current_time() - began),
            "backoff": Backoff(1.0, 8.0, jitter=0.0),
            "failed": self.failed,
            "discard": self.discard,
        }
        return Attempts(attempt or self.attempt, **(options | how))


def test_the_interval_grows_with_the_outage() -> None:
    assert [outage_interval(age) for age in (0.0, 1.0, 5.0, 20.0, 90.0)] == [
        0.025,
        0.025,
        0.025,
        0.1,
        0.45,
    ]


async def test_one_attempt_is_enough_where_it_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    path = Path(back=0.0)
    attempts = path.attempts()
    assert await attempts.run() == 0
    assert (attempts.made, attempts.pending, path.open) == (1, 0, 0)


@pytest.mark.parametrize("outage", [0.2, 5.0, 20.0, 90.0])
@pytest.mark.parametrize("round_trip", [0.001, 0.05, 0.3, 2.0])
async def test_the_return_of_the_network_is_noticed_at_once(
    autojump_clock: trio.testing.MockClock, outage: float, round_trip: float
) -> None:
    began = trio.current_time()
    path = Path(back=began + outage, round_trip=round_trip)
    attempts = path.attempts()
    with trio.fail_after(outage + 60):
        await attempts.run()
    late = trio.current_time() - path.back
    # Two round trips are the attempt's own. One that takes longer than 16 attempts stay under way
    # is met by those that are kept, whose ages are spread.
    exact = round_trip * 2 <= MAX_PENDING / 4 * outage_interval(outage)
    assert late <= outage_interval(outage) + round_trip * (2 if exact else 5)
    assert path.open == 0


async def test_never_more_than_sixteen_are_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    path = Path()
    attempts = path.attempts()
    most = 0
    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempts.run)
            while True:
                await trio.sleep(0.01)
                most = max(most, path.open)
    assert most == MAX_PENDING == 16
    assert path.open == 0
    assert 200 < len(path.begun) < 800


async def test_what_was_answered_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """A worker that takes connections and upgrades none is not asked twenty times a second."""
    path = Path(back=0.0, round_trip=0.0)
    path.upgrades = False
    attempts = path.attempts()
    began = trio.current_time()
    with trio.move_on_after(20):
        await attempts.run()
    assert [round(at - began, 2) for at in path.begun] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5]


@pytest.mark.parametrize(("back", "outage"), [(0.0, False), (0.03, True), (3.0, True)])
async def test_an_outage_is_known_by_what_was_not_answered(
    back: float, outage: bool, autojump_clock: trio.testing.MockClock
) -> None:
    path = Path(back=trio.current_time() + back)
    attempts = path.attempts()
    assert not attempts.outage
    seen: list[bool] = []

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        def note() -> None:
            answered()
            seen.append(attempts.outage)

        return await path.attempt(number, note)

    attempts = path.attempts(attempt)
    await attempts.run()
    assert seen[0] is outage


async def test_a_network_that_was_not_there_is_an_outage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def attempt(number: int, answered: Callable[[], None]) -> int:
        if number < 2:
            raise SILENCE
        assert not attempts.outage  # no worker has answered yet
        answered()
        assert attempts.outage
        return number

    attempts = Path().attempts(attempt)
    assert await attempts.run() == 2


async def test_refusals_are_met_with_growing_delays(autojump_clock: trio.testing.MockClock) -> None:
    begun: list[float] = []

    async def refuse(number: int, answered: Callable[[], None]) -> int:
        begun.append(trio.current_time() - began)
        if number < 5:
            raise REFUSAL if number % 2 else AuthError("no")
        return number

    path = Path()
    began = trio.current_time()
    assert await path.attempts(refuse).run() == 5
    assert begun == pytest.approx([0.0, 1.0, 3.0, 7.0, 15.0, 23.0])
    assert [delay for _, delay in path.failures] == [1.0, 2.0, 4.0, 8.0, 8.0]


async def test_many_that_are_refused_together_count_as_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    back = trio.current_time() + 1.0

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        path.begun.append(trio.current_time())
        await trio.sleep_until(back)
        raise REFUSAL

    path = Path()
    with trio.move_on_after(1.5):
        await path.attempts(attempt).run()
    assert len(path.begun) > 16
    assert [delay for _, delay in path.failures] == [1.0]


async def test_silence_that_is_told_does_not_delay(autojump_clock: trio.testing.MockClock) -> None:
    """No route: the system says so at once, and may have one in a moment."""

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        if number < 10:
            raise SILENCE
        return number

    path = Path()
    began = trio.current_time()
    assert await path.attempts(attempt).run() == 10
    assert trio.current_time() - began == pytest.approx(0.25)
    assert path.failures == [(SILENCE, None)] * 10


async def test_without_a_backoff_a_refusal_is_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def attempt(number: int, answered: Callable[[], None]) -> int:
        if number < 2:
            raise SILENCE
        raise REFUSAL

    path = Path()
    with pytest.raises(WorkerUnreachable, match="refused"):
        await path.attempts(attempt, backoff=None).run()
    assert len(path.failures) == 2


async def test_a_bug_is_raised_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async def attempt(number: int, answered: Callable[[], None]) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await Path().attempts(attempt).run()


async def test_a_second_success_is_discarded(autojump_clock: trio.testing.MockClock) -> None:
    at = trio.current_time() + 0.08

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep_until(at)
        return number

    path = Path()
    won = await path.attempts(attempt).run()
    assert sorted([won, *path.discarded]) == [0, 1, 2, 3]


@pytest.mark.parametrize("round_trip", [0.05, 0.15, 0.25])
async def test_those_that_are_young_are_kept(
    autojump_clock: trio.testing.MockClock, round_trip: float
) -> None:
    """Which of them was the first to arrive is not known before it is answered."""
    path = Path()
    path.back = trio.current_time() + 5.0

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        path.begun.append(trio.current_time())
        if path.begun[-1] < path.back:
            await trio.sleep_forever()
        await trio.sleep(round_trip)
        return number

    with trio.fail_after(60):
        won = await path.attempts(attempt, young=0.3).run()
    assert path.begun[won - 1] < path.back <= path.begun[won], "the first that could succeed"
    assert trio.current_time() <= path.back + outage_interval(5.0) + round_trip + 0.001


async def test_after_one_that_was_overtaken_all_are_made_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def attempt(number: int, answered: Callable[[], None]) -> int:
        path.begun.append(trio.current_time())
        if number == 2:
            await trio.sleep(0.03)
            raise Overtaken("another has been heard")
        if number < 4:
            path.open += 1
            try:
                await trio.sleep(1)
            finally:
                path.open -= 1
            return number
        left.append(path.open)
        return number

    left: list[int] = []
    path = Path()
    assert await path.attempts(attempt).run() == 4
    assert left == [0], "none of those before is under way"
    assert path.begun[4] - path.begun[3] <= outage_interval(0.0) + 0.001
    assert [delay for _, delay in path.failures] == [None]


async def test_retry_gives_up_what_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Of another network, or of a refusal."""

    async def attempt(number: int, answered: Callable[[], None]) -> int:
        path.begun.append(trio.current_time())
        if number < 3:
            raise REFUSAL
        if trio.current_time() < back:
            await trio.sleep_forever()
        return number

    path = Path()
    began, back = trio.current_time(), trio.current_time() + 4.0
    async with trio.open_nursery() as nursery:
        attempts = path.attempts(attempt)
        nursery.start_soon(attempts.run)
        await trio.sleep(3.5)  # three refusals, and more than three seconds of a delay of four
        assert len(path.begun) == 3
        attempts.retry()
        await trio.sleep(0.01)
        assert len(path.begun) == 4 and attempts.pending == 1
        await trio.sleep(0.39)
        pending = attempts.pending
        assert pending > 4
        attempts.retry()
        await trio.sleep(0.001)
        assert attempts.pending == 1
    assert trio.current_time() - began == pytest.approx(4.0, abs=0.06)


async def test_cancelled_it_leaves_nothing_open(autojump_clock: trio.testing.MockClock) -> None:
    async def attempt(number: int, answered: Callable[[], None]) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return number

    path = Path()
    with trio.move_on_after(0.06) as scope:
        await path.attempts(attempt).run()
    assert scope.cancelled_caught
    assert sorted(path.discarded) == [0, 1, 2]
