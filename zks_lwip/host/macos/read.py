"""Read what programs of macOS print: netstat, ifconfig, scutil, pfctl, route. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Mapping

from ..plan.macos.state import RouteEntry, Uplink
from ..plan.state import HostAddress, HostLink

__all__ = [
    "pf_calls_us",
    "read_interfaces",
    "read_name_server",
    "read_next_hop",
    "read_refused",
    "read_table",
    "uplinks",
]

_LINK = re.compile(r"([^\s:]+): flags=[0-9a-f]+<([^>]*)>")
_INET = re.compile(r"\s+inet (\S+) (?:--> \S+ )?netmask 0x([0-9a-f]{8})")
_INET6 = re.compile(r"\s+inet6 ([^%\s]+)\S* (?:--> \S+ )?prefixlen ([0-9]+)")
_NAME_SERVER = re.compile(r"^\s*nameserver\[[0-9]+\] : (\S+)$", re.MULTILINE)
_NEXT_HOP = re.compile(r"^\s*(gateway|interface): (\S+)$", re.MULTILINE)
_PACKETS = re.compile(r"\bPackets: ([0-9]+)")
_CLONED = "W"
_ANCHORS = 'anchor "com.apple/*" all'


def read_interfaces(
    text: str, indexes: Mapping[str, int]
) -> tuple[tuple[HostLink, ...], tuple[HostAddress, ...]]:
    """Read ``ifconfig -a``.

    :param indexes: of interfaces by their names; those without one have just gone.
    """
    links: list[HostLink] = []
    addresses = []
    for line in text.splitlines():
        if match := _LINK.match(line):
            flags = match[2].split(",")
            links.append(HostLink(indexes.get(match[1], 0), match[1], up="UP" in flags))
            continue
        for pattern in (_INET, _INET6):
            if links and (match := pattern.match(line)):
                length = int(match[2], 16).bit_count() if pattern is _INET else int(match[2])
                with contextlib.suppress(ValueError):  # no address that is one
                    interface = ipaddress.ip_interface(f"{match[1]}/{length}")
                    addresses.append(HostAddress(links[-1].name, interface))
    return tuple(link for link in links if link.index), tuple(addresses)


def read_table(text: str) -> list[RouteEntry]:
    """Read ``netstat -rn``, without what the kernel has cloned for single hosts."""
    found = []
    columns: list[str] = []
    version = 4
    for line in text.splitlines():
        fields = line.split()
        if fields in (["Internet:"], ["Internet6:"]):
            version = 4 if fields == ["Internet:"] else 6
        elif fields[:2] == ["Destination", "Gateway"]:
            columns = fields
        elif "Netif" in columns and len(fields) > columns.index("Netif"):
            flags, interface = fields[2], fields[columns.index("Netif")]
            destination = _destination(fields[0], version, flags)
            if destination is None or _CLONED in flags or "U" not in flags:
                continue
            gateway = _gateway(fields[1])
            found.append(RouteEntry(destination, gateway, interface, "I" in flags, "R" in flags))
    return found


def _gateway(text: str) -> str:
    """Return an address; empty for an interface, which is shown by number, name or MAC address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ""
    return text


def _destination(text: str, version: int, flags: str) -> str | None:
    """Return a destination in CIDR form; netstat leaves out zeros, and masks that are a class's."""
    if text == "default":
        return "0.0.0.0/0" if version == 4 else "::/0"
    address, slash, length = re.sub(r"%[^/]*", "", text).partition("/")
    if version == 4:
        octets = address.split(".")
        length = length if slash else "32" if "H" in flags else str(8 * len(octets))
        address = ".".join([*octets, "0", "0", "0"][:4])
    elif not slash:
        length = "128"
    try:
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
    except ValueError:
        return None  # of no family that is ours


def uplinks(
    table: list[RouteEntry], indexes: Mapping[str, int]
) -> tuple[Uplink | None, Uplink | None]:
    """Return the default routes of IPv4 and of IPv6, which sockets without a scope use."""

    def first(destination: str) -> Uplink | None:
        for entry in table:
            usable = entry.interface in indexes and not entry.scoped and not entry.rejects
            if entry.destination == destination and usable:
                return Uplink(entry.interface, indexes[entry.interface], entry.gateway)
        return None

    return first("0.0.0.0/0"), first("::/0")


def read_name_server(text: str) -> tuple[str, bool]:
    """Read ``scutil --dns``.

    :returns: the first IPv4 name server that is not on loopback, or nothing, and whether the first
        of all is on loopback.
    """
    servers = _NAME_SERVER.findall(text)
    outside = [each for each in servers if ":" not in each and not each.startswith("127.")]
    on_loopback = bool(servers) and (servers[0].startswith("127.") or servers[0] == "::1")
    return (outside[0] if outside else "", on_loopback)


def pf_calls_us(rules: str) -> bool:
    """Read ``pfctl -s rules``: whether pf comes to our anchor, whatever the packet.

    A rule that passes packets for good before would let them out past us.
    """
    for line in rules.splitlines():
        words = line.split()
        if line.strip() == _ANCHORS:
            return True
        if words[:1] == ["pass"] and "quick" in words:
            return False
    return False


def read_refused(text: str) -> int:
    """Read ``pfctl -v -s rules``: how many packets the rules that refuse have met."""
    refused, counts = 0, False
    for line in text.splitlines():
        if not line.startswith(" "):
            counts = line.startswith("block")
        elif counts and (match := _PACKETS.search(line)):
            refused += int(match[1])
    return refused


def read_next_hop(text: str) -> tuple[str, str]:
    """Read ``route -n get``: gateway and interface, empty where there are none."""
    found = dict(_NEXT_HOP.findall(text))
    gateway = found.get("gateway", "")
    interface = found.get("interface", "")
    return ("" if gateway == interface or gateway.startswith("link#") else gateway, interface)
