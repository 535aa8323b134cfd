"""Descriptors that are watched where trio would sleep."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from zks_lwip.net.watch import poll_watched, watch

Pair = tuple[socket.socket, socket.socket]


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


class Passes(trio.abc.Instrument):
    """Counts how often trio looks for events."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def reader(
    sock: socket.socket, until: bytes, then: Callable[[bytes], object]
) -> Callable[[], bool]:
    """Return a callback that reads, and is done when ``until`` comes."""

    def read() -> bool:
        got = sock.recv(100)
        then(got)
        return got == until

    return read


async def test_what_comes_is_told_until_the_callback_is_done(pair: Pair) -> None:
    ours, theirs = pair
    came: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, ours.fileno(), reader(ours, b"end", came.append))
        for word in (b"one", b"two", b"end"):
            theirs.send(word)
            with trio.fail_after(30):
                while word not in came:
                    await trio.sleep(0.001)
    theirs.send(b"more")  # is not for it any more
    await trio.sleep(0.001)
    assert came == [b"one", b"two", b"end"]


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="Linux's epoll")
async def test_no_task_runs_while_callbacks_answer_each_other(pair: Pair) -> None:
    """Two ends of a connection play ball, a thousand times."""
    ours, theirs = pair
    theirs.setblocking(False)
    steps, balls = Steps(), 0

    def play(sock: socket.socket) -> bool:
        nonlocal balls
        sock.send(sock.recv(1))
        balls += 1
        return balls >= 1000

    async with trio.open_nursery() as nursery:
        for sock in pair:
            nursery.start_soon(watch, sock.fileno(), lambda sock=sock: play(sock))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        theirs.send(b".")
        with trio.fail_after(30):
            while balls < 1000:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(steps)
    assert steps.count < 500


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="Linux's epoll")
async def test_trio_has_no_pass_for_callbacks_between_which_nothing_is_ready(pair: Pair) -> None:
    """The peer answers a while after each ball: to nothing that is ready a pass would be due.

    One is due after a callback that has been held up, by a machine that is busy.
    """
    ours, theirs = pair
    passes, done = Passes(), trio.Event()
    balls = held_up = 0

    def play() -> bool:
        nonlocal balls, held_up
        began = time.perf_counter()
        ours.recv(1)
        balls += 1
        while time.perf_counter() - began < 0.0004:  # five such are a turn
            pass
        ours.send(b".")
        held_up += time.perf_counter() - began > 0.001
        if balls == 400:
            done.set()
        return balls >= 400

    def answer() -> None:
        while theirs.recv(1):
            time.sleep(0.0005)
            theirs.send(b".")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, answer, abandon_on_cancel=True))
            nursery.start_soon(watch, ours.fileno(), play)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(passes)
            ours.send(b".")
            await done.wait()
            ours.shutdown(socket.SHUT_WR)
    trio.lowlevel.remove_instrument(passes)
    assert passes.count - held_up < 50


async def test_a_task_that_a_callback_wakes_runs_before_more_comes(pair: Pair) -> None:
    ours, theirs = pair
    came = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, ours.fileno(), reader(ours, b"", lambda _: came.set()))
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"one")
            await came.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="Linux's epoll")
async def test_a_busy_task_has_callbacks_called_until_others_are_to_run(pair: Pair) -> None:
    ours, theirs = pair
    came = b""
    woken = trio.Event()

    def read() -> bool:
        nonlocal came
        with suppress(BlockingIOError):
            came += ours.recv(100)
        return False

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, ours.fileno(), read)
            nursery.start_soon(woken.wait)
            await trio.testing.wait_all_tasks_blocked()
            while poll_watched():  # only for so long
                pass
            assert not came
            went_on = False
            while not went_on:  # unless this machine holds it up for so long each time
                await trio.lowlevel.checkpoint()
                came = b""
                theirs.send(b"1")
                went_on = poll_watched()
            assert came.strip(b"1") == b"" != came
            woken.set()
            theirs.send(b"2")
            assert not poll_watched()
            assert b"2" not in came
            while b"2" not in came:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="Linux's epoll")
async def test_a_busy_task_learns_that_trio_has_something_to_do(pair: Pair) -> None:
    ours, theirs = pair
    mine, other = socket.socketpair()
    with mine, other:
        mine.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, ours.fileno(), reader(ours, b"end", len))
            nursery.start_soon(trio.lowlevel.wait_readable, mine)
            await trio.testing.wait_all_tasks_blocked()
            await trio.lowlevel.checkpoint()
            other.send(b"x")
            assert not poll_watched()
            theirs.send(b"end")


async def test_without_a_descriptor_that_is_watched_a_busy_task_lets_others_run() -> None:
    assert not poll_watched()


async def test_a_callback_may_bring_a_deadline_forward(pair: Pair) -> None:
    ours, theirs = pair
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                def hurry(_: bytes) -> None:
                    scope.deadline = trio.current_time() + 0.01

                nursery.start_soon(watch, ours.fileno(), reader(ours, b"", hurry))
                await trio.testing.wait_all_tasks_blocked()
                theirs.send(b"one")
                await trio.sleep_forever()
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()


async def test_a_deadline_that_passes_during_a_callback_is_seen(pair: Pair) -> None:
    ours, theirs = pair
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, ours.fileno(), reader(ours, b"", lambda _: time.sleep(0.02)))
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"one")
            with trio.move_on_after(0.01):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()


async def test_other_descriptors_and_deadlines_are_seen_meanwhile(pair: Pair) -> None:
    ours, _ = pair
    one, other = trio.socket.socketpair()
    with one, other, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, ours.fileno(), reader(ours, b"", lambda _: None))

            async def answer() -> None:
                await other.send(await other.recv(1))

            nursery.start_soon(answer)
            await trio.sleep(0.001)
            await one.send(b"x")
            assert await one.recv(1) == b"x"
            assert await trio.to_thread.run_sync(lambda: 1) == 1
            nursery.cancel_scope.cancel()


async def test_what_a_callback_raises_is_raised(pair: Pair) -> None:
    ours, theirs = pair

    def fail() -> bool:
        raise OSError("broken")

    theirs.send(b"one")
    with pytest.raises(OSError, match="broken"):
        await watch(ours.fileno(), fail)


async def test_it_ends_when_the_descriptor_is_closed() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await watch(ours.fileno(), lambda: False)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            ours.close()


async def test_idle_tasks_are_found_idle_while_a_descriptor_is_watched(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = pair
    came: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, ours.fileno(), reader(ours, b"", came.append))
        autojump_clock.autojump_threshold = 0.01
        begin = trio.current_time()
        await trio.sleep(3600)
        assert trio.current_time() - begin >= 3600
        theirs.send(b"one")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert came == [b"one"]
        nursery.cancel_scope.cancel()


def test_where_trio_waits_in_another_thread_tasks_call_back(pair: Pair) -> None:
    """In guest mode nothing waits in trio's place: the task of the descriptor does all."""
    ours, theirs = pair
    came: list[bytes] = []

    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, ours.fileno(), reader(ours, b"end", came.append))
                await trio.sleep(0.001)
                for word in (b"one", b"end"):
                    theirs.send(word)
                    while word not in came:
                        await trio.sleep(0.001)

    calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    ends: list[Callable[[], object]] = []
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=calls.put,
        done_callback=lambda outcome: ends.append(outcome.unwrap),
    )
    while not ends:
        calls.get(timeout=60)()
    ends[0]()
    assert came == [b"one", b"end"]
