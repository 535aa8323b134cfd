"""A clock for trio that a busy machine does not hurry."""

from __future__ import annotations

import time

import trio

_LOOK = 0.05  # seconds: waits are cut to this, so that time is looked at as often
_MOST = _LOOK  # seconds that one look lets pass


class PatientClock(trio.abc.Clock):
    """Real time, but for that in which the machine did not let us run.

    A deadline of a test, or of the code under it, is for what happens in this process: that must
    not miss it because another process had both cores for a second. Never faster than real time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._looked = 0.0

    def start_clock(self) -> None:
        self._looked = time.perf_counter()

    def current_time(self) -> float:
        looked = time.perf_counter()
        self._now += min(looked - self._looked, _MOST)
        self._looked = looked
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(deadline - self.current_time(), _LOOK)
