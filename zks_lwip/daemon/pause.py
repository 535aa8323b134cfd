"""``pause``: open the host for a while, for a captive portal say; ended by itself."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from ..errors import HostError

__all__ = ["LOOK_SECONDS", "Pauses"]

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks at the clock, which goes on while the machine sleeps."""
_AGAIN = 1.0
"""Seconds until another attempt to close the host."""


def _clock() -> float:
    """Return seconds that go on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)  # time.monotonic() stands still meanwhile
    return time.monotonic()


class PausedHost(Protocol):
    """What is needed of the host."""

    async def pause(self) -> None: ...
    async def resume(self) -> None: ...


@dataclass(slots=True)
class _Pause:
    began: float
    """Of ``time.time``."""
    seconds: float
    ended: float | None = None
    how: str = ""


class Pauses:
    """The pauses of a host; :meth:`run` must be running for them to end.

    :param clock: seconds, also those of a machine that sleeps.
    """

    def __init__(self, host: PausedHost, *, clock: Callable[[], float] = _clock) -> None:
        self._host = host
        self._clock = clock
        self._until = -math.inf
        self._pause: _Pause | None = None
        self._changed = trio.Event()
        self._busy = trio.Lock()

    @property
    def active(self) -> bool:
        """Whether the host is open."""
        return self._pause is not None and self._pause.ended is None

    async def begin(self, seconds: float) -> None:
        """Open the host, or leave it open, for a time that begins now.

        :param seconds: 1 to :data:`MAX_SECONDS`.
        :raises HostError: it could not be opened; it is closed again.
        """
        async with self._busy:
            self._until = self._clock() + seconds
            if not self.active:
                try:
                    await self._host.pause()
                except HostError:
                    await self._close()
                    raise
                self._pause = _Pause(time.time(), seconds)
            else:
                assert self._pause is not None
                self._pause.seconds = time.time() - self._pause.began + seconds
            _log.warning(
                "PAUSED for %.0f s, as asked for: traffic goes out beside the tunnel", seconds
            )
            self._changed.set()

    async def end(self, how: str) -> bool:
        """Close the host.

        :param how: what ended the pause, to be shown afterwards.
        :returns: whether it was open.
        """
        async with self._busy:
            if not self.active:
                return False
            assert self._pause is not None
            await self._close()
            self._pause.ended, self._pause.how = time.time(), how
            _log.warning("the pause has ended (%s): traffic goes through the tunnel", how)
            self._changed.set()
            return True

    async def _close(self) -> None:
        """Close the host, however often that fails: an open host is what must not last."""
        while True:
            try:
                await self._host.resume()
            except HostError as error:
                _log.error("the host is still open: %s; trying again", error)
                await trio.sleep(_AGAIN)
            else:
                return

    async def run(self) -> None:
        """End each pause when its time is over; until cancelled."""
        while True:
            left = self._until - self._clock() if self.active else math.inf
            if left <= 0:
                await self.end("its time was over")
            changed = self._changed = trio.Event()
            with trio.move_on_after(min(left, LOOK_SECONDS) if self.active else math.inf):
                await changed.wait()

    def status(self) -> dict[str, Any] | None:
        """Return the pause that is, or the last one; None: there was none."""
        pause = self._pause
        if pause is None:
            return None
        left = max(0.0, self._until - self._clock()) if self.active else 0.0
        return {
            "active": self.active,
            "began": pause.began,
            "seconds_left": left,
            "ended": pause.ended,
            "how": pause.how,
        }
