"""What steps act through on Windows: an interface that ``host/windows`` and tests fulfil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .filters import Filter
from .state import WindowsRoute

__all__ = ["WindowsSystem"]


class WindowsSystem(Protocol):
    """A machine that steps change; each call is harmless where it is as asked for already.

    Every method may also raise OSError; who does a step turns that into an error that names it.
    """

    def open_tun(self, name: str, *, mtu: int) -> None:
        """Make the TUN, unless this system has it open."""
        ...

    def close_tun(self) -> None:
        """Close the TUN, with which it vanishes, if this system has it open."""
        ...

    def set_interface(self, name: str, version: int, *, mtu: int, metric: int) -> None:
        """Set MTU and metric of an interface, for IPv4 or IPv6."""
        ...

    def add_address(self, name: str, interface: str) -> None:
        """Give an interface an address such as ``198.18.0.1/30``, at once usable."""
        ...

    def add_route(self, route: WindowsRoute) -> None:
        """Add a route with the least metric, until the machine starts again."""
        ...

    def remove_route(self, route: WindowsRoute) -> None:
        """Remove it; harmless where it, or its interface, has gone."""
        ...

    def set_filters(self, filters: Sequence[Filter], *, persistent: bool) -> None:
        """Put these in place of all filters of ours, in one transaction.

        Where the TUN is open it stays permitted.

        :param persistent: they outlive a start of the machine.
        """
        ...

    def remove_filters(self) -> None:
        """Remove all filters of ours, our sublayer and our provider, in one transaction."""
        ...

    def permit_tun(self, name: str) -> None:
        """Let everything through that goes by an interface of that name, the one that is there."""
        ...

    def forbid_tun(self) -> None:
        """End that."""
        ...

    def set_resolver(self, name: str, server: str) -> None:
        """Have names be asked for at a server, by an interface; empty: at none."""
        ...
