"""``pause``: open the host for a while, for a captive portal say; ended by itself."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from .errors import HostError

__all__ = ["MOST_SECONDS", "Pauses"]

_log = logging.getLogger(__name__)

MOST_SECONDS = 3600.0
"""No pause is longer."""

_AGAIN = 1.0  # seconds until another attempt to close the host
_LOOK = 5.0  # seconds until another look at the clock, which goes on while the machine sleeps


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
    """The pauses of a host; :meth:`run` must be running for them to end."""

    def __init__(self, host: PausedHost, *, clock: Callable[[], float] = _clock) -> None:
        self._host = host
        self._clock = clock
        self._until = -math.inf
        self._pause: _Pause | None = None
        self._changed = trio.Event()
        self._busy = trio.Lock()

    @property
    def active(self) -> bool:
        """The host is open."""
        return self._pause is not None and self._pause.ended is None

    async def begin(self, seconds: float) -> None:
        """Open the host for so long, from now; also if it is open already. Raises HostError."""
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
        """Close the host; whether it was open. ``how`` it came to that is shown afterwards."""
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
        """Not given up: an open host is what must not last."""
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
            with trio.move_on_after(min(left, _LOOK) if self.active else math.inf):
                await changed.wait()

    def status(self) -> dict[str, Any] | None:
        """The pause that is, or the last one; None: there was none."""
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
