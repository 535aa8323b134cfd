"""Delays between attempts, growing and jittered."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Delays that double from ``first`` to ``most``, both in seconds.

    :param jitter: the part of each delay that is drawn at random, 0 to 1. It keeps many clients
        that lost the same peer from coming back at the same moment.
    :param rand: returns a number of 0 to 1.
    """

    def __init__(
        self,
        first: float,
        most: float,
        *,
        jitter: float = 0.5,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._most = most
        self._jitter = jitter
        self._rand = rand
        self._failures = 0

    def failed(self) -> float:
        """Count a failed attempt.

        :returns: the seconds to wait before the next.
        """
        delay = min(self._first * 2.0 ** min(self._failures, 32), self._most)
        self._failures += 1
        return delay * (1.0 - self._jitter + self._jitter * self._rand())

    def succeeded(self) -> None:
        """Start over with the first delay."""
        self._failures = 0
