"""What a Mac looks like, as far as a plan depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..state import HostState

__all__ = ["MacosState", "RouteEntry", "Uplink"]


class Uplink(NamedTuple):
    """A default route."""

    interface: str
    ifindex: int
    """Of the interface."""
    gateway: str
    """Empty where the interface alone leads on (a modem's, say)."""


class RouteEntry(NamedTuple):
    """A route of the table, as far as ours can be told from it."""

    destination: str
    """A network in CIDR form."""
    gateway: str
    """An address; empty where the route leads to an interface."""
    interface: str
    scoped: bool = False
    """Only sockets that are bound to the interface use it (``RTF_IFSCOPE``)."""
    rejects: bool = False
    """What takes it is refused (``RTF_REJECT``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MacosState(HostState):
    """A Mac at one moment. It has one network namespace, which all sockets are in."""

    uplink4: Uplink | None = None
    uplink6: Uplink | None = None
    table: frozenset[RouteEntry] = frozenset()
    """The routing table, but for what the kernel makes for single hosts."""
    pf_enabled: bool = False
    pf_calls_us: bool = True
    """pf's main ruleset evaluates our anchor, and no rule that ends the evaluation passes packets
    before it."""
    pf_loaded: bool = False
    """Our anchor has rules."""
    pf_noted: bool = False
    """A token of ours, which keeps pf enabled, has been kept."""
    pf_token: bool = False
    """It holds: pf was not disabled since."""
    dns_set: bool = False
    """The system's resolver has our record."""

    def uplink(self, version: int) -> Uplink | None:
        """Return the default route of IPv4 or IPv6."""
        return self.uplink4 if version == 4 else self.uplink6
