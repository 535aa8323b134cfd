"""What the gateway is told: which flows it takes, how many, and how pings are answered."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass

from .._util import choice
from ..errors import ConfigError

__all__ = ["DEFAULT_HOST_LOOPBACK", "GatewayOptions", "Icmp", "Ipv6", "parse_host_loopback"]

DEFAULT_HOST_LOOPBACK = ipaddress.IPv4Address("198.18.0.2")
"""Which address in the tunnel is the host's own 127.0.0.1, where the worker is the embedded one."""


class Ipv6(enum.Enum):
    """What happens to the applications' IPv6 traffic."""

    AUTO = "auto"
    """Tunnelled where the worker has IPv6, refused otherwise."""
    TUNNEL = "tunnel"
    BLOCK = "block"
    """Refused at once, so that applications fall back to IPv4."""


class Icmp(enum.Enum):
    """What happens to the applications' ICMP echo requests."""

    TUNNEL = "tunnel"
    """Sent by the worker, where it can."""
    REPLY = "reply"
    """Answered by the gateway for every address."""
    OFF = "off"
    """Dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """The options of a :class:`~zks_lwip.gateway.Gateway`.

    :raises ConfigError: a value is out of its range; names the option.
    """

    ipv6: Ipv6 = Ipv6.AUTO
    icmp: Icmp = Icmp.TUNNEL
    fast_connect: bool = False
    """TCP connections are accepted before the worker has connected."""
    max_flows: int = 8192
    """TCP connections at a time, 1 to 65536."""
    loopback_alias: ipaddress.IPv4Address | None = None
    """Which address in the tunnel stands for the worker's own 127.0.0.1; None: none does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ipv6", choice(Ipv6, self.ipv6, "ipv6"))
        object.__setattr__(self, "icmp", choice(Icmp, self.icmp, "icmp"))
        if not 1 <= self.max_flows <= 65536:
            raise ConfigError(f"{self.max_flows} is out of range: give 1 to 65536.", "max_flows")


def parse_host_loopback(text: str) -> ipaddress.IPv4Address | None:
    """Read the address that stands for the host's loopback, or ``none``.

    :raises ConfigError: it is neither, or an address that never reaches the tunnel.
    """
    if text.strip().lower() == "none":
        return None
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        raise ConfigError(
            f"{text!r} is neither an IPv4 address nor `none`.", "host_loopback"
        ) from None
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or int(address) == 0xFFFFFFFF
    ):
        raise ConfigError(
            f"{address} never reaches the tunnel; give an ordinary address, such as "
            f"{DEFAULT_HOST_LOOPBACK}, or `none`.",
            "host_loopback",
        )
    return address
