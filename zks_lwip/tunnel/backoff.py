"""When to try again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Delays in seconds that double from ``first`` to ``most``, each drawn from its upper half.

    The jitter keeps many clients that lost the same worker from coming back at the same moment.
    """

    def __init__(
        self, first: float, most: float, *, rand: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._most = most
        self._rand = rand
        self._failures = 0

    def failed(self) -> float:
        """Another attempt has failed; how long to wait before the next."""
        delay = min(self._first * 2.0 ** min(self._failures, 32), self._most)
        self._failures += 1
        return delay * (0.5 + 0.5 * self._rand())

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures = 0
