"""Happy Eyeballs: when attempts start, which wins, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from zks_lwip.net.happy_eyeballs import ATTEMPT_DELAY, interleave, race


class Network:
    """Addresses by what becomes of an attempt: seconds until it connects, or until it fails."""

    def __init__(self, **fates: float | tuple[float, Exception]) -> None:
        self.fates = fates
        self.started: list[tuple[str, float]] = []
        self.failed: list[str] = []
        self.discarded: list[str] = []
        self.cancelled: list[str] = []

    async def connect(self, address: str) -> str:
        self.started.append((address, round(trio.current_time() - self.began, 3)))
        fate = self.fates[address]
        try:
            if isinstance(fate, tuple):
                await trio.sleep(fate[0])
                raise fate[1]
            await trio.sleep(fate)
        except trio.Cancelled:
            self.cancelled.append(address)
            raise
        return f"to {address}"

    async def discard(self, connection: str) -> None:
        self.discarded.append(connection)

    async def race(
        self,
        addresses: Callable[[], list[str]] | None = None,
        more: tuple[trio.Event, ...] = (),
        delay: float = ATTEMPT_DELAY,
    ) -> str | None:
        self.began = trio.current_time()
        return await race(
            addresses or (lambda: list(self.fates)),
            self.connect,
            errors=OSError,
            failed=lambda address, _: self.failed.append(address),
            discard=self.discard,
            more=more,
            delay=delay,
        )


async def test_the_next_attempt_starts_after_the_delay(autojump_clock: object) -> None:
    network = Network(a=9.0, b=9.0, c=0.1)
    assert await network.race() == "to c"
    assert network.started == [("a", 0.0), ("b", 0.25), ("c", 0.5)]
    assert network.cancelled == ["a", "b"] or network.cancelled == ["b", "a"]
    assert not network.failed and not network.discarded


async def test_a_failure_starts_the_next_attempt_at_once(autojump_clock: object) -> None:
    network = Network(a=(0.1, OSError()), b=(0.0, OSError()), c=0.0)
    assert await network.race(delay=20.0) == "to c"
    assert network.started == [("a", 0.0), ("b", 0.1), ("c", 0.1)]
    assert network.failed == ["a", "b"]


async def test_a_late_failure_of_an_earlier_attempt_counts_too(autojump_clock: object) -> None:
    network = Network(a=(1.5, OSError()), b=9.0, c=0.0)
    assert await network.race(delay=1.0) == "to c"
    assert network.started == [("a", 0.0), ("b", 1.0), ("c", 1.5)]


async def test_an_earlier_attempt_may_win_late(autojump_clock: object) -> None:
    network = Network(a=0.6, b=9.0)
    assert await network.race() == "to a"
    assert network.started == [("a", 0.0), ("b", 0.25)]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_all_fail(autojump_clock: object, count: int) -> None:
    network = Network(**{f"a{number}": (0.1, OSError()) for number in range(count)})
    assert await network.race() is None
    assert network.failed == list(network.fates)


async def test_of_two_that_connect_at_once_one_is_discarded(autojump_clock: object) -> None:
    network = Network(a=1.0, b=1.0)
    both = trio.Event()

    async def connect(address: str) -> str:
        with trio.CancelScope(shield=True):  # it connects although the race is over
            network.started.append((address, 0.0))
            if len(network.started) == 2:
                both.set()
            await both.wait()
        return address

    won = await race(
        lambda: ["a", "b"],
        connect,
        errors=OSError,
        failed=lambda *_: None,
        discard=network.discard,
    )
    assert sorted([won or "", *network.discarded]) == ["a", "b"]


@pytest.mark.parametrize("others", [{}, {"b": 9.0}])
async def test_another_exception_ends_the_race_as_it_is(
    autojump_clock: object, others: dict[str, float]
) -> None:
    network = Network(a=(0.1, ValueError("not one to be tried again")), **others)
    with pytest.raises(ValueError, match="again"):
        await network.race(delay=0.05)
    assert network.cancelled == list(others)


async def test_a_cancellation_leaves_nothing_open(autojump_clock: object) -> None:
    network = Network(a=9.0, b=9.0)
    with trio.move_on_after(1.0) as scope:
        await network.race()
    assert scope.cancelled_caught and sorted(network.cancelled) == ["a", "b"]


async def test_a_winner_is_discarded_where_the_race_is_cancelled(autojump_clock: object) -> None:
    network = Network(a=9.0, b=9.0)

    async def connect(address: str) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(2.0)
        return address

    with trio.move_on_after(1.0) as scope:
        await race(
            lambda: ["a", "b"],
            connect,
            errors=OSError,
            failed=lambda *_: None,
            discard=network.discard,
        )
    assert scope.cancelled_caught and sorted(network.discarded) == ["a", "b"]


async def test_addresses_that_come_later_join(autojump_clock: object) -> None:
    network = Network(a=9.0, late=0.1)
    event = trio.Event()

    async def look_up() -> None:
        await trio.sleep(3.0)
        event.set()

    def known() -> list[str]:
        return ["late", "a"] if event.is_set() else ["a"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_up)
        assert await network.race(known, (event,)) == "to late"
    assert network.started == [("a", 0.0), ("late", 3.0)]


async def test_it_waits_for_addresses_while_none_are_known(autojump_clock: object) -> None:
    network = Network(a=(0.1, OSError()))
    events = (trio.Event(), trio.Event())

    async def look_up() -> None:
        await trio.sleep(1.0)
        events[0].set()
        await trio.sleep(1.0)
        events[1].set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_up)
        known: Callable[[], list[str]] = lambda: ["a"] if events[0].is_set() else []  # noqa: E731
        assert await network.race(known, events) is None
    assert network.started == [("a", 1.0)] and trio.current_time() >= network.began + 2.0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], [], []),
        ([6], [], [6]),
        ([], [4, 4], [4, 4]),
        ([6, 60, 600], [4], [6, 4, 60, 600]),
        ([6], [4, 40, 400], [6, 4, 40, 400]),
    ],
)
def test_families_alternate(first: list[int], second: list[int], expected: list[int]) -> None:
    assert interleave(first, second) == expected
