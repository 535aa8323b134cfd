"""How long the tunnel has been down, and what that means for who wants something of it."""

from __future__ import annotations

import trio

__all__ = ["Downtime"]


class Downtime:
    """Down from the start. ``grace`` is for how many seconds of a break one waits for its end."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.problem = ""
        """Why it is down, or was last: one sentence."""
        self.changed: float | None = None
        """When it last went up or down (``trio.current_time``); None: not started."""
        self._up = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait_change(self) -> None:
        """Wait until it goes up or down."""
        await self._waiting.park()

    @property
    def up(self) -> bool:
        """Whether it is not down."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up is not self._up or self.changed is None:
            self.changed = trio.current_time()
        if up is not self._up:
            self._waiting.unpark_all()
        self._up = up

    def over(self, now: float) -> float:
        """Return when one does not wait any longer for what is asked for now.

        While it is up there may still be no room: then for ``grace`` seconds.

        :param now: as what is returned, by ``trio.current_time``.
        """
        if self._up or self.changed is None:
            return now + self.grace
        return max(now, self.changed + self.grace)

    @property
    def hopeless(self) -> bool:
        """It has been down for longer than the grace time."""
        if self._up or self.changed is None:
            return False
        return trio.current_time() >= self.changed + self.grace

    def begin_again(self) -> None:
        """There is a new reason for hope: another network."""
        if not self._up and self.changed is not None:
            self.changed = trio.current_time()
