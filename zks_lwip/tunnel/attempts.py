"""Many attempts at a worker that does not answer, one beside the other.

An attempt that is under way when the network comes back does not notice: its SYN was lost, and the
kernel sends the next one after 1, 3, 7 s. So, while none is answered, a fresh attempt is made every
few tens of milliseconds, and the first that succeeds wins. A worker that refuses is asked with
growing delays, as many clients may ask.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from ..errors import WorkerUnreachable, ZksError
from ..net.backoff import Backoff

__all__ = [
    "MAX_PENDING",
    "Attempts",
    "AttemptsTask",
    "Failed",
    "Overtaken",
    "outage_interval",
]

_log = logging.getLogger(__name__)

MAX_PENDING = 16
"""Attempts that may be under way at the same time."""
_MIN_INTERVAL = 0.025
_PART = 0.005
_HANDSHAKE = 0.5

T = TypeVar("T")

Failed = Callable[[ZksError, "float | None"], None]
"""Called with why an attempt failed, and the seconds until the next; None: others go on."""


def outage_interval(age: float) -> float:
    """Return the seconds between two attempts while none is answered.

    The two hundredth part of the outage's age, so that it grows by no more than that; 25 ms at
    least.

    :param age: of the outage, in seconds.
    """
    return max(_MIN_INTERVAL, _PART * age)


class Overtaken(WorkerUnreachable):
    """An attempt came behind another one like it: neither this one nor any that is under way can
    succeed, but one that is begun now."""

    def __init__(self, message: str) -> None:
        super().__init__(message, answered=False)


class _Attempt:
    __slots__ = ("answered", "scope", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.answered: float | None = None  # when its connection was taken
        self.scope = trio.CancelScope()


class Attempts(Generic[T]):
    """Attempts at one thing, until the first succeeds.

    :param attempt: makes one. It gets its number, from 0, and what it has to call as soon as
        it is answered: no other is then begun for ``handshake`` seconds (and twice, four
        times as long beside others that were answered, and no more). It raises ZksError;
        WorkerUnreachable with ``answered`` False is silence, all else a refusal.
    :param interval: returns the seconds until the next attempt while none is answered.
    :param backoff: the delays after refusals; None: the first refusal ends it, and is raised.
    :param failed: told what became of attempts.
    :param discard: closes what an attempt has opened that did not win.
    :param handshake: seconds.
    :param begin: when to make the first one (``trio.current_time``).
    :param young: seconds; an attempt is not given up for a fresh one while it is not older than
        that, if there is any other.
    """

    def __init__(
        self,
        attempt: Callable[[int, Callable[[], None]], Awaitable[T]],
        *,
        interval: Callable[[], float],
        backoff: Backoff | None,
        failed: Failed,
        discard: Callable[[T], Awaitable[None]],
        handshake: float = _HANDSHAKE,
        begin: float = -math.inf,
        young: float = 0.0,
    ) -> None:
        self._attempt = attempt
        self._interval = interval
        self._backoff = backoff
        self._failed = failed
        self.discard = discard
        self._handshake = handshake
        self._young = young
        self._pending: dict[_Attempt, None] = {}  # the oldest first
        self._made = 0
        self._silence = False  # some were given up that had no answer
        self._next = begin  # when another is due
        self._refused = -math.inf  # when the last refusal came
        self._won: list[T] = []
        self._fatal: Exception | None = None
        self._changed = trio.Event()

    @property
    def made(self) -> int:
        """How many attempts were begun."""
        return self._made

    @property
    def pending(self) -> int:
        """How many attempts are under way."""
        return len(self._pending)

    @property
    def outage(self) -> bool:
        """The network was gone: of attempts that were made before one that is answered, some have
        got no answer."""
        answered = [each.started for each in self._pending if each.answered is not None]
        latest = max(answered, default=-math.inf)
        lost = any(each.answered is None and each.started < latest for each in self._pending)
        return bool(answered) and (self._silence or lost)

    @property
    def unanswered(self) -> bool:
        """Nothing has come of any attempt that is under way, and none was refused."""
        answered = any(each.answered is not None for each in self._pending)
        return not answered and math.isinf(self._refused)

    def retry(self) -> None:
        """Give up what is under way, and make an attempt at once: the network is another."""
        for attempt in self._pending:
            attempt.scope.cancel()
        self._next = -math.inf
        if self._backoff is not None:
            self._backoff.succeeded()
        self._changed.set()

    async def run(self) -> T:
        """Make attempts until one succeeds, and return what it has opened.

        Cancelled, it leaves nothing open.

        :raises ZksError: a refusal, without ``backoff``.
        """
        try:
            async with trio.open_nursery() as nursery:
                while not self._won and self._fatal is None:
                    self._changed = trio.Event()
                    now = trio.current_time()
                    due = self._due()
                    if due <= now:
                        self._begin(nursery, now)
                        continue
                    with trio.move_on_at(due):
                        await self._changed.wait()
                nursery.cancel_scope.cancel()
            if self._fatal is not None:
                raise self._fatal
        except BaseException:
            for opened in self._won:
                await self.discard(opened)
            raise
        return self._won[0]

    def _due(self) -> float:
        """Return when the next attempt is to be made."""
        answered = [each.answered for each in self._pending if each.answered is not None]
        if not answered:
            return self._next
        patience = self._handshake * 2.0 ** (len(answered) - 1)
        return max(self._next, max(answered) + patience)

    def _begin(self, nursery: trio.Nursery, now: float) -> None:
        if len(self._pending) >= MAX_PENDING:
            superfluous = self._superfluous(now)
            del self._pending[superfluous]
            self._silence |= superfluous.answered is None
            superfluous.scope.cancel()
        attempt = _Attempt(now)
        self._pending[attempt] = None
        nursery.start_soon(self._run, attempt, self._made)
        self._made += 1
        self._next = now + self._interval()

    def _superfluous(self, now: float) -> _Attempt:
        """Return the attempt that is missed least.

        The ages of the others stay spread evenly by their ratios: whatever the round trip is, one
        of them is just old enough to have been answered.
        """
        silent = [
            each
            for each in self._pending
            if each.answered is None and now - each.started >= self._young
        ]
        if len(silent) < 3:
            return next(iter(self._pending))

        def spacing(n: int) -> float:
            age = now - silent[n].started
            return (silent[n + 1].started - silent[n - 1].started) / max(age, 1e-9)

        return silent[min(range(1, len(silent) - 1), key=spacing)]

    async def _run(self, attempt: _Attempt, number: int) -> None:
        def answered() -> None:
            attempt.answered = trio.current_time()

        try:
            with attempt.scope:
                opened = await self._attempt(number, answered)
                if self._won:
                    await self.discard(opened)
                else:
                    self._won.append(opened)
        except ZksError as error:
            self._take_failure(attempt, error)
        except Exception as error:
            self._fatal = error
        finally:
            self._pending.pop(attempt, None)
            self._changed.set()

    def _take_failure(self, attempt: _Attempt, error: ZksError) -> None:
        if isinstance(error, WorkerUnreachable) and not error.answered:
            if isinstance(error, Overtaken):
                for each in self._pending:
                    each.scope.cancel()
            self._silence = True
            self._failed(error, None)
            return
        if self._backoff is None:
            self._fatal = error
            return
        if attempt.started < self._refused:
            return  # it was under way when another was refused, and says the same
        now = trio.current_time()
        delay = self._backoff.failed()
        self._refused = now
        self._next = now + delay
        self._failed(error, delay)


class AttemptsTask(Generic[T]):
    """Attempts that are made by a task of their own, :meth:`run`."""

    def __init__(self, attempts: Attempts[T]) -> None:
        self.attempts = attempts
        #: What they have opened, once :attr:`done` is set; None: they were given up.
        self.opened: T | None = None
        self.done = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Make them until one succeeds, or they are given up."""
        try:
            with self._scope:
                self.opened = await self.attempts.run()
        finally:
            self.done.set()

    async def give_up(self) -> None:
        """End them, and close what they have opened."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self.done.wait()
            if self.opened is not None:
                await self.attempts.discard(self.opened)
