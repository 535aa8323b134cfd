"""Call back when a descriptor is readable, as soon as trio would sleep, without waking a task.

A wake-up through trio costs some 25 µs: it takes the events, puts a task in line, runs it through
all its frames, and asks the kernel again for the next event. A byte that goes to a far end and back
needs four of them. Here a callback is called where trio is about to wait (an instrument's
``before_io_wait``): the wait is done there, for the watched descriptors and for trio's own epoll
together, so that whatever else becomes ready ends it.

A task that is busy for long, such as one that sends, looks now and then by :func:`poll_watched`,
which costs a tenth of a pass through the scheduler.

Nothing depends on that. A task waits for each descriptor as well, by ``wait_readable``: where tasks
are about to run, on other systems, and with a version of trio that keeps its epoll elsewhere, it is
this task that calls. Closing and cancelling work as with ``wait_readable``.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from dataclasses import dataclass

import trio

__all__ = ["is_direct", "poll_watched", "watch"]

_BATCH = 64
"""Descriptors that are taken from the kernel at a time."""
_TURN = 0.002
"""Seconds of callbacks, after which tasks whose descriptors are ready have their turn."""
_ASLEEP = 20e-6
"""Seconds that a wait takes at least in which nothing was ready, and so no task waited for that."""
_MAX_IDLE = 60.0
"""Seconds, more than a test waits for all tasks to be idle, and less than trio waits at most."""


async def watch(fd: int, callback: Callable[[], bool]) -> None:
    """Call ``callback`` whenever a descriptor is readable, until it returns True.

    It is called again as long as the descriptor is readable. It must not wait, and may find
    nothing to read. Between its calls there may be no task that runs.

    :raises trio.ClosedResourceError: the descriptor was closed, and trio was told.
    :raises Exception: what the callback has raised.
    """
    with trio.CancelScope() as scope:
        entry = _Watched(fd, callback, scope)
        waiter = _waiter()
        if waiter is not None:
            waiter.add(entry)
        try:
            while not entry.over:
                await trio.lowlevel.wait_readable(fd)
                entry.call()
        finally:
            if waiter is not None:
                waiter.remove(entry)
    if entry.error is not None:
        raise entry.error


def is_direct() -> bool:
    """Return whether callbacks are called where trio would sleep, or else by tasks."""
    return _waiter() is not None


def poll_watched() -> bool:
    """Call the callbacks that are due, in a task that has more to do; never in one of them.

    :returns: whether the task may go on; if not, others are to run: it has to pass a checkpoint.
    """
    waiter = _waiter()
    return waiter is not None and waiter.poll()


class _Watched:
    """A watched descriptor."""

    __slots__ = ("_callback", "_scope", "error", "fd", "over")

    def __init__(self, fd: int, callback: Callable[[], bool], scope: trio.CancelScope) -> None:
        self.fd = fd
        self._callback = callback
        self._scope = scope
        self.over = False
        self.error: Exception | None = None

    def call(self) -> None:
        """Call back, and end the wait of the task if it is over."""
        try:
            self.over = self._callback()
        except Exception as error:
            self.error = error
            self.over = True
        if self.over:
            self._scope.cancel()


@dataclass(frozen=True, slots=True)
class _Loop:
    """What is used of trio's run loop."""

    epoll: int
    """The descriptor that trio waits for."""
    runnable: Sized
    """Tasks in line."""
    next_deadline: Callable[[], float]
    """Return the nearest deadline, by trio's clock."""
    sleep_time: Callable[[float], float]
    """Return the seconds until a deadline."""
    wake: Callable[[], None]
    """Have the next wait end at once."""


def _loop() -> _Loop | None:
    """Find it by trio's private names.

    :returns: None where this version of trio has others, where trio waits in another thread (guest
        mode), and where it uses no epoll.
    """
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        runner = GLOBAL_RUN_CONTEXT.runner
        manager, clock, deadlines = runner.io_manager, runner.clock, runner.deadlines
        if runner.is_guest or not isinstance(manager._epoll, select.epoll):
            return None
        return _Loop(
            manager._epoll.fileno(),
            runner.runq,
            deadlines.next_deadline,
            lambda deadline: max(0.0, clock.deadline_to_sleep_time(deadline)),
            manager.force_wakeup,
        )
    except (ImportError, AttributeError):
        return None


class _Waiter(trio.abc.Instrument):
    """Waits in place of trio while descriptors are watched. There is one in a run of trio."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._entries: dict[int, _Watched] = {}
        self._epoll: select.epoll | None = None
        self._passed = 0.0  # when trio last looked for events (time.perf_counter)

    def add(self, entry: _Watched) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._loop.epoll, select.EPOLLIN)
            trio.lowlevel.add_instrument(self)
        self._epoll.register(entry.fd, select.EPOLLIN)
        self._entries[entry.fd] = entry

    def remove(self, entry: _Watched) -> None:
        """Harmless a second time, and when the descriptor is closed, or another's by now."""
        if self._entries.get(entry.fd) is not entry or self._epoll is None:
            return
        del self._entries[entry.fd]
        with suppress(OSError):
            self._epoll.unregister(entry.fd)
        if not self._entries:
            trio.lowlevel.remove_instrument(self)
            self._epoll.close()
            self._epoll = None

    def before_io_wait(self, timeout: float) -> None:
        """Call back while no task is to run, until trio has something to do."""
        if timeout > 0:
            self._wait(timeout)
        self._passed = time.perf_counter()

    def poll(self) -> bool:
        """See :func:`poll_watched`."""
        if self._epoll is None or self._loop.runnable:
            return False
        if time.perf_counter() - self._passed > _TURN:
            return False
        events = self._epoll.poll(0, _BATCH)
        return not events or self._call(events)

    def _call(self, events: Iterable[tuple[int, int]]) -> bool:
        """Call back for events; return whether there was any callback for them."""
        found = False
        for fd, _flags in events:
            entry = self._entries.get(fd)
            if entry is not None:
                found = True
                entry.call()
                if entry.over:
                    self.remove(entry)
        return found

    def _wait(self, timeout: float) -> None:
        loop = self._loop
        deadline = loop.next_deadline()
        # For less than until the next deadline: trio looks whether all tasks are idle.
        looks = timeout < min(loop.sleep_time(deadline), _MAX_IDLE)
        spent = 0.0
        now = time.perf_counter()
        while spent < _TURN:
            until = now + timeout
            events = self._epoll.poll(timeout, _BATCH) if self._epoll is not None else ()
            begin = time.perf_counter()
            if begin - now > _ASLEEP:
                spent = 0.0
            found = self._call(events)
            if not found and (events or looks):
                return  # trio's own, or none
            if not found or loop.runnable:
                break
            now = time.perf_counter()
            timeout = max(0.0, until - now)
            nearest = loop.next_deadline()
            if nearest != deadline:
                deadline = nearest
                timeout = min(timeout, loop.sleep_time(deadline))
            spent += now - begin
        loop.wake()  # or it would wait for as long as it has said


_WAITER: trio.lowlevel.RunVar[_Waiter | None] = trio.lowlevel.RunVar("zks_lwip waiter")


def _waiter() -> _Waiter | None:
    """Return that of this run of trio, if it can have one."""
    try:
        return _WAITER.get()
    except LookupError:
        loop = _loop()
        waiter = None if loop is None else _Waiter(loop)
        _WAITER.set(waiter)
        return waiter
