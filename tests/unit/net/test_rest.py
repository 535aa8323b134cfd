"""Tasks that wait for a descriptor or a time, many by one of trio's."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.kits.until import until
from tests.kits.worker import open_descriptors
from zks_lwip.net.rest import Rest

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Time passes when nothing else happens."""
    return trio.testing.MockClock(autojump_threshold=0.01)


async def test_it_ends_when_something_comes(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Rest(ours.fileno()).wait)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        theirs.send(b"x")
    await Rest(ours.fileno()).wait()  # it is there already
    assert ours.recv(10) == b"x"


async def test_it_ends_when_the_peer_leaves(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Rest(ours.fileno()).wait)
        await trio.testing.wait_all_tasks_blocked()
        theirs.close()


async def test_each_ends_at_its_time(clock: trio.testing.MockClock) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    ended: list[tuple[int, float]] = []
    begin = trio.current_time()

    async def wait(index: int, seconds: float) -> None:
        await Rest(pairs[index][0].fileno(), begin + seconds).wait()
        ended.append((index, trio.current_time() - begin))

    async with trio.open_nursery() as nursery:
        for index, seconds in enumerate((30.0, 10.0, math.inf, 20.0)):
            nursery.start_soon(wait, index, seconds)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100)
        assert [index for index, _ in ended] == [1, 3, 0]
        for (_, when), due in zip(ended, (10, 20, 30), strict=True):
            assert due <= when < due + 1
        nursery.cancel_scope.cancel()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


async def test_it_is_ended_and_cancelled(pair: Pair) -> None:
    ours, _ = pair
    for cancelled in (False, True, False):  # nothing of the one before is left
        rest = Rest(ours.fileno(), trio.current_time() + 600)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rest.wait)
                await trio.testing.wait_all_tasks_blocked()
                assert nursery.child_tasks
                if cancelled:
                    nursery.cancel_scope.cancel()
                else:
                    rest.end()
        rest.end()  # once more
    early = Rest(ours.fileno())
    early.end()
    with trio.fail_after(30):
        await early.wait()


async def test_many_that_wake_often_leave_nothing_behind() -> None:
    """Also of descriptors that were closed, and whose numbers are another's."""
    before, tasks = open_descriptors(), trio.lowlevel.current_statistics().tasks_living
    for _ in range(300):
        ours, theirs = socket.socketpair()
        rest = Rest(ours.fileno(), trio.current_time() + 600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rest.wait)
            await trio.testing.wait_all_tasks_blocked(0.0)
            rest.end()
            ours.close()
            theirs.close()
    await until(lambda: open_descriptors() <= before)
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_what_the_kernel_cannot_watch_is_left_to_trio() -> None:
    with open(__file__, "rb") as file, pytest.raises(OSError):
        await Rest(file.fileno()).wait()
