"""A machine with Windows that is made of nothing: it keeps what steps change.

It stands for the system behind the steps' own protocol; the functions of Windows are not played.
"""

from __future__ import annotations

import ctypes
import ipaddress
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zks_lwip.host.plan.state import HostAddress, HostLink, Leftover
from zks_lwip.host.plan.windows.filters import Filter
from zks_lwip.host.plan.windows.state import WindowsRoute, WindowsState, WindowsUplink

__all__ = ["FakeWindows", "PlayedTun", "WindowsProcess", "is_administrator"]


def is_administrator() -> bool:
    """Return whether this process may make folders that are the administrators'."""
    return sys.platform != "win32" or bool(ctypes.CDLL("shell32.dll").IsUserAnAdmin())


@dataclass
class PlayedTun:
    """Stands for an adapter of Wintun."""

    name: str
    mtu: int
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeWindows:
    """One machine. It outlives the processes that set it up: :meth:`process` is one of them.

    What changes it is written down in :attr:`calls`; :attr:`refuse` may raise instead.
    """

    calls: list[str] = field(default_factory=list)
    refuse: Callable[[str], None] = lambda command: None
    """Called with each change before it is done; may raise."""
    links: dict[str, int] = field(default_factory=lambda: {"Loopback": 1, "Ethernet": 11})
    """Numbers of interfaces, by name."""
    addresses: dict[str, list[str]] = field(
        default_factory=lambda: {
            "Loopback": ["127.0.0.1/8", "::1/128"],
            "Ethernet": ["192.168.1.23/24", "2001:db8:1::23/64"],
        }
    )
    routes: set[WindowsRoute] = field(
        default_factory=lambda: {
            WindowsRoute("0.0.0.0/0", "192.168.1.1", "Ethernet"),
            WindowsRoute("::/0", "fe80::1", "Ethernet"),
            WindowsRoute("192.168.1.0/24", "", "Ethernet"),
            WindowsRoute("2001:db8:1::/64", "", "Ethernet"),
        }
    )
    filters: tuple[str, ...] = ()
    persistent: bool = False
    permitted: int = 0
    """The interface that our filters let through, by a number that no other gets; 0: none."""
    settings: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    resolvers: dict[str, str] = field(default_factory=dict)
    made: int = 100

    @property
    def is_closed(self) -> bool:
        """Whether nothing leaves beside the TUN."""
        return "block out4" in self.filters

    def snapshot(self) -> tuple[object, ...]:
        """All that a process can leave behind."""
        addresses = {name: tuple(known) for name, known in self.addresses.items()}
        seen = (self.links, addresses, self.settings, self.resolvers)
        kept = [sorted(each.items(), key=str) for each in seen]
        return kept, sorted(self.routes), self.filters, self.persistent, self.permitted

    def reboot(self) -> None:
        """Start the machine again: what is not persistent is gone."""
        if not self.persistent:
            self.filters, self.permitted = (), 0

    def lose(self, name: str) -> None:
        """Take an interface away, with all that is on it."""
        self.links.pop(name, None)
        self.addresses.pop(name, None)
        self.resolvers.pop(name, None)
        self.routes = {route for route in self.routes if route.interface != name}
        self.settings = {key: value for key, value in self.settings.items() if key[0] != name}

    def look(self, leftover: Leftover | None = None) -> WindowsState:
        """The state as a process would see it."""
        uplinks: dict[int, WindowsUplink | None] = {4: None, 6: None}
        for route in sorted(self.routes):
            if route.destination in ("0.0.0.0/0", "::/0"):
                index = self.links[route.interface]
                version = 6 if ":" in route.destination else 4
                uplinks[version] = WindowsUplink(route.interface, index, route.gateway)
        networks = [ipaddress.ip_network(route.destination) for route in sorted(self.routes)]
        return WindowsState(
            links=tuple(HostLink(index, name) for name, index in self.links.items()),
            addresses=tuple(
                HostAddress(name, ipaddress.ip_interface(text))
                for name, known in self.addresses.items()
                for text in known
            ),
            routes=tuple(network for network in networks if network.prefixlen),
            uplinks=tuple(str(each) for each in uplinks.values() if each),
            uplink4=uplinks[4],
            uplink6=uplinks[6],
            table=frozenset(self.routes),
            filters=tuple(sorted(self.filters)),
            persistent=self.persistent,
            permitted=next((n for n, i in self.links.items() if i == self.permitted), ""),
            settings=dict(self.settings),
            resolvers=dict(self.resolvers),
            leftover=leftover,
        )

    def process(self) -> WindowsProcess:
        """Return what one process changes it through; its TUN goes with it."""
        return WindowsProcess(self)


class WindowsProcess:
    """What one process changes a :class:`FakeWindows` through."""

    def __init__(self, windows: FakeWindows) -> None:
        self.windows = windows
        self.device: PlayedTun | None = None

    def _change(self, command: str) -> None:
        self.windows.refuse(command)
        self.windows.calls.append(command)

    def _link(self, name: str) -> int:
        if name not in self.windows.links:
            raise OSError(1168, "Element not found")
        return self.windows.links[name]

    def observe(self, netns: str | None, own_inode: int) -> WindowsState:
        return self.windows.look()

    def look(self) -> WindowsState:
        return self.windows.look()

    def open_tun(self, name: str, *, mtu: int) -> None:
        if self.device is None:
            self._change(f"open_tun {name} {mtu}")
            self.device = PlayedTun(name, mtu)
            self.windows.made += 1
            self.windows.links[name] = self.windows.made
            self.windows.addresses[name] = []

    def close_tun(self) -> None:
        if self.device is not None:
            name, self.device = self.device.name, None
            self.windows.calls.append(f"close_tun {name}")
            self.windows.lose(name)

    def set_interface(self, name: str, version: int, *, mtu: int, metric: int) -> None:
        self._link(name)
        self._change(f"set_interface {name} {version} {mtu} {metric}")
        self.windows.settings[name, version] = (mtu, metric)

    def add_address(self, name: str, interface: str) -> None:
        self._link(name)
        self._change(f"add_address {name} {interface}")
        if interface not in self.windows.addresses[name]:
            self.windows.addresses[name].append(interface)

    def add_route(self, route: WindowsRoute) -> None:
        self._link(route.interface)
        self._change(f"add_route {route.destination} {route.gateway} {route.interface}")
        self.windows.routes.add(route)

    def remove_route(self, route: WindowsRoute) -> None:
        self._change(f"remove_route {route.destination} {route.gateway} {route.interface}")
        self.windows.routes.discard(route)

    def set_filters(self, filters: Sequence[Filter], *, persistent: bool) -> None:
        self._change("set_filters" + " persistent" * persistent)
        self.windows.filters = tuple(str(each) for each in filters)
        self.windows.persistent = persistent
        self.windows.permitted = 0 if self.device is None else self.windows.links[self.device.name]

    def remove_filters(self) -> None:
        self._change("remove_filters")
        self.windows.filters, self.windows.persistent, self.windows.permitted = (), False, 0

    def permit_tun(self, name: str) -> None:
        index = self._link(name)
        self._change(f"permit_tun {name}")
        self.windows.permitted = index

    def forbid_tun(self) -> None:
        self._change("forbid_tun")
        self.windows.permitted = 0

    def set_resolver(self, name: str, server: str) -> None:
        self._link(name)
        self._change(f"set_resolver {name} {server}".rstrip())
        if server:
            self.windows.resolvers[name] = server
        else:
            self.windows.resolvers.pop(name, None)

    def close(self) -> None:
        self.close_tun()
