"""Look at a machine with Windows: interfaces, addresses, routes, filters, the resolver."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..plan.state import HostAddress, HostLink, Leftover
from ..plan.windows.state import WindowsRoute, WindowsState, WindowsUplink
from .structures import ADDRESSES, AddressRow, InterfaceRow, IpInterfaceRow, RouteRow
from .structures import unpack_address as address_of
from .wfp import Loaded

__all__ = ["Seen", "read_state"]

_UP = 1  # IfOperStatusUp
_LOOPBACK = 24  # IF_TYPE_SOFTWARE_LOOPBACK


class Seen(NamedTuple):
    """What Windows has told."""

    interfaces: Sequence[InterfaceRow]
    addresses: Sequence[AddressRow]
    routes: Sequence[RouteRow]
    settings: Mapping[tuple[int, int], IpInterfaceRow]
    """By an interface's LUID and the version of IP."""
    filters: Sequence[Loaded]
    resolvers: Mapping[str, str]
    """Name servers given by hand, by the interface's GUID."""


def read_state(seen: Seen, leftover: Leftover | None = None) -> WindowsState:
    """Return the state that Windows has told of.

    :param leftover: what the journal says that a dead instance has left.
    """
    names = {row.InterfaceLuid: row.name for row in seen.interfaces}
    loopback = {row.InterfaceLuid for row in seen.interfaces if row.Type == _LOOPBACK}
    addresses = tuple(
        HostAddress(names[row.InterfaceLuid], _interface(row))
        for row in seen.addresses
        if row.InterfaceLuid in names and row.Address.si_family in ADDRESSES
    )
    routes = [row for row in seen.routes if row.InterfaceLuid in names]
    table = frozenset(
        WindowsRoute(_destination(row), _gateway(row), names[row.InterfaceLuid]) for row in routes
    )
    found = {
        version: _uplink(routes, version, names, loopback, seen.settings) for version in (4, 6)
    }
    lines = [one for one in seen.filters if not one.luid]
    known = {bytes(row.InterfaceGuid): row.name for row in seen.interfaces}
    return WindowsState(
        ipv6=any(each.interface.version == 6 for each in addresses),
        links=tuple(
            HostLink(row.InterfaceIndex, row.name, up=row.OperStatus == _UP)
            for row in seen.interfaces
            if row.InterfaceLuid not in loopback and row.name
        ),
        addresses=addresses,
        routes=tuple(
            network
            for entry in sorted(table)
            if (network := ipaddress.ip_network(entry.destination)).prefixlen
        ),
        uplinks=tuple(str(each) for each in found.values() if each),
        uplink4=found[4],
        uplink6=found[6],
        table=table,
        filters=tuple(sorted(one.line for one in lines)),
        persistent=any(one.persistent for one in lines),
        permitted=next((names[one.luid] for one in seen.filters if one.luid in names), ""),
        settings={
            (names[luid], version): (row.NlMtu, 0 if row.UseAutomaticMetric else row.Metric)
            for (luid, version), row in seen.settings.items()
            if luid in names
        },
        resolvers={
            known[guid]: server
            for guid, server in ((_guid(text), server) for text, server in seen.resolvers.items())
            if guid in known
        },
        leftover=leftover,
    )


def _guid(text: str) -> bytes:
    import uuid

    return uuid.UUID(text).bytes_le


def _interface(row: AddressRow) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    return ipaddress.ip_interface(f"{address_of(row.Address)}/{row.OnLinkPrefixLength}")


def _destination(row: RouteRow) -> str:
    prefix = row.DestinationPrefix
    return f"{address_of(prefix.Prefix)}/{prefix.PrefixLength}"


def _gateway(row: RouteRow) -> str:
    gateway = address_of(row.NextHop)
    return "" if gateway.is_unspecified else str(gateway)


def _uplink(
    routes: Iterable[RouteRow],
    version: int,
    names: Mapping[int, str],
    loopback: set[int],
    settings: Mapping[tuple[int, int], IpInterfaceRow],
) -> WindowsUplink | None:
    """Return the default route with the least sum of metrics, of an interface that is connected."""
    best: tuple[int, WindowsUplink] | None = None
    for row in routes:
        if row.DestinationPrefix.PrefixLength or row.InterfaceLuid in loopback:
            continue
        if address_of(row.DestinationPrefix.Prefix).version != version:
            continue
        setting = settings.get((row.InterfaceLuid, version))
        if setting is None or not setting.Connected:
            continue
        metric = row.Metric + setting.Metric
        if best is None or metric < best[0]:
            name = names[row.InterfaceLuid]
            best = (metric, WindowsUplink(name, row.InterfaceIndex, _gateway(row)))
    return best and best[1]
