"""What every system tells of itself: next hops, instances, and what was taken back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["NextHop", "Recovery", "Remains", "RunningInstance"]


class NextHop(NamedTuple):
    """Where a packet is sent first, and from which address."""

    link: int
    """Index of the interface."""
    gateway: str
    """Address of the router; empty if the destination is on the link."""
    source: str
    """Source address that a socket would get; empty if the system names none."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What an instance that does not run any more has left."""

    pid: int | None
    """Of its process; None: it could not write its journal (``--always-on`` closes without), or
    that may not be read."""
    closed: bool
    """It refuses what does not go through the tunnel. What is there counts, not what was planned:
    it may have died in a pause, or have had no kill switch."""
    readable: bool = True
    """Its journal may be read by this process."""


@dataclass(frozen=True, slots=True)
class RunningInstance:
    """One that runs, as far as this process may know."""

    netns: str | None
    """A name of ``ip netns`` of the namespace that it captures; None: it has none."""
    pid: int | None
    interface: str | None


@dataclass(slots=True)
class Recovery:
    """What ``recover`` did."""

    undone: list[str] = field(default_factory=list)
    """Commands, in order."""
    left: list[str] = field(default_factory=list)
    """What is still there, and why."""
    foreign: list[str] = field(default_factory=list)
    """What bears our name and is another program's; it was not touched."""
    running: list[str] = field(default_factory=list)
    """Journals of instances that run; they were not touched."""
