"""Look at a network namespace: rtnetlink, sysctl files, the firewall's table, the resolver."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...net.netns import NamespaceThread, namespace_cookie, namespace_id
from ..journal import boot_id, journal_path, parse, read_journal
from ..plan.config import STATE_DIR, TABLE, Network
from ..plan.make import PRIORITY_ALL
from ..plan.marks import ALL_BITS, MarkUse
from ..plan.state import HostAddress, HostLink, HostState, Leftover
from ..plan.steps import MAIN, PROTOCOL, SYSCTLS, Nftables, Route, Rule, Step
from .cgroup import find_cgroups
from .find_marks import find_marks
from .find_resolver import find_name_servers, find_resolver, record_prefix, record_wishes
from .rtnetlink import Rtnetlink, open_rtnetlink
from .sysctl import read_sysctl
from .table import nft_path, table_presence

__all__ = ["look", "observe"]

_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_TO_TABLE, _UNREACHABLE = 1, 7
_PROTOCOL_KERNEL = 2  # of routes that come with an address
_PROTOCOLS = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp"}


async def observe(netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
    """Look at a network namespace, at the journal about it, and for others' marks.

    :param netns: a name of ``ip netns``, a path, or None for the one of this thread.
    :param state_dir: where journals are.
    :raises ConfigError: there is no such namespace.
    :raises PrivilegeError: it may not be entered.
    """
    thread = NamespaceThread(netns)
    try:
        return await thread.run(_observe, netns, namespace_id(None), state_dir)
    finally:
        thread.close()


def _observe(netns: str | None, own_inode: int, state_dir: Path) -> HostState:
    leftover, known = None, False
    path = journal_path(state_dir, namespace_id(None))
    text = None
    with contextlib.suppress(PermissionError):
        # (Not root: then nothing can be changed, and the first step will say so.)
        text = read_journal(path)
    if text is not None:
        record = parse(text)
        same = record.boot == boot_id() and record.is_of(namespace_cookie())
        if record.version and same:
            leftover = record.leftover()
        known = bool(text) and record.may_know(Nftables) and (same or not record.version)
    with open_rtnetlink() as ip:
        state = look(ip, netns, own_inode, leftover, table_known=known)
    uses, unseen = find_marks(state.nft)
    return replace(state, mark_uses=(*state.mark_uses, *uses), unseen=unseen)


def look(
    ip: Rtnetlink,
    netns: str | None,
    own_inode: int,
    leftover: Leftover | None,
    *,
    table_known: bool | None = None,
    loaded: str | None = None,
) -> HostState:
    """Return the state of the namespace that this thread, and ``ip``, are in.

    Marks of others are looked for in rules of routing only.

    :param own_inode: of the namespace that this process's sockets are in.
    :param leftover: what the journal says that a dead instance has left.
    :param table_known: an nftables table of our name is ours, whatever it looks like: a journal
        says that we have made it.
    :param loaded: what :func:`~zks_lwip.host.linux.table.list_table` gave when this process had
        loaded the table: it counts only if it is still so.
    :raises HostError: with ``loaded``, for want of descriptors or memory: to be tried again.
    """
    inode = namespace_id(None)
    ipv6 = Path("/proc/net/if_inet6").exists()
    links = {link.index: link for link in map(_link, ip.dump("link"))}
    ours, foreign, uses, marks = _rules(ip)
    networks, uplinks, routes, claimed = _routes(ip, links)
    nft = nft_path()
    our_table, foreign_table = table_presence(nft, table_known, loaded)
    resolver = find_resolver(inode)
    name_servers, asks_itself = find_name_servers()
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
        resolver_prefix=record_prefix(),
        resolver_wishes=record_wishes(resolver),
        cgroup=find_cgroups(),
        name_servers=name_servers,
        asks_itself=asks_itself,
        leftover=leftover,
    )


def _link(message: Any) -> HostLink:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    return HostLink(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind or "",
        master=message.get_attr("IFLA_MASTER"),
        up=bool(message["flags"] & 1),
        peer_here=kind == "veth" and message.get_attr("IFLA_LINK_NETNSID") is None,
    )


def _addresses(ip: Rtnetlink, links: dict[int, HostLink]) -> list[HostAddress]:
    found = []
    for message in ip.dump("addr"):
        if message["family"] not in _FAMILIES or message["index"] not in links:
            continue
        # On a point-to-point link IFA_ADDRESS is the peer's.
        local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        interface = ipaddress.ip_interface(f"{local}/{message['prefixlen']}")
        found.append(HostAddress(links[message["index"]].name, interface))
    return found


def _rules(ip: Rtnetlink) -> tuple[list[Step], list[str], list[str], list[MarkUse]]:
    """Read the rules of routing.

    :returns: ours; of others, those that come before our last, those that use our table, and their
        marks.
    """
    ours: list[Step] = []
    foreign, uses, marks = [], [], []
    for family, version in _FAMILIES.items():
        for message in ip.dump("rule", family):
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
    ip: Rtnetlink, links: dict[int, HostLink]
) -> tuple[list[Network], list[str], list[Step], list[str]]:
    """Read the routes.

    :returns: the main table's destinations, and its routes as texts; our routes; other programs'
        routes in our table.
    """
    networks: list[Network] = []
    uplinks = []
    ours: list[Step] = []
    claimed = []
    for family, version in _FAMILIES.items():
        for message in ip.dump("route", family):
            table = message.get_attr("RTA_TABLE") or message["table"]
            length = message["dst_len"]
            link = links.get(message.get_attr("RTA_OIF") or 0)
            destination = f"{message.get_attr('RTA_DST')}/{length}" if length else ""
            if table == MAIN and length:
                networks.append(ipaddress.ip_network(destination))
            if table == MAIN and message["proto"] != _PROTOCOL_KERNEL:
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


def _strict_rp_filter(links: dict[int, HostLink]) -> bool:
    names = ["all", *(link.name for link in links.values() if link.name != "lo")]
    values = {name: read_sysctl(f"net.ipv4.conf.{name}.rp_filter") for name in names}
    return any(max(values["all"] or "0", value or "0") == "1" for value in values.values())
