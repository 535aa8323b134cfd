"""A clock for trio that a busy machine does not hurry."""

from __future__ import annotations

import time
from pathlib import Path

import trio

_LOOK = 0.05  # seconds: waits are cut to this, so that time is looked at as often
_MOST = _LOOK  # seconds that one look lets pass
_SHORT = 0.005  # seconds: within such a time it is not asked what part of it we waited for a core
_SCHEDULED = Path("/proc/thread-self/schedstat")


def _held_up() -> float:
    """Seconds that this thread has waited for a core so far; 0 where that is not known."""
    try:
        return int(_SCHEDULED.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError):  # another system; or a test has used up all descriptors
        return 0.0


class PatientClock(trio.abc.Clock):
    """Real time, but for that in which the machine did not let us run.

    A deadline of a test, or of the code under it, is for what happens in this process: that must
    not miss it because another process had both cores for a second. Nor may two waits, of which one
    is to end before the other, end together because both were over when it was our turn again.
    Never faster than real time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._looked = 0.0
        self._held_up = 0.0

    def start_clock(self) -> None:
        self._looked = time.perf_counter()
        self._held_up = _held_up()

    def current_time(self) -> float:
        looked = time.perf_counter()
        passed = looked - self._looked
        self._looked = looked
        if passed > _SHORT:
            held_up = _held_up()
            passed -= max(0.0, held_up - self._held_up)
            self._held_up = max(self._held_up, held_up)
        self._now += min(max(0.0, passed), _MOST)
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(deadline - self.current_time(), _LOOK)
