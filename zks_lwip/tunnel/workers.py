"""Which of several workers a new channel goes to: decided from what is told, without I/O.

A worker is *well* until something about it fails. The nearest of those that are well is *in use*:
new channels go to it, and sessions stay where they are. When it fails, the next is in use at once;
back to it, or to another that is nearer, it goes only when that has been well for a while, longer
after each failure, and is nearer by more than measurements vary.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from ..errors import PrivilegeError, TunnelError, WorkerUnreachable, ZksError
from ..net.backoff import Backoff
from .options import TunnelConfig

__all__ = ["KnownWorker", "Workers"]

_SAMPLES = 4
"""Connect times that are kept of a worker; the least of them counts, for queues only add."""
_NEARER = 0.7
"""A worker is nearer when it takes less than this part of the other's connect time..."""
_NEARER_BY = 0.01
"""...and so many seconds less."""
_FORGIVEN = 1800.0
"""Seconds without a failure after which earlier ones are forgotten."""
_LOOK_AGAIN = 600.0
"""Seconds until a worker that failed for what does not pass by itself (a token, a certificate) is
given another chance."""
_HEDGE = 0.25
"""Seconds, at least, for which one worker is waited for before another is asked beside it."""
_HEDGE_TRIPS = 4.0
"""Likewise, in connect times: an upgrade takes a few round trips."""


class KnownWorker:
    """One of the workers, and what is known of it. Moments are those of ``trio.current_time``."""

    def __init__(self, config: TunnelConfig, place: int, backoff: Backoff) -> None:
        self.config = config
        """How to get there: this worker alone."""
        self.place = place
        """Its number in the order in which they were named, from 0."""
        self.well = True
        """Nothing has failed since it was last heard of."""
        self.error: ZksError | None = None
        """Why it cannot be used, where that does not pass by itself."""
        self.problem = ""
        """Why it is not well, or was not: one sentence."""
        self.full = False
        """It is not well for having refused another session; what it carries, it carries on."""
        self.not_before = -math.inf
        """When it may be tried again."""
        self.failures = 0
        """That are not forgotten yet."""
        self._backoff = backoff
        self._last_failure = -math.inf
        self._well_since = -math.inf
        self._well_before = -math.inf  # the same, of the time before it failed
        self._in_doubt: tuple[float, str] | None = None  # when it counts as failed, and why
        self._times: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def connect_time(self) -> float | None:
        """Seconds that TCP, and TLS where there is any, take; None: not known."""
        return min(self._times, default=None)

    @property
    def hedge(self) -> float:
        """Seconds after which another worker is asked beside it."""
        return max(_HEDGE, _HEDGE_TRIPS * (self.connect_time or 0.0))

    def __str__(self) -> str:
        return str(self.config.worker)

    # what it is told

    def connected(self, seconds: float) -> None:
        """Note how long a connection took."""
        self._times.append(seconds)

    def succeeded(self, now: float) -> None:
        """It has served: a session, which is all that can be asked."""
        self.error = None
        self._in_doubt = None
        self.answered(now)

    def answered(self, now: float) -> None:
        """It has answered a check, which shows no more than that it is there."""
        if self.error is not None and now < self._last_failure + _LOOK_AGAIN:
            return
        self.error = None
        if not self.well:
            self.well = True
            self._well_since = now

    def failed(self, error: ZksError | str, now: float) -> float:
        """Something about it has failed; it is not well until it is heard of again.

        :param error: what, as an error of a dial, or in a sentence.
        :returns: seconds for which it is left alone.
        """
        if isinstance(error, ZksError) and not isinstance(error, WorkerUnreachable):
            self.error = error
        self.problem = str(error)
        self.full = False
        self._in_doubt = None
        self._forgive(now)
        if self.well:
            self.failures += 1
            self._well_before = self._well_since
        self.well = False
        self._last_failure = now
        delay = self._backoff.failed()
        self.not_before = now + delay
        return delay

    def doubt(self, why: str, now: float) -> None:
        """A session with it has lost its WebSocket: it has failed if it is not resumed at once.

        :param why: as of :meth:`failed`.
        """
        if self._in_doubt is None:
            self._in_doubt = (now + self.hedge, why)

    def resolve_doubt(self, now: float) -> None:
        """Count what was in doubt for too long as failed."""
        if self._in_doubt is not None and now >= self._in_doubt[0]:
            self.failed(self._in_doubt[1], now)

    @property
    def doubt_over(self) -> float:
        """When a doubt becomes a failure; infinity: there is none."""
        return math.inf if self._in_doubt is None else self._in_doubt[0]

    def clear(self) -> None:
        """Its last failure was none of its own: all was lost together, and it is the first back."""
        self.failures = max(0, self.failures - 1)
        self._well_since = self._well_before

    def steady(self) -> None:
        """A channel to it has lasted: the next failure is a first one to the backoff."""
        self._backoff.succeeded()

    def renew(self, token: str | None) -> None:
        """Use another token for sessions that begin from now on, whatever has failed before."""
        self.config = replace(self.config, token=token)
        self.error = None
        self.try_now()

    def try_now(self) -> None:
        """There is a new reason for hope: another network."""
        self._backoff.succeeded()
        self.not_before = -math.inf

    # what follows from it

    def settled(self, now: float) -> bool:
        """Whether connections may come back to it: it has been well for long enough."""
        if not self.well or self.error is not None:
            return False
        self._forgive(now)
        first, most = self.config.settle
        wait = min(first * 2.0 ** min(self.failures - 1, 32), most) if self.failures else 0.0
        return now >= self._well_since + wait

    def check_due(self, checked: float) -> float:
        """Return when it is to be checked next, if it was checked last at ``checked``."""
        if self.well or self.error is not None:  # (a check shows nothing of the latter)
            return checked + self.config.check_every
        return max(checked, self.not_before)

    def nearer_than(self, other: KnownWorker) -> bool:
        """Return whether it is nearer than ``other`` by more than measurements vary."""
        mine, others = self.connect_time, other.connect_time
        if mine is None or others is None:
            return False
        return mine < others * _NEARER and mine < others - _NEARER_BY

    def _forgive(self, now: float) -> None:
        if now >= max(self._last_failure, self._well_since) + _FORGIVEN:
            self.failures = 0


class Workers:
    """The workers of a tunnel, at least one, and which of them is in use."""

    def __init__(self, config: TunnelConfig) -> None:
        self.all = [
            KnownWorker(each, place, Backoff(*config.backoff))
            for place, each in enumerate(config.workers)
        ]
        self.in_use = self.all[0]
        """Where new channels go, as :meth:`review` has found it last."""
        self.switches = 0
        """How often that has changed since it was first chosen."""
        self._chosen = False

    def __len__(self) -> int:
        return len(self.all)

    @property
    def next_review(self) -> float:
        """When, at the latest, :meth:`review` is to be called again."""
        return min(each.doubt_over for each in self.all)

    def review(self, now: float) -> KnownWorker:
        """Look whether another worker is to be in use, and return the one that is."""
        for each in self.all:
            each.resolve_doubt(now)
        well = [each for each in self.all if each.well and each.error is None]
        settled = [each for each in well if each.settled(now)]
        if self.in_use not in well or not self._chosen:
            if well:
                self._use(_nearest(settled or well))
        elif nearer := [each for each in settled if each.nearer_than(self.in_use)]:
            self._use(_nearest(nearer))
        return self.in_use

    def _use(self, worker: KnownWorker) -> None:
        self.switches += self._chosen and worker is not self.in_use
        self.in_use = worker

    def opened(self, worker: KnownWorker, now: float, *, alone: bool) -> None:
        """A session with ``worker`` has begun, or goes on; with the first one, the choice is made.

        From then on it changes for a reason only. Where all were lost together, that was the
        network, and the choice is made anew.

        :param alone: there is none with another worker.
        """
        was_well = worker.well
        worker.succeeded(now)
        if alone:
            if self._chosen and not was_well:
                worker.clear()
            self._use(worker)
            self._chosen = True

    def to_dial(self, now: float, *, any_of_them: bool = True) -> list[KnownWorker]:
        """Return the workers that may be dialled now, in the order to try them.

        Where one does not answer within its :attr:`KnownWorker.hedge`, the next is tried beside it.

        :param any_of_them: others will do, too, not only the one that is in use.
        """
        first = self.review(now)
        asked = self.all if any_of_them else [first]
        due = [each for each in asked if each.not_before <= now]
        return sorted(due, key=lambda each: (each is not first, *_hope(each)))

    def due(self, *, any_of_them: bool = True) -> float:
        """Return when :meth:`to_dial` has something to return."""
        asked = self.all if any_of_them else [self.in_use]
        return min(each.not_before for each in asked)

    def try_now(self) -> None:
        """There is a new reason for hope: another network."""
        for each in self.all:
            each.try_now()

    @property
    def hopeless(self) -> ZksError | None:
        """The error to end with, if none of them can be used for what does not pass by itself."""
        errors = [each.error for each in self.all if each.error is not None]
        if len(errors) < len(self.all):
            return None
        if len(errors) == 1:
            return errors[0]
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else TunnelError
        said = " ".join(f"({number}) {error}" for number, error in enumerate(errors, 1))
        return kind(f"none of the {len(errors)} workers can be used: {said}")


def is_of_no_worker(error: ZksError) -> bool:
    """Return whether an error is this machine's own: then no other worker does better."""
    return isinstance(error, PrivilegeError)


def _nearest(workers: list[KnownWorker]) -> KnownWorker:
    """Return the nearest; of those between which measurements do not tell, the first named."""
    best = min(workers, key=_nearness)
    if best.connect_time is None:
        return best
    return next(
        each for each in workers if each.connect_time is not None and not best.nearer_than(each)
    )


def _nearness(worker: KnownWorker) -> tuple[float, int]:
    time = worker.connect_time
    return (math.inf if time is None else time, worker.place)


def _hope(worker: KnownWorker) -> tuple[bool, bool, float, float, int]:
    return (
        worker.error is not None,
        not worker.well,
        worker.not_before if not worker.well else 0.0,
        *_nearness(worker),
    )
