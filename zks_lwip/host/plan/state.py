"""What a host looks like, as far as a plan depends on it: pure data, also made by hand in tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from .config import Network
from .marks import MarkUse
from .step import Step

__all__ = ["HostAddress", "HostLink", "HostState", "Leftover", "internal_bridges", "lan_networks"]

# Ranges that may be a LAN. Anything else on a link is not believed to be one: a hostile network
# would only have to call a public range its own subnet (TunnelCrack's LocalNet).
_LAN_RANGES: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7")
)
# Kinds of bridge ports behind which only machines of this host are.
_VIRTUAL_PORTS = {"veth", "tun"}


@dataclass(frozen=True, slots=True)
class HostLink:
    """A network interface; ``kind`` as rtnetlink has it (``veth``, ``bridge``) or empty."""

    index: int
    name: str
    kind: str = ""
    master: int | None = None
    up: bool = True
    peer_here: bool = False
    """The other end of a veth pair is in this namespace, too: no container's."""


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of an interface with the subnet that is on its link."""

    link: str
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an instance that died has left: from its journal."""

    pid: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """One network namespace at one moment."""

    netns: str | None = None
    inode: int = 0
    """Of the namespace."""
    own_inode: int = 0
    """Of the namespace that this process's sockets are in."""
    ipv6: bool = True
    """The kernel has IPv6."""
    links: tuple[HostLink, ...] = ()
    addresses: tuple[HostAddress, ...] = ()
    routes: tuple[Network, ...] = ()
    """Destinations of the main table, without default routes."""
    uplinks: tuple[str, ...] = ()
    """Routes of the main table, with their gateways: a change of these, or of addresses, may be
    another way to the worker."""
    ours: Collection[Step] = ()
    """Rules and routes that are there and bear our protocol number."""
    foreign_rules: tuple[str, ...] = ()
    """Rules of others with a priority before our last."""
    foreign_uses: tuple[str, ...] = ()
    """Uses of our routing table by others: a conflict."""
    mark_uses: tuple[MarkUse, ...] = ()
    """The marks that others' rules use, of routing and of firewalls: a conflict if one is ours."""
    unseen: tuple[str, ...] = ()
    """Where others' rules could not be read, and why."""
    nft: str | None = None
    """The path of nft(8)."""
    nft_table: bool = False
    """Our firewall's table is loaded; once we have loaded it, also: as we have loaded it."""
    foreign_table: bool = False
    """A table of its name is loaded that is not of our making."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    strict_rp_filter: bool = False
    """Some interface drops packets that come another way than the answer would go."""
    resolver: str = ""
    """``resolved``, ``resolvconf``, or empty."""
    resolver_prefix: str = ""
    """What names of resolvconf's records begin with, so that they come before others'."""
    resolver_wishes: str | None = None
    """Lines of resolv.conf(5) that resolvconf's record has to keep: ``search``, ``options``."""
    cgroup: str | None = None
    """Where cgroup v2 is mounted, below /sys/fs/cgroup, where nft(8) looks for it."""
    name_servers: tuple[str, ...] = ()
    """The IPv4 name servers that the host asks, not on loopback, the TUN's among them."""
    asks_itself: bool = False
    """Programs ask a name server on loopback, systemd-resolved's say."""
    leftover: Leftover | None = None

    def name_server(self, tun: ipaddress.IPv4Interface) -> str:
        """Return the first name server that is not the TUN's, empty if none is known.

        A resolver that has been told of the TUN's names that, too.
        """
        known = (ipaddress.IPv4Address(text) for text in self.name_servers)
        return next((str(each) for each in known if each not in tun.network), "")

    @property
    def own(self) -> bool:
        """It is the namespace of this process's sockets: they need marks to stay out of the TUN."""
        return self.inode == self.own_inode

    def link(self, name: str) -> HostLink | None:
        """Return the interface of that name; None if there is none."""
        return next((link for link in self.links if link.name == name), None)

    def has_address(self, link: str, interface: str) -> bool:
        """Return whether an interface has an address such as ``198.18.0.1/30``."""
        return any(a.link == link and str(a.interface) == interface for a in self.addresses)

    def is_up(self, link: str) -> bool:
        """Return whether an interface is there, and up."""
        found = self.link(link)
        return found is not None and found.up


def lan_networks(state: HostState, tun: str, *, internal_only: bool = False) -> list[Network]:
    """Return the private subnets on the links that are up, sorted; not loopback's and the TUN's.

    :param tun: name of the TUN.
    :param internal_only: only those of bridges that have ports of this host only (containers,
        virtual machines), which are no LAN even where the LAN is blocked.
    """
    found = set()
    for address in state.addresses:
        link = state.link(address.link)
        network = address.interface.network
        if link is None or not link.up or link.name in ("lo", tun):
            continue
        if internal_only and not _is_internal(state, link):
            continue
        if network.num_addresses > 1 and _is_private(network):
            found.add(network)
    by_version = sorted(found, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    return [n for n in by_version if not any(_within(n, other) for other in found if other != n)]


def internal_bridges(state: HostState) -> list[str]:
    """Return the bridges that have ports of this host's own machines only, sorted."""
    return sorted(link.name for link in state.links if _is_internal(state, link))


def _is_private(network: Network) -> bool:
    return any(_within(network, known) for known in _LAN_RANGES)


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _is_internal(state: HostState, link: HostLink) -> bool:
    if link.kind != "bridge":
        return False
    ports = [port for port in state.links if port.master == link.index]
    return all(port.kind in _VIRTUAL_PORTS and not port.peer_here for port in ports)
