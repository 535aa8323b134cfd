"""Wait until a descriptor is readable, or until a time, in a fifth of the memory.

A task that waits by trio takes some 1,500 bytes for ``wait_readable`` and a cancel scope with a
deadline; a worker holds thousands of idle WebSockets. On Linux the descriptors of all that wait
here are in one epoll instance, for which one task waits, until the nearest of their times. Both are
there while any descriptor is. Elsewhere each waits by trio.
"""

from __future__ import annotations

import heapq
import math
import select
from contextlib import suppress

import trio

__all__ = ["Rest"]

_BATCH = 256
_STALE = 64
"""Entries of waits that are over which may be in the list of times, beside as many as wait."""


class Rest:
    """One task's wait.

    :param fd: has to stay open until the wait is over: call :meth:`end` before it is closed.
    :param deadline: by ``trio.current_time``.
    """

    __slots__ = ("_ended", "_scope", "_task", "_waiter", "deadline", "fd")

    def __init__(self, fd: int, deadline: float = math.inf) -> None:
        self.fd = fd
        self.deadline = deadline
        self._task: trio.lowlevel.Task | None = None  # while it waits
        self._waiter: _Common | None = None  # that it was added to
        self._scope: trio.CancelScope | None = None  # while it waits by trio
        self._ended = False

    def __lt__(self, other: Rest) -> bool:
        return self.deadline < other.deadline

    @property
    def waits(self) -> bool:
        """Whether its task waits."""
        return self._task is not None

    async def wait(self) -> None:
        """Wait until there is something to read, or an error; until the deadline, or :meth:`end`.

        Call it once. It can be cancelled.

        :raises trio.ClosedResourceError: not on Linux: the descriptor was closed.
        """
        if self._ended:
            await trio.lowlevel.checkpoint()
            return
        waiter = _waiter()
        if waiter is None or not waiter.add(self):
            with trio.CancelScope(deadline=self.deadline) as self._scope:
                await trio.lowlevel.wait_readable(self.fd)
            return
        self._waiter = waiter
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        self._leave()
        return trio.lowlevel.Abort.SUCCEEDED

    def end(self) -> None:
        """End the wait, begun or not. Harmless when it is over."""
        self._ended = True
        if self._scope is not None:
            self._scope.cancel()
        task, self._task = self._task, None
        if task is not None:
            self._leave()
            trio.lowlevel.reschedule(task)

    def _leave(self) -> None:
        assert self._waiter is not None
        self._waiter.remove(self)


class _Common:
    """Waits for all of a run of trio, until none waits any more; then another takes its place."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waits: dict[int, Rest] = {}
        self._times: list[Rest] = []  # a heap; some of them may be over
        self._scope = trio.CancelScope()
        self.over = False
        trio.lowlevel.spawn_system_task(self._run)

    def add(self, rest: Rest) -> bool:
        """Take a wait; return whether the kernel lets it."""
        try:
            self._epoll.register(rest.fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT)
        except OSError:  # trio says what is wrong, or can wait
            self._end_if_idle()
            return False
        self._waits[rest.fd] = rest
        if rest.deadline < math.inf:
            if len(self._times) > 2 * len(self._waits) + _STALE:
                self._times = [each for each in self._times if each.waits]
                heapq.heapify(self._times)
            heapq.heappush(self._times, rest)
            if rest.deadline < self._scope.deadline:
                self._scope.deadline = rest.deadline
        return True

    def remove(self, rest: Rest) -> None:
        """Forget a wait."""
        if self._waits.get(rest.fd) is rest:
            del self._waits[rest.fd]
            with suppress(OSError):  # it was closed
                self._epoll.unregister(rest.fd)
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._waits:
            self.over = True
            self._scope.cancel()

    async def _run(self) -> None:
        try:
            while not self.over:
                nearest = self._times[0].deadline if self._times else math.inf
                with trio.CancelScope(deadline=nearest) as self._scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._end_waits()
        finally:
            self._epoll.close()

    def _end_waits(self) -> None:
        for fd, _flags in self._epoll.poll(0, _BATCH):
            rest = self._waits.get(fd)
            if rest is not None:
                rest.end()
        now = trio.current_time()
        while self._times and (not self._times[0].waits or self._times[0].deadline <= now):
            heapq.heappop(self._times).end()


_WAITER: trio.lowlevel.RunVar[_Common | None] = trio.lowlevel.RunVar("zks_lwip rest")


def _waiter() -> _Common | None:
    """Return that of this run of trio, if this system can have one."""
    if not hasattr(select, "epoll"):
        return None
    waiter = _WAITER.get(None)
    if waiter is None or waiter.over:
        waiter = _Common()
        _WAITER.set(waiter)
    return waiter
