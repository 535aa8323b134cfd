"""The nftables table of ``--kill-switch strict``, as text for one ``nft -f`` (nft(8)).

What leaves is judged at postrouting: at output a packet that was rerouted still shows its old
interface, and forwarded packets do not pass there. All of it is by interface *name*, so it holds
before the TUN is there and after it has gone.

An exception is for packets of this machine's own where it says so. What tells them from those of a
container (or a virtual machine) that pass here: a socket of this namespace (``meta skuid`` matches
only packets that have one), a source that is never forwarded, or a destination that is ours. The
incoming interface does not tell: bridged packets, which the kernel shows to the firewall with
``bridge-nf-call-iptables``, have none at postrouting, just as our own, and before Linux 5.10 no
packet has one. An IPv6 source of ours does not tell, either: the kernel forwards forged ones.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .config import HostConfig, Network
from .steps import TABLE_NAME

__all__ = ["Firewall", "is_ours", "ruleset"]

# What is on a link besides its subnets: multicast (mDNS), broadcast, link-local.
_LAN_ALWAYS = {4: ("224.0.0.0/4", "255.255.255.255/32"), 6: ("fe80::/10", "ff02::/16")}
_NDP = "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert"
_MLD = "mld-listener-report, mld-listener-done, mld2-listener-report"
# Sent by a socket of this namespace, of any user: without one, `meta skuid` does not match at all.
_BY_A_SOCKET = "meta skuid != 4294967295"
# Ports of DNS, and of DNS over TLS (RFC 7858) and over QUIC (RFC 9250).
_DNS_PORT, _DOT_PORT = 53, 853
# What nft(8) takes as it is between quotes; `*` at the end would stand for any name.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# What every table of ours has, and had in every version.
_SIGNS = (
    re.compile(r"^\s*counter refused \{", re.MULTILINE),
    re.compile(r"^\s*chain dns \{\s*type nat hook output ", re.MULTILINE),
    re.compile(r"^\s*chain leaving \{\s*type filter hook postrouting ", re.MULTILINE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """What the ruleset is made from, besides the configuration."""

    marks: bool
    """The tunnel's sockets are in this namespace, and marked."""
    tun4: Network
    tun6: Network | None
    server4: str
    """What answers DNS behind the TUN."""
    lan: Sequence[Network]
    """Subnets that may be reached directly, if any."""
    bridges: Sequence[str] = ()
    """Bridges behind which there are only containers and virtual machines of this host."""
    name_server: str = ""
    """Answers excluded programs' questions to ``server4`` or to loopback; empty: these do."""
    asks_itself: bool = False
    """Programs ask a name server on loopback."""


def ruleset(config: HostConfig, firewall: Firewall) -> str:
    """Return the whole table, for ``nft -f``.

    Loading it replaces one that is there, without a moment between. The chains of one that is there
    stay, and get other rules. With the table deleted and made anew, in one transaction, packets
    were seen to pass a rule that a set keeps from them: see ``_leaving``.
    """
    sets: dict[str, Sequence[Network]] = {}
    if not config.only:
        sets["lan"] = _lan_set(config, firewall.lan)
    if config.bypass:
        sets["bypass"] = config.bypass
    if firewall.marks and config.peers is not None:
        sets["peers"] = config.peers
    chains = [
        _chain("spoofed", "filter", "prerouting", "raw", _spoofed(config, firewall)),
        _chain("restore", "filter", "prerouting", "mangle", _restore(config, firewall)),
        _chain("replies", "route", "output", "mangle", _replies(config, firewall)),
        _chain("dns", "nat", "output", "-100", _dns(config, firewall)),
        _chain("forwarded", "filter", "forward", "filter", _forwarded(config)),
        _chain("leaving", "filter", "postrouting", "filter", _leaving(config, firewall)),
        _chain("sources", "nat", "postrouting", "srcnat", _sources(config)),
    ]
    body = [*_sets(sets), "counter refused { }", *[line for chain in chains for line in chain]]
    inner = "".join(f"\t{line}\n" for line in body)
    return (
        f"add table inet {TABLE_NAME}\nflush table inet {TABLE_NAME}\n"
        f"{_emptied(sets)}table inet {TABLE_NAME} {{\n{inner}}}\n"
    )


def is_ours(listing: str) -> bool:
    """Return whether a table of our name is of our making, too.

    Told by what it is made of: a comment of the table's, or anything new, could not be in those
    that earlier versions have left closed, nor be added to a table that is there.

    :param listing: what ``nft list table`` shows of it.
    """
    return all(sign.search(listing) for sign in _SIGNS)


def _lan_set(config: HostConfig, lan: Sequence[Network]) -> Sequence[Network]:
    if not config.lan:
        return lan
    always = [ipaddress.ip_network(text) for texts in _LAN_ALWAYS.values() for text in texts]
    return [*lan, *always]


def _elements(networks: Iterable[Network], version: int) -> str:
    return ", ".join(str(network) for network in networks if network.version == version)


_KINDS = ((4, "ipv4_addr"), (6, "ipv6_addr"))


def _emptied(names: Iterable[str]) -> str:
    """Return what makes sure that the sets exist, and hold nothing of an earlier table."""
    lines = []
    for name in names:
        for version, kind in _KINDS:
            known = f"set inet {TABLE_NAME} {name}{version}"
            lines.append(f"add {known} {{ type {kind}; flags interval; auto-merge; }}\n")
            lines.append(f"flush {known}\n")
    return "".join(lines)


def _sets(sets: dict[str, Sequence[Network]]) -> list[str]:
    lines = []
    for name, networks in sets.items():
        for version, kind in _KINDS:
            elements = _elements(networks, version)
            inside = f" elements = {{ {elements} }};" if elements else ""
            head = f"set {name}{version} {{ type {kind}; flags interval; auto-merge;"
            lines.append(f"{head}{inside} }}")
    return lines


def _chain(name: str, kind: str, hook: str, priority: str, rules: list[str]) -> list[str]:
    if not rules:
        return []
    head = f"type {kind} hook {hook} priority {priority}; policy accept;"
    return [f"chain {name} {{", f"\t{head}", *(f"\t{rule}" for rule in rules), "}"]


def _outside(config: HostConfig, direction: str) -> str:
    return f'{direction} != {{ "lo", "{config.tun}" }}'


def _spoofed(config: HostConfig, firewall: Firewall) -> list[str]:
    """Keep neighbours from reaching, and so finding out, the TUN's addresses (CVE-2019-14899)."""
    outside = _outside(config, "iifname")
    rules = [f"{outside} ip daddr {firewall.tun4} drop"]
    if firewall.tun6 is not None:
        rules.append(f"{outside} ip6 daddr {firewall.tun6} drop")
    if config.exclude and firewall.asks_itself:
        # route_localnet lets an answer come in for 127.0.0.1, and nothing that was sent there.
        rules.append('iifname != "lo" ip daddr 127.0.0.0/8 drop')
    return rules


def _restore(config: HostConfig, firewall: Firewall) -> list[str]:
    """Give packets of marked connections the mark back before the reverse path is looked at."""
    outside = _outside(config, "iifname")
    # What arrives for ourselves, before a container engine's DNAT (priority -100) makes it that of
    # a published port: what a container sends elsewhere must not have the mark, whatever its port.
    here = "fib daddr type local"
    rules = []
    if firewall.marks:
        rules.append(f"{outside} ct mark {config.mark:#x} {here} meta mark set {config.mark:#x}")
    if config.exclude:
        mark = f"{config.mark_excluded:#x}"
        rules.append(f"{outside} ct mark {mark} {here} meta mark set {mark}")
    if ports := ", ".join(map(str, sorted(set(config.inbound)))):
        mark = f"{config.mark_inbound:#x}"
        new = f"{outside} ct state new {here} meta l4proto {{ tcp, udp }} th dport {{ {ports} }}"
        rules.append(f"{new} ct mark set {mark}")
        rules.append(f"ct mark {mark} {here} meta mark set {mark}")
        # Those of the container behind a published port, by its own address: ours would be forged.
        answer = f"ct direction reply ct mark {mark} fib saddr type != local"
        rules.append(f"{answer} meta mark set {mark}")
    return rules


def _replies(config: HostConfig, firewall: Firewall) -> list[str]:
    """Mark what the kernel itself sends for a marked connection (a RST): it bears no mark."""
    rules = []
    if firewall.marks:
        rules.append(f"meta mark 0 ct mark {config.mark:#x} meta mark set {config.mark:#x}")
    if config.inbound:
        reply = f"ct direction reply ct mark {config.mark_inbound:#x}"
        rules.append(f"{reply} meta mark set {config.mark_inbound:#x}")
    return rules


def _dns(config: HostConfig, firewall: Firewall) -> list[str]:
    """Lead a resolver that picks the interface itself (IP_UNICAST_IF) back to the TUN."""
    marks = [config.mark] if firewall.marks else []
    ports = "meta l4proto { tcp, udp } th dport 53"
    rules = []
    if config.exclude:
        marks.append(config.mark_excluded)
        if firewall.name_server:
            here = f"ip daddr {{ 127.0.0.0/8, {firewall.server4} }}"
            to = f"dnat ip to {firewall.name_server}"
            rules.append(f"meta mark {config.mark_excluded:#x} {here} {ports} {to}")
    unmarked = "".join(f"meta mark != {mark:#x} " for mark in marks)
    match = f"meta nfproto ipv4 {unmarked}{_outside(config, 'oifname')}"
    return [*rules, f"{match} {ports} dnat ip to {firewall.server4}"]


def _forwarded(config: HostConfig) -> list[str]:
    return [] if config.forward else [f'oifname "{config.tun}" counter name refused reject']


def _leaving(config: HostConfig, firewall: Firewall) -> list[str]:
    rules = [f'oifname {{ "lo", "{config.tun}" }} accept']
    if config.exclude:
        mark = f"{config.mark_excluded:#x}"
        rules.append(f"meta mark {mark} ct mark set {mark} accept")
    # The kernel's ICMP error about an answer that came through the tunnel too late would tell the
    # LAN's name server, which was never asked, what was answered in its name.
    rules.append(f"ip saddr {firewall.tun4} counter name refused drop")
    if firewall.tun6 is not None:
        rules.append(f"ip6 saddr {firewall.tun6} counter name refused drop")
    if bridges := _bridges(firewall):
        # From a container to a container, all of it: it does not leave the machine.
        rules.append(f"oifname {bridges} fib saddr type != local accept")
    if firewall.marks:
        ours = f"meta mark {config.mark:#x}"
        if config.peers is None:
            rules.append(f"{ours} ct mark set {config.mark:#x} accept")
        else:
            for family, version in (("ip", 4), ("ip6", 6)):
                where = f"{family} daddr @peers{version}"
                rules.append(f"{ours} {where} ct mark set {config.mark:#x} accept")
    if config.inbound:
        mark = f"meta mark {config.mark_inbound:#x}"
        rules.append(f"{mark} ct direction reply accept")
        if not config.only:  # to where a published port leads, which may be 53
            rules += [f"{mark} ip daddr @lan4 accept", f"{mark} ip6 daddr @lan6 accept"]
    rules += [*_housekeeping(), f"{_dns_ports(config)} counter name refused drop"]
    # A container's, too, which bears its own address here: whatever it asked went into the TUN.
    # (ICMP and ICMPv6 by number: nft has their names from /etc/protocols, which may be missing.)
    rules.append(
        "meta l4proto { 1, 58 } ct state related ct direction original "
        f"ct original proto-dst {_DNS_PORT} counter name refused drop"
    )
    if config.bypass:
        rules += ["ip daddr @bypass4 accept", "ip6 daddr @bypass6 accept"]
    rules += [f"meta skuid {uid} accept" for uid in config.bypass_users]
    if config.only:
        # Each by a rule, not all by "not in the set": while a table that was made anew took the
        # other's place, lookups missed what is there, which let it out. Here a miss must refuse.
        for network in config.only:
            family = "ip" if network.version == 4 else "ip6"
            rules.append(f"{family} daddr {network} counter name refused drop")
        return [*rules, "accept"]
    rules += ["ip daddr @lan4 accept", "ip6 daddr @lan6 accept"]
    if bridges and not config.lan:
        # Our DHCP server's answers to them, our mDNS: in `lan` only with --lan allow.
        for family, version in (("ip", 4), ("ip6", 6)):
            always = ", ".join(_LAN_ALWAYS[version])
            rules.append(f"oifname {bridges} {family} daddr {{ {always} }} accept")
    return [*rules, "counter name refused drop"]


def _sources(config: HostConfig) -> list[str]:
    """Give what excluded programs send an address of the interface that it leaves by.

    Their sockets have chosen one before they are marked: that of the TUN.
    """
    outside = _outside(config, "oifname")
    return [f"meta mark {config.mark_excluded:#x} {outside} masquerade"] if config.exclude else []


def _bridges(firewall: Firewall) -> str:
    """Return those bridges as a set, empty if there is none; others' odd names get no exception."""
    names = [f'"{name}"' for name in firewall.bridges if _PLAIN_NAME.fullmatch(name)]
    return f"{{ {', '.join(names)} }}" if names else ""


def _housekeeping() -> list[str]:
    """Let out what keeps our own addresses and neighbours; not what we forward for others."""
    return [
        # A lease is renewed from its server, which may be anywhere beyond a relay (RFC 2131
        # §4.4.5). Port 68 is a privileged one; a container's client is not ours.
        f"meta nfproto ipv4 udp sport 68 udp dport 67 {_BY_A_SOCKET} accept",
        # From a link-local address, which is not forwarded, to the servers and relays of the link
        # (RFC 8415 §7.1, §18.2); a server that has allowed unicast is found like this, too.
        f"ip6 saddr fe80::/10 ip6 daddr {{ ff02::1:2, fe80::/10 }} udp sport 546 udp dport 547 "
        f"{_BY_A_SOCKET} accept",
        # No forwarded packet has a hop limit of 255 (RFC 4861 §11.2).
        f"icmpv6 type {{ {_NDP} }} ip6 hoplimit 255 accept",
        # One of 1 many have; not these sources (RFC 3810 §5.2.13).
        f"ip6 saddr {{ ::, fe80::/10 }} ip6 daddr ff00::/8 icmpv6 type {{ {_MLD} }} "
        "ip6 hoplimit 1 accept",
    ]


def _dns_ports(config: HostConfig) -> str:
    ports = f"{{ {_DNS_PORT}, {_DOT_PORT} }}" if config.block_dot else f"{_DNS_PORT}"
    return f"meta l4proto {{ tcp, udp }} th dport {ports}"
