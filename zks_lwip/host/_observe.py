"""Look at a network namespace through rtnetlink; runs in a thread that is in it."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from zks_lwip._descriptors import is_scarcity
from zks_lwip.device._netns import namespace_cookie, namespace_id
from zks_lwip.errors import HostError
from zks_lwip.host._programs import read_program, search_path
from zks_lwip.host.config import TABLE, Network
from zks_lwip.host.firewall import is_ours
from zks_lwip.host.marks import ALL_BITS, MarkUse
from zks_lwip.host.plan import PRIORITY_ALL
from zks_lwip.host.resolv_conf import read_resolv_conf
from zks_lwip.host.state import HostAddress, HostState, Leftover, Link
from zks_lwip.host.steps import PROTOCOL, SYSCTLS, TABLE_NAME, Route, Rule, Step

__all__ = ["list_table", "look", "nft_path"]

_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_TO_TABLE, _UNREACHABLE = 1, 7
_MAIN = 254
_PROTOCOL_KERNEL = 2  # of routes that come with an address
# Of the network namespace that the machine started with (net/core/net_namespace.c).
_FIRST_COOKIE = 1
_ORDER = Path("/etc/resolvconf/interface-order")
_PROTOCOLS = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp"}


def nft_path() -> str | None:
    """Where nft(8) is."""
    return shutil.which("nft", path=search_path())


def look(
    ip: IPRoute,
    netns: str | None,
    own_inode: int,
    leftover: Leftover | None,
    *,
    table_known: bool | None = None,
    loaded: str | None = None,
) -> HostState:
    """The state of the namespace that this thread, and ``ip``, are in.

    With ``table_known`` an nftables table of our name is ours, whatever it looks like: a journal
    says that we have made it. With ``loaded``, what :func:`list_table` gave when we had loaded it,
    it counts only if it is still so. Marks of others are looked for in rules of routing only.

    :raises HostError: with ``loaded``, for want of descriptors or memory: to be tried again.
    """
    inode = namespace_id(None)
    ipv6 = Path("/proc/net/if_inet6").exists()
    links = {link.index: link for link in map(_link, ip.get_links())}
    ours, foreign, uses, marks = _rules(ip)
    networks, uplinks, routes, claimed = _routes(ip, links)
    nft = nft_path()
    our_table, foreign_table = _table(nft, table_known, loaded)
    resolver = _resolver(inode)
    return HostState(
        netns=netns,
        inode=inode,
        own_inode=own_inode,
        ipv6=ipv6,
        links=tuple(links.values()),
        addresses=tuple(_addresses(ip, links)),
        routes=tuple(networks),
        uplinks=tuple(uplinks),
        ours=(*ours, *routes),
        foreign_rules=tuple(foreign),
        foreign_uses=(*uses, *claimed),
        mark_uses=tuple(marks),
        nft=nft,
        nft_table=our_table,
        foreign_table=foreign_table,
        sysctls={name: value for name in SYSCTLS if (value := read_sysctl(name)) is not None},
        strict_rp_filter=_strict_rp_filter(links),
        resolver=resolver,
        resolver_prefix=_resolver_prefix(),
        resolver_wishes=_resolver_wishes(resolver),
        leftover=leftover,
    )


def read_sysctl(name: str) -> str | None:
    """The value of a sysctl in this namespace; None if the kernel does not have it."""
    try:
        return sysctl_path(name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def sysctl_path(name: str) -> Path:
    """The file of a sysctl; an interface may be called ``eth0.5``."""
    start, _, rest = name.partition(".conf.")
    path = Path("/proc/sys", *start.split("."))
    if not rest:
        return path
    interface, _, setting = rest.rpartition(".")
    return path / "conf" / interface / setting


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind or "",
        master=message.get_attr("IFLA_MASTER"),
        up=bool(message["flags"] & 1),
        peer_here=kind == "veth" and message.get_attr("IFLA_LINK_NETNSID") is None,
    )


def _addresses(ip: IPRoute, links: dict[int, Link]) -> list[HostAddress]:
    found = []
    for message in ip.get_addr():
        if message["family"] not in _FAMILIES or message["index"] not in links:
            continue
        # On a point-to-point link IFA_ADDRESS is the peer's.
        local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        interface = ipaddress.ip_interface(f"{local}/{message['prefixlen']}")
        found.append(HostAddress(links[message["index"]].name, interface))
    return found


def _rules(ip: IPRoute) -> tuple[list[Step], list[str], list[str], list[MarkUse]]:
    """Ours; of others, those that come before our last, that use our table, and their marks."""
    ours: list[Step] = []
    foreign, uses, marks = [], [], []
    for family, version in _FAMILIES.items():
        for message in ip.get_rules(family=family):
            priority = message.get_attr("FRA_PRIORITY") or 0
            if message.get_attr("FRA_PROTOCOL") == PROTOCOL:
                ours.append(_rule(message, version, priority))
                continue
            table = message.get_attr("FRA_TABLE") or message["table"]
            text = f"ip -{version} rule with priority {priority}"
            if mark := message.get_attr("FRA_FWMARK"):
                bits = message.get_attr("FRA_FWMASK") or ALL_BITS
                marks.append(MarkUse(text, mark & bits, mark & bits, bits))
            if table == TABLE:
                uses.append(f"{text} (table {table})")
            elif 0 < priority <= PRIORITY_ALL:
                foreign.append(text)
    return ours, foreign, uses, marks


def _rule(message: Any, version: int, priority: int) -> Rule:
    source, destination = message.get_attr("FRA_SRC"), message.get_attr("FRA_DST")
    table = message.get_attr("FRA_TABLE") or message["table"]

    def first(name: str) -> int | None:
        value = message.get_attr(name)
        return None if value is None else int(str(value).split(":")[0])

    protocol = message.get_attr("FRA_IP_PROTO")
    return Rule(
        family=version,
        priority=priority,
        table=table if message["action"] == _TO_TABLE else None,
        fwmark=message.get_attr("FRA_FWMARK"),
        to=None if destination is None else f"{destination}/{message['dst_len']}",
        uid=first("FRA_UID_RANGE"),
        ipproto=None if protocol is None else _PROTOCOLS.get(protocol, str(protocol)),
        sport=first("FRA_SPORT_RANGE"),
        dport=first("FRA_DPORT_RANGE"),
        source=None if source is None else f"{source}/{message['src_len']}",
        iif=message.get_attr("FRA_IIFNAME"),
    )


def _routes(
    ip: IPRoute, links: dict[int, Link]
) -> tuple[list[Network], list[str], list[Step], list[str]]:
    """The main table's destinations and its ways; our routes; others' routes in our table."""
    networks: list[Network] = []
    uplinks = []
    ours: list[Step] = []
    claimed = []
    for family, version in _FAMILIES.items():
        for message in ip.get_routes(family=family):
            table = message.get_attr("RTA_TABLE") or message["table"]
            length = message["dst_len"]
            link = links.get(message.get_attr("RTA_OIF") or 0)
            destination = f"{message.get_attr('RTA_DST')}/{length}" if length else ""
            if table == _MAIN and length:
                networks.append(ipaddress.ip_network(destination))
            if table == _MAIN and message["proto"] != _PROTOCOL_KERNEL:
                gateway, metric = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PRIORITY")
                name = link.name if link else ""
                uplinks.append(f"{destination or 'default'} {gateway} {name} {metric}")
            if table != TABLE:
                continue
            if message["proto"] != PROTOCOL or length:
                claimed.append(f"a route of another program is in table {TABLE}")
                continue
            device = None if message["type"] == _UNREACHABLE or link is None else link.name
            ours.append(Route(version, TABLE, message.get_attr("RTA_PRIORITY") or 0, device))
    return networks, uplinks, ours, claimed


def list_table(nft: str) -> str:
    """Our table as it is: rules, chains, sets and flags, without what counts; empty if it is not.

    :raises HostError: it cannot be told.
    """
    argv = [nft, "-s", "-n", "list", "table", "inet", TABLE_NAME]
    code, listing = read_program(argv, patience=10)
    return listing if code == 0 else ""


def _table(nft: str | None, known: bool | None, loaded: str | None) -> tuple[bool, bool]:
    """Whether our firewall is there; whether another table of its name is."""
    if nft is None:
        return False, False
    try:
        if loaded is not None:
            return list_table(nft) == loaded, False
        # As text, which every nft prints, and without what is in the sets.
        argv = [nft, "-t", "list", "table", "inet", TABLE_NAME]
        code, listing = read_program(argv, patience=10)
    except HostError as error:
        if loaded is not None and is_scarcity(error):
            raise  # or what has been done to it would be seen with the next change only
        # Whoever has to change it will hear why; what was known before is not forgotten for that.
        return known is not False, False
    ours = bool(known) or is_ours(listing)
    return code == 0 and ours, code == 0 and not ours


def _strict_rp_filter(links: dict[int, Link]) -> bool:
    names = ["all", *(link.name for link in links.values() if link.name != "lo")]
    values = {name: read_sysctl(f"net.ipv4.conf.{name}.rp_filter") for name in names}
    return any(max(values["all"] or "0", value or "0") == "1" for value in values.values())


def _resolver(inode: int) -> str:
    """Which resolver serves this namespace: there is none but in the one that init is in."""
    try:
        if os.stat("/proc/1/ns/net").st_ino != inode:
            return ""
    except (PermissionError, FileNotFoundError):
        # Process 1 is not shown to us: without CAP_SYS_PTRACE, or by ProtectProc= of a service.
        if namespace_cookie() != _FIRST_COOKIE:
            return ""
    resolvectl = shutil.which("resolvectl", path=search_path())
    if resolvectl and Path("/run/systemd/resolve/io.systemd.Resolve").exists():
        return "resolved"
    resolvconf = shutil.which("resolvconf", path=search_path())
    if resolvconf and Path(resolvconf).resolve().name != "resolvectl":
        return "resolvconf"
    return ""


def _resolver_wishes(resolver: str) -> str | None:
    """systemd-resolved keeps them by itself; and what nothing replaces need not be kept."""
    return ("\n".join(read_resolv_conf().lines()) or None) if resolver == "resolvconf" else None


def _resolver_prefix() -> str:
    """Debian's resolvconf has an order of names, and knows no other; its first pattern's."""
    try:
        text = _ORDER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^([A-Za-z0-9-]+)\*$", text, re.MULTILINE)
    return f"{found[1]}." if found else ""
