"""The kill switch: what is let out, as filters of the Windows Filtering Platform, one a line.

They are of the layers where connections begin and are accepted, for IPv4 and IPv6, in a sublayer of
ours: the first that matches decides, and what it refuses no other sublayer lets out. A block of
port 53 beside the TUN is also what keeps Windows from asking the name servers of all its interfaces
at once.

The tunnel's own sockets are known by the program that runs (``app``) and by where they go
(``peers``). Other programs of the same interpreter could send there, too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..config import HostConfig, Network

__all__ = ["Filter", "filters", "parse_filter", "refuse_ipv6"]

_LINK_SCOPE = ("224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8")
_NEIGHBOUR_DISCOVERY = range(133, 138)

_LINE = re.compile(
    r"(?P<action>permit|block) (?P<direction>out|in)(?P<version>[46])"
    r"(?P<loopback> loopback)?(?P<own> app)?"
    r"(?: (?P<protocol>udp|tcp|icmp6))?(?: type (?P<type>\d{1,3}))?"
    r"(?: from port (?P<local>\d{1,5}))?(?: to port (?P<remote>\d{1,5}))?"
    r"(?: peer (?P<network>[0-9a-f:./]+))?\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter; what is None or False does not matter to it."""

    action: Literal["permit", "block"]
    direction: Literal["out", "in"]
    version: int
    loopback: bool = False
    own: bool = False
    """Of the program that this is."""
    protocol: Literal["udp", "tcp", "icmp6"] | None = None
    icmp_type: int | None = None
    local_port: int | None = None
    remote_port: int | None = None
    network: Network | None = None
    """Where the other end is."""

    def __str__(self) -> str:
        words = [self.action, f"{self.direction}{self.version}"]
        words += ["loopback"] * self.loopback + ["app"] * self.own
        words += [self.protocol] if self.protocol else []
        for word, value in (
            ("type", self.icmp_type),
            ("from port", self.local_port),
            ("to port", self.remote_port),
            ("peer", self.network),
        ):
            words += [] if value is None else [f"{word} {value}"]
        return " ".join(words)


def parse_filter(line: str) -> Filter:
    """Return the filter of a line.

    :raises ValueError: it is none.
    """
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"no filter: {line!r}")
    found = match.groupdict()

    def number(name: str, most: int) -> int | None:
        if found[name] is None:
            return None
        if int(found[name]) > most:
            raise ValueError(f"no filter: {line!r}")
        return int(found[name])

    network = None if found["network"] is None else ipaddress.ip_network(found["network"])
    version = int(found["version"])
    if network is not None and network.version != version:
        raise ValueError(f"no filter: {line!r}")
    return Filter(
        action=found["action"],  # type: ignore[arg-type]  # as the pattern has them
        direction=found["direction"],  # type: ignore[arg-type]
        version=version,
        loopback=found["loopback"] is not None,
        own=found["own"] is not None,
        protocol=found["protocol"],  # type: ignore[arg-type]
        icmp_type=number("type", 255),
        local_port=number("local", 65535),
        remote_port=number("remote", 65535),
        network=network,
    )


def filters(config: HostConfig, lan: Iterable[Network]) -> list[Filter]:
    """Return the filters that let nothing out but by the TUN and to where it may go directly.

    The TUN itself is permitted by a filter before these, once it is there.

    :param lan: subnets that are reached directly.
    """
    scope = [ipaddress.ip_network(text) for text in _LINK_SCOPE] if config.lan else []
    direct = list(dict.fromkeys([*config.bypass, *lan, *scope]))
    found: list[Filter] = []
    for version in (4, 6):
        found += _always(version)
        found += [
            Filter(action="permit", direction="out", version=version, own=True, network=network)
            for network in dict.fromkeys(config.peers or ())
            if network.version == version
        ]
        found += [
            Filter(
                action="block", direction="out", version=version, protocol=name, remote_port=port
            )
            for port in ((53, 853) if config.block_dot else (53,))
            for name in ("udp", "tcp")
        ]
        found += _rest(config, version, [n for n in direct if n.version == version])
    return found


def refuse_ipv6(config: HostConfig) -> list[Filter]:
    """Return the filters that refuse IPv6, which does not go through the tunnel; no kill switch."""
    return [
        *_always(6),
        *(
            Filter(action="block", direction="out", version=6, network=network)
            for network in config.only
            if network.version == 6
        ),
        *([] if config.only else [Filter(action="block", direction="out", version=6)]),
    ]


def _always(version: int) -> list[Filter]:
    """What no rule of others is about: loopback, DHCP, and what makes a link of IPv6 one."""
    found: list[Filter] = []
    client, server = (68, 67) if version == 4 else (546, 547)
    for direction in ("out", "in"):
        way: Literal["out", "in"] = "out" if direction == "out" else "in"
        found.append(Filter(action="permit", direction=way, version=version, loopback=True))
        found.append(
            Filter(
                action="permit",
                direction=way,
                version=version,
                protocol="udp",
                local_port=client,
                remote_port=server,
            )
        )
        if version == 6:
            found += [
                Filter(
                    action="permit", direction=way, version=6, protocol="icmp6", icmp_type=number
                )
                for number in _NEIGHBOUR_DISCOVERY
            ]
    return found


def _rest(config: HostConfig, version: int, direct: list[Network]) -> list[Filter]:
    found: list[Filter] = []
    ways: tuple[Literal["out", "in"], ...] = ("out", "in")
    if config.only:
        captured = [network for network in config.only if network.version == version]
        return [
            Filter(action="block", direction=way, version=version, network=network)
            for way in ways
            for network in captured
        ]
    for way in ways:
        found += [
            Filter(action="permit", direction=way, version=version, network=network)
            for network in direct
        ]
        found.append(Filter(action="block", direction=way, version=version))
    return found
