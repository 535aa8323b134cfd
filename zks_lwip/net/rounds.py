"""What one task does at a time, and what is to be done once at its end.

A task that handles several events at a time (readable sockets, the frames of what was received)
opens a round. What these events make a session say leaves at the end of the round, together and
without waking another task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["ROUND", "Round"]


class Round(threading.local):
    """The round of a thread. ``with`` it around a few events, and never around an ``await``."""

    def __init__(self) -> None:
        self._open = False
        self._last: list[Callable[[], None]] = []

    def at_end(self, call: Callable[[], None]) -> bool:
        """Have ``call``, which must not raise, called when the round is over.

        It is called out of the round: it opens none, and what it asks for finds none.

        :returns: False: there is no round, and it will not be called.
        """
        if self._open:
            self._last.append(call)
        return self._open

    def __enter__(self) -> None:
        self._open = True

    def __exit__(self, *_: object) -> None:
        self._open = False
        if self._last:
            last, self._last = self._last, []
            for call in last:
                call()


ROUND = Round()
"""The one that all of a thread share."""
