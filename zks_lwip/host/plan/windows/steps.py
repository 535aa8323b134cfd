"""The kinds of step on Windows, each one class: effect, undo and presence side by side.

They act by functions of Windows (the IP Helper API, the Windows Filtering Platform); the commands
that are shown for them are those of PowerShell that do the same, or, where no program does, say so.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from ..step import Step, kind
from .filters import parse_filter
from .state import WindowsRoute, WindowsState
from .system import WindowsSystem

__all__ = [
    "AdapterAddress",
    "AdapterResolver",
    "AdapterRoute",
    "AdapterSettings",
    "BypassRoute",
    "WfpFilters",
    "WfpPermitTun",
    "WintunAdapter",
]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@kind
@dataclass(frozen=True, slots=True)
class WfpFilters(Step):
    """All of our filters, put in place as one transaction."""

    paused: ClassVar[bool] = True
    atomic: ClassVar[bool] = True
    lines: str
    """Of filters (:mod:`.filters`); empty where the step is only to be undone."""
    persistent: bool
    """They outlive a start of the machine."""

    def commands(self) -> list[str]:
        how = "persistent filters" if self.persistent else "filters"
        return [
            f"# {how} of the Windows Filtering Platform, for which there is no command:\n"
            + ("\n".join(f"#   {line}" for line in self.lines.splitlines()))
        ]

    def undo_commands(self) -> list[str]:
        return ["# remove our filters of the Windows Filtering Platform"]

    def do(self, system: WindowsSystem) -> None:
        found = [parse_filter(line) for line in self.lines.splitlines()]
        system.set_filters(found, persistent=self.persistent)

    def undo(self, system: WindowsSystem) -> None:
        system.remove_filters()

    def is_there(self, view: WindowsState) -> bool:
        lines = tuple(sorted(self.lines.splitlines()))
        return view.filters == lines and view.persistent == self.persistent

    def remains(self, view: WindowsState) -> bool:
        return bool(view.filters)

    @property
    def closes(self) -> bool:
        return True

    def recorded(self) -> WfpFilters:
        return WfpFilters("", False)  # our provider's name is enough to undo it

    def replaces(self, other: Step) -> bool:
        return isinstance(other, WfpFilters)

    def check_recorded(self) -> None:
        for line in self.lines.splitlines():
            parse_filter(line)


@kind
@dataclass(frozen=True, slots=True)
class WintunAdapter(Step):
    """The TUN device; it is there for as long as a process holds it, so a dead one leaves none."""

    name: str
    mtu: int
    """Bytes."""

    def commands(self) -> list[str]:
        return [f"# make the adapter {self.name} of Wintun, for which there is no command"]

    def undo_commands(self) -> list[str]:
        return [f"# remove the adapter {self.name}"]

    def do(self, system: WindowsSystem) -> None:
        system.open_tun(self.name, mtu=self.mtu)

    def undo(self, system: WindowsSystem) -> None:
        system.close_tun()


@kind
@dataclass(frozen=True, slots=True)
class WfpPermitTun(Step):
    """Our filters let through what goes by the TUN. A filter knows it by a number of its own, so
    that it does not let another's through when it has gone.
    """

    paused: ClassVar[bool] = True
    device: str

    def commands(self) -> list[str]:
        return [f"# let everything through that goes by {self.device}"]

    def undo_commands(self) -> list[str]:
        return [f"# let nothing more through by {self.device}"]

    def do(self, system: WindowsSystem) -> None:
        system.permit_tun(self.device)

    def undo(self, system: WindowsSystem) -> None:
        system.forbid_tun()

    def is_there(self, view: WindowsState) -> bool:
        return view.permitted == self.device

    def remains(self, view: WindowsState) -> bool:
        return False  # it goes with our filters


@dataclass(frozen=True, slots=True)
class _OfAdapter(Step):
    """What goes with the TUN, by itself."""

    vanishes: ClassVar[bool] = True
    device: str

    def undo_commands(self) -> list[str]:
        return []

    def undo(self, system: WindowsSystem) -> None:
        """Leave it to the end of the TUN."""

    def remains(self, view: WindowsState) -> bool:
        return False


@kind
@dataclass(frozen=True, slots=True)
class AdapterSettings(_OfAdapter):
    """MTU and metric of the TUN, for IPv4 or IPv6."""

    version: int
    mtu: int
    metric: int

    def commands(self) -> list[str]:
        family = f"IPv{self.version}"
        return [
            f"Set-NetIPInterface -InterfaceAlias {_quoted(self.device)} -AddressFamily {family} "
            f"-NlMtuBytes {self.mtu} -InterfaceMetric {self.metric}"
        ]

    def do(self, system: WindowsSystem) -> None:
        system.set_interface(self.device, self.version, mtu=self.mtu, metric=self.metric)

    def is_there(self, view: WindowsState) -> bool:
        return view.settings.get((self.device, self.version)) == (self.mtu, self.metric)


@kind
@dataclass(frozen=True, slots=True)
class AdapterAddress(_OfAdapter):
    """An address of the TUN, such as ``198.18.0.1/30``."""

    interface: str

    def commands(self) -> list[str]:
        address, _, length = self.interface.partition("/")
        return [
            f"New-NetIPAddress -InterfaceAlias {_quoted(self.device)} -IPAddress {address} "
            f"-PrefixLength {length} -PolicyStore ActiveStore"
        ]

    def do(self, system: WindowsSystem) -> None:
        system.add_address(self.device, self.interface)

    def is_there(self, view: WindowsState) -> bool:
        return view.has_address(self.device, self.interface)


def _add_route(route: WindowsRoute) -> str:
    via = f" -NextHop {route.gateway}" if route.gateway else ""
    return (
        f"New-NetRoute -DestinationPrefix {route.destination} -InterfaceAlias "
        f"{_quoted(route.interface)}{via} -RouteMetric 0 -PolicyStore ActiveStore"
    )


def _remove_route(route: WindowsRoute) -> str:
    return (
        f"Remove-NetRoute -DestinationPrefix {route.destination} -InterfaceAlias "
        f"{_quoted(route.interface)} -Confirm:$false"
    )


class _InTable(Step):
    """A step that is one route in the table."""

    __slots__ = ()

    def entry(self) -> WindowsRoute:
        """Return how it looks in the table."""
        raise NotImplementedError

    def commands(self) -> list[str]:
        return [_add_route(self.entry())]

    def undo_commands(self) -> list[str]:
        return [_remove_route(self.entry())]

    def do(self, system: WindowsSystem) -> None:
        system.add_route(self.entry())

    def undo(self, system: WindowsSystem) -> None:
        system.remove_route(self.entry())

    def is_there(self, view: WindowsState) -> bool:
        return self.entry() in view.table


@kind
@dataclass(frozen=True, slots=True)
class AdapterRoute(_InTable):
    """A route into the TUN. Half of the Internet goes before a default route, which stays."""

    vanishes: ClassVar[bool] = True
    paused: ClassVar[bool] = True
    destination: str
    device: str

    def entry(self) -> WindowsRoute:
        return WindowsRoute(self.destination, "", self.device)

    def remains(self, view: WindowsState) -> bool:
        return False

    def check_recorded(self) -> None:
        ipaddress.ip_network(self.destination)


@kind
@dataclass(frozen=True, slots=True)
class BypassRoute(_InTable):
    """A route to what is reached beside the tunnel, by the gateway that there was before."""

    destination: str
    gateway: str
    """An address; empty: the destination is on the interface's link."""
    interface: str

    def entry(self) -> WindowsRoute:
        return WindowsRoute(self.destination, self.gateway, self.interface)

    def check_recorded(self) -> None:
        ipaddress.ip_network(self.destination)
        if self.gateway:
            ipaddress.ip_address(self.gateway.partition("%")[0])


@kind
@dataclass(frozen=True, slots=True)
class AdapterResolver(_OfAdapter):
    """Names are asked for at this server, by the TUN, whose metric is the least."""

    paused: ClassVar[bool] = True
    optional: ClassVar[bool] = True  # other servers' port 53 is refused anyway
    server: str

    def commands(self) -> list[str]:
        return [
            f"Set-DnsClientServerAddress -InterfaceAlias {_quoted(self.device)} "
            f"-ServerAddresses {self.server}"
        ]

    def undo_commands(self) -> list[str]:
        return [
            f"Set-DnsClientServerAddress -InterfaceAlias {_quoted(self.device)} "
            "-ResetServerAddresses"
        ]

    def do(self, system: WindowsSystem) -> None:
        system.set_resolver(self.device, self.server)

    def undo(self, system: WindowsSystem) -> None:
        system.set_resolver(self.device, "")

    def is_there(self, view: WindowsState) -> bool:
        return view.resolvers.get(self.device) == self.server
