"""What one token may use of a worker, and how many descriptors the worker has in all."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from ..tunnel.credit import Budget

__all__ = ["Account", "Descriptors", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one token (for everybody together, where there are no tokens)."""

    streams: int = 16384
    """Open TCP streams, over all sessions."""
    sessions: int = 64
    """WebSockets at a time."""
    held: int = 256 << 20
    """Bytes taken from the client that far ends have not taken yet."""
    connects: float = 4096.0
    """New connections a second, over some seconds; four seconds' worth may come at once."""
    associations: int = 1024
    """UDP associations of one session."""
    requests: int = 256
    """DNS queries in flight of one session."""
    echoes: int = 256
    """ICMP echoes in flight of one session."""


class Account:
    """What one token uses now, over all its sessions."""

    __slots__ = ("_allowance", "_refilled", "budget", "held", "limits", "sessions", "streams")

    _BURST = 4.0  # seconds' worth of new connections

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams = 0
        self.sessions = 0
        self.held = 0
        #: bounds how far the windows of this token's streams grow
        self.budget = Budget(limits.held // 4)
        self._allowance = limits.connects * self._BURST
        self._refilled = time.monotonic()

    @property
    def idle(self) -> bool:
        """Nothing is used: the account can be forgotten."""
        return not (self.streams or self.sessions or self.held)

    def refusal(self) -> str | None:
        """Why no new connection may be made now; None: it may, and has been counted."""
        if self.streams >= self.limits.streams:
            return f"{self.limits.streams} streams are open for this token"
        now = time.monotonic()
        most = self.limits.connects * self._BURST
        self._allowance = min(most, self._allowance + (now - self._refilled) * self.limits.connects)
        self._refilled = now
        if self._allowance < 1:
            return f"more than {self.limits.connects:g} new connections a second"
        self._allowance -= 1
        return None


class Descriptors:
    """A budget of file descriptors, so that what is there keeps working when too much is asked."""

    __slots__ = ("free", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total

    def take(self) -> None:
        """Count one more. Raises OSError (EMFILE) when none is left."""
        if self.free <= 0:
            raise OSError(errno.EMFILE, "the worker has no descriptor left")
        self.free -= 1

    def give(self) -> None:
        """One was closed."""
        self.free += 1
