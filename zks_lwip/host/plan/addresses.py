"""The addresses of the TUN."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeVar

from ...errors import HostError
from .config import Network

__all__ = ["TUN_IPV4", "TUN_IPV6", "free_addresses", "other_host"]

_Interface = TypeVar("_Interface", ipaddress.IPv4Interface, ipaddress.IPv6Interface)

TUN_IPV4 = ipaddress.IPv4Interface("198.18.0.1/30")
"""Of the range for benchmarks (RFC 2544), which no real network uses; .2 is ours in the tunnel."""

TUN_IPV6 = ipaddress.IPv6Interface("fdb5:7a6b:7301::1/126")
"""Unique-local (RFC 4193), with a random global id."""

# Addresses that are tried, a /24 or a /64 further each.
_MAX_TRIES = 256
# A route shorter than this claims half the internet (`0.0.0.0/1`), not our range.
_MIN_PREFIX = 8


def free_addresses(
    taken: Iterable[Network],
) -> tuple[ipaddress.IPv4Interface, ipaddress.IPv6Interface]:
    """Return the first of our addresses whose networks nothing on the host overlaps.

    :param taken: networks of the host's addresses and routes; those shorter than /8 do not count.
    :raises HostError: all are taken.
    """
    known = [network for network in taken if network.prefixlen >= _MIN_PREFIX]
    ipv4 = (ipaddress.IPv4Interface(f"{TUN_IPV4.ip + 256 * n}/30") for n in range(_MAX_TRIES))
    ipv6 = (ipaddress.IPv6Interface(f"{TUN_IPV6.ip + (n << 64)}/126") for n in range(_MAX_TRIES))
    return _first(ipv4, known), _first(ipv6, known)


def other_host(interface: ipaddress.IPv4Interface) -> ipaddress.IPv4Address:
    """Return the other usable address of a /30."""
    return next(host for host in interface.network.hosts() if host != interface.ip)


def _first(candidates: Iterable[_Interface], known: list[Network]) -> _Interface:
    for candidate in candidates:
        network = candidate.network
        if not any(other.version == network.version and other.overlaps(network) for other in known):
            return candidate
    raise HostError("every address that the TUN could have is taken by networks of this host")
