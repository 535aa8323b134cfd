"""Windows, as steps act on it: its functions, and the TUN."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from ...device import WintunDevice, open_wintun
from ...errors import HostError, PrivilegeError
from ...net.uplinks import set_uplinks
from ...net.windows import (
    ERROR_ACCESS_DENIED,
    WindowsCallError,
    last_error,
)
from ..plan.windows.filters import Filter
from ..plan.windows.state import WindowsRoute, WindowsState
from .iphelper import UNBOUND, IpHelper
from .observe import Seen, read_state
from .structures import IpInterfaceRow
from .wfp import Engine, make_filter, make_tun_filters

__all__ = ["Resolvers", "WindowsHostSystem", "program_path"]


class Resolvers(Protocol):
    """Name servers of interfaces, given by hand."""

    def all(self) -> Mapping[str, str]:
        """Return the first of each interface that has any, by the interface's GUID."""
        ...

    def set(self, name: str, server: str) -> None:
        """Give an interface one, by its name; empty: none. Blocks."""
        ...


@contextlib.contextmanager
def _looking() -> Iterator[None]:
    """Say what Windows does not tell.

    :raises PrivilegeError: that is for an administrator alone.
    :raises HostError: for another reason.
    """
    try:
        yield
    except WindowsCallError as error:
        message = f"Windows does not tell the state of its network and its filters: {error}"
        if error.code == ERROR_ACCESS_DENIED:
            raise PrivilegeError(f"{message}; start this from an elevated prompt") from error
        raise HostError(message) from error


class WindowsHostSystem:
    """This machine.

    :param helper: the IP Helper API.
    :param open_engine: opens the filter engine.
    :param resolvers: the interfaces' name servers.
    :param program: path of the program that this is.
    :param open_tun: makes the TUN.
    :raises PrivilegeError: this is not an administrator.
    :raises HostError: the filter engine does not run.
    """

    def __init__(
        self,
        helper: IpHelper,
        open_engine: Callable[[], Engine],
        resolvers: Resolvers,
        program: str,
        open_tun: Callable[..., WintunDevice] = open_wintun,
    ) -> None:
        self.device: WintunDevice | None = None
        self._helper = helper
        with _looking():
            self._engine = open_engine()
        self._resolvers = resolvers
        self._program = program
        self._open_tun = open_tun

    def observe(self, netns: str | None, own_inode: int) -> WindowsState:
        """Return the state of this machine, and lead the tunnel's sockets by its default routes."""
        state = self.look()
        found = {4: state.uplink4, 6: state.uplink6}
        set_uplinks({version: each.ifindex for version, each in found.items() if each})
        return state

    def look(self) -> WindowsState:
        """Return the state of this machine.

        :raises PrivilegeError, HostError: Windows does not tell it.
        """
        with _looking():
            return self._look()

    def _look(self) -> WindowsState:
        interfaces = self._helper.interfaces()
        settings: dict[tuple[int, int], IpInterfaceRow] = {}
        for row in interfaces:
            for version in (4, 6):
                try:
                    one = self._helper.ip_interface(row.InterfaceLuid, version)
                except WindowsCallError as error:
                    # It does not have this version, or has just gone.
                    if error.code not in UNBOUND:
                        raise
                else:
                    settings[row.InterfaceLuid, version] = one
        return read_state(
            Seen(
                interfaces,
                self._helper.addresses(),
                self._helper.routes(),
                settings,
                self._engine.loaded(),
                self._resolvers.all(),
            )
        )

    def _luid(self, name: str) -> int:
        if self.device is not None and self.device.name == name:
            return self.device.luid
        for row in self._helper.interfaces():
            if row.name == name:
                return int(row.InterfaceLuid)
        raise HostError(f"there is no interface {name} any more")

    def open_tun(self, name: str, *, mtu: int) -> None:
        if self.device is None:
            self.device = self._open_tun(name, mtu=mtu)

    def close_tun(self) -> None:
        if self.device is not None:
            self.device.close()
            self.device = None

    def set_interface(self, name: str, version: int, *, mtu: int, metric: int) -> None:
        self._helper.set_ip_interface(self._luid(name), version, mtu=mtu, metric=metric)

    def add_address(self, name: str, interface: str) -> None:
        self._helper.add_address(self._luid(name), interface)

    def add_route(self, route: WindowsRoute) -> None:
        self._helper.add_route(route, self._luid(route.interface))

    def remove_route(self, route: WindowsRoute) -> None:
        luids = {row.name: int(row.InterfaceLuid) for row in self._helper.interfaces()}
        if route.interface in luids:
            self._helper.remove_route(route, luids[route.interface])

    def set_filters(self, filters: Sequence[Filter], *, persistent: bool) -> None:
        program = self._engine.program(self._program)
        made = [
            make_filter(one, len(filters) - number, persistent=persistent, program=program)
            for number, one in enumerate(filters)
        ]
        if self.device is not None:
            made += make_tun_filters(self.device.luid)
        with self._engine.transaction():
            self._engine.replace(made, persistent=persistent)

    def remove_filters(self) -> None:
        with self._engine.transaction():
            self._engine.remove()

    def permit_tun(self, name: str) -> None:
        luid = self._luid(name)
        with self._engine.transaction():
            self._engine.remove(only_tun=True)
            self._engine.add(make_tun_filters(luid))

    def forbid_tun(self) -> None:
        with self._engine.transaction():
            self._engine.remove(only_tun=True)

    def set_resolver(self, name: str, server: str) -> None:
        self._resolvers.set(name, server)

    def close(self) -> None:
        self.close_tun()
        self._engine.close()


def program_path() -> str:
    """Return the path of the program that runs: the interpreter itself, not a launcher of it."""
    kernel = ctypes.CDLL("kernel32.dll", use_last_error=True)
    buffer = ctypes.create_unicode_buffer(32768)
    if not kernel.GetModuleFileNameW(None, buffer, len(buffer)):
        raise last_error()
    return buffer.value
