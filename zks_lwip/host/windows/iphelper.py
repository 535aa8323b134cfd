"""The IP Helper API by ctypes: interfaces, addresses, routes, and what is set of them."""

from __future__ import annotations

import ctypes
import ipaddress
import time
from collections.abc import Callable
from ctypes import POINTER, c_uint16, c_uint32, c_void_p, pointer
from typing import Any, TypeVar

from ...net.windows import (
    ERROR_ALREADY_EXISTS,
    ERROR_FILE_NOT_FOUND,
    WindowsCallError,
    last_error,
)
from ..plan.windows.state import WindowsRoute, WindowsUplink
from .structures import (
    ALL_FAMILIES,
    FAMILIES,
    AddressRow,
    AddressTable,
    InterfaceRow,
    InterfaceTable,
    IpInterfaceRow,
    RouteRow,
    RouteTable,
    SockaddrInet,
    pack_address,
    unpack_address,
)

__all__ = ["ERROR_NOT_FOUND", "ERROR_OBJECT_ALREADY_EXISTS", "UNBOUND", "IpHelper", "route_row"]

ERROR_NOT_FOUND, ERROR_OBJECT_ALREADY_EXISTS = 1168, 5010
UNBOUND = (ERROR_NOT_FOUND, ERROR_FILE_NOT_FOUND)
"""What is answered about an interface that does not have that version of IP."""
_DAD_PREFERRED = 4
_MANUAL = 3  # MIB_IPPROTO_NETMGMT
_FOREVER = 0xFFFFFFFF
_LOOK = 0.05

Row = TypeVar("Row", bound=ctypes.Structure)


def route_row(route: WindowsRoute, luid: int) -> RouteRow:
    """Return a route as Windows takes it, with the least metric, until the machine starts again."""
    network = ipaddress.ip_network(route.destination)
    row = RouteRow(InterfaceLuid=luid, ValidLifetime=_FOREVER, PreferredLifetime=_FOREVER)
    row.DestinationPrefix.Prefix = pack_address(str(network.network_address))
    row.DestinationPrefix.PrefixLength = network.prefixlen
    row.NextHop = pack_address(route.gateway or ("::" if network.version == 6 else "0.0.0.0"))
    row.Metric, row.Protocol, row.Immortal = 0, _MANUAL, 1
    return row


class IpHelper:
    """Functions of ``iphlpapi.dll``; each raises :exc:`WindowsCallError` where it fails.

    :param library: the library.
    :param patience: seconds until an interface that is set up has to have that version of IP.
    """

    def __init__(self, library: ctypes.CDLL, *, patience: float = 10.0) -> None:
        self._library = library
        self._patience = patience

    def _call(self, name: str, *arguments: Any, also: tuple[int, ...] = ()) -> None:
        function = self._library[name]
        function.restype = c_uint32
        code = function(*arguments)
        if code != 0 and code not in also:
            raise last_error(code)

    def _table(
        self, name: str, table: type[ctypes.Structure], row: type[Row], *families: Any
    ) -> list[Row]:
        found = POINTER(table)()
        self._call(name, *families, pointer(found))
        try:
            at = ctypes.addressof(found.contents) + table.Table.offset
            count = found.contents.NumEntries
            rows = (row * count).from_address(at)
            return [row.from_buffer_copy(each) for each in rows]
        finally:
            release: Callable[..., None] = self._library["FreeMibTable"]
            release(found)

    def interfaces(self) -> list[InterfaceRow]:
        """Return all interfaces."""
        return self._table("GetIfTable2", InterfaceTable, InterfaceRow)

    def addresses(self) -> list[AddressRow]:
        """Return the addresses of all interfaces."""
        family = c_uint16(ALL_FAMILIES)
        return self._table("GetUnicastIpAddressTable", AddressTable, AddressRow, family)

    def routes(self) -> list[RouteRow]:
        """Return the routes of IPv4 and IPv6."""
        return self._table("GetIpForwardTable2", RouteTable, RouteRow, c_uint16(ALL_FAMILIES))

    def ip_interface(self, luid: int, version: int) -> IpInterfaceRow:
        """Return the settings of an interface for IPv4 or IPv6."""
        row = IpInterfaceRow()
        initialize: Callable[..., None] = self._library["InitializeIpInterfaceEntry"]
        initialize(pointer(row))
        row.Family, row.InterfaceLuid = FAMILIES[version], luid
        self._call("GetIpInterfaceEntry", pointer(row))
        return row

    def set_ip_interface(self, luid: int, version: int, *, mtu: int, metric: int) -> None:
        """Set MTU and metric of an interface, for IPv4 or IPv6. Blocks."""
        row = self._bound(luid, version)
        row.SitePrefixLength = 0  # which Windows gives for IPv4, and does not take
        row.NlMtu, row.UseAutomaticMetric, row.Metric = mtu, 0, metric
        row.DadTransmits = 0  # the address is at once usable
        self._call("SetIpInterfaceEntry", pointer(row))

    def _bound(self, luid: int, version: int) -> IpInterfaceRow:
        """Return its settings; Windows binds IPv4 and IPv6 to a new adapter a moment later."""
        end = time.monotonic() + self._patience
        while True:
            try:
                return self.ip_interface(luid, version)
            except WindowsCallError as error:
                if error.code not in UNBOUND or time.monotonic() >= end:
                    raise
            time.sleep(_LOOK)

    def add_address(self, luid: int, interface: str) -> None:
        """Give an interface an address."""
        given = ipaddress.ip_interface(interface)
        row = AddressRow()
        initialize: Callable[..., None] = self._library["InitializeUnicastIpAddressEntry"]
        initialize(pointer(row))
        row.InterfaceLuid, row.Address = luid, pack_address(str(given.ip))
        row.OnLinkPrefixLength, row.DadState = given.network.prefixlen, _DAD_PREFERRED
        also = (ERROR_OBJECT_ALREADY_EXISTS, ERROR_ALREADY_EXISTS)
        self._call("CreateUnicastIpAddressEntry", pointer(row), also=also)

    def add_route(self, route: WindowsRoute, luid: int) -> None:
        """Add a route; harmless where it is there."""
        also = (ERROR_OBJECT_ALREADY_EXISTS, ERROR_ALREADY_EXISTS)
        self._call("CreateIpForwardEntry2", pointer(route_row(route, luid)), also=also)

    def remove_route(self, route: WindowsRoute, luid: int) -> None:
        """Remove a route; harmless where it has gone."""
        also = (ERROR_NOT_FOUND, ERROR_FILE_NOT_FOUND)
        self._call("DeleteIpForwardEntry2", pointer(route_row(route, luid)), also=also)

    def best_route(self, address: str, ifindex: int) -> WindowsUplink | None:
        """Return by which interface and gateway an address is reached; None: by none.

        :param ifindex: of the only interface that may be used; 0: of any.
        """
        row, source, to = RouteRow(), SockaddrInet(), pack_address(address)
        arguments = (None, c_uint32(ifindex), None, pointer(to), c_uint32(0))
        try:
            self._call("GetBestRoute2", *arguments, pointer(row), pointer(source))
        except WindowsCallError:  # no route, or the interface has just gone
            return None
        gateway = unpack_address(row.NextHop)
        return WindowsUplink("", row.InterfaceIndex, "" if gateway.is_unspecified else str(gateway))

    def notify(self, name: str, callback: Any) -> c_void_p:
        """Have a function be called when interfaces, addresses or routes change.

        :param name: of the function of Windows that does so.
        """
        handle = c_void_p()
        family = c_uint16(ALL_FAMILIES)
        self._call(name, family, callback, None, ctypes.c_ubyte(0), pointer(handle))
        return handle

    def end_notify(self, handle: c_void_p) -> None:
        """End that; returns when no call runs any more."""
        self._call("CancelMibChangeNotify2", handle)
