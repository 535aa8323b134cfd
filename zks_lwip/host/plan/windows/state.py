"""What a machine that runs Windows looks like, as far as a plan depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..state import HostState

__all__ = ["WindowsRoute", "WindowsUplink", "WindowsState"]


class WindowsUplink(NamedTuple):
    """The default route that Windows prefers: the least sum of route's and interface's metric."""

    interface: str
    """Its name, as the user sees it (``Wi-Fi``)."""
    ifindex: int
    gateway: str
    """Empty where the interface alone leads on (a modem's, say)."""


class WindowsRoute(NamedTuple):
    """A route of the table, as far as ours can be told from it."""

    destination: str
    """A network in CIDR form."""
    gateway: str
    """An address; empty where the destination is on the interface's link."""
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsState(HostState):
    """A machine with Windows at one moment. It has one network, which all sockets are in."""

    uplink4: WindowsUplink | None = None
    uplink6: WindowsUplink | None = None
    table: frozenset[WindowsRoute] = frozenset()
    filters: tuple[str, ...] = ()
    """Our filters of the Windows Filtering Platform, as the lines that made them, sorted."""
    persistent: bool = False
    """They outlive a start of the machine."""
    permitted: str = ""
    """Name of the TUN that our filters let everything through; empty: of none that is there."""
    settings: Mapping[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """MTU and metric (0: Windows chooses) of interfaces, by name and version of IP."""
    resolvers: Mapping[str, str] = field(default_factory=dict)
    """The first IPv4 name server that an interface was given by hand, by the interface's name."""

    def uplink(self, version: int) -> WindowsUplink | None:
        """Return the default route of IPv4 or IPv6."""
        return self.uplink4 if version == 4 else self.uplink6
