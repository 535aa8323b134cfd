"""What the host is to be set up for: :class:`HostConfig`."""

from __future__ import annotations

import enum
import ipaddress
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError

__all__ = ["MARK", "STATE_DIR", "TABLE", "HostConfig", "KillSwitch", "Network"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MARK = 0x7A6B
"""SO_MARK of the tunnel's own sockets ("zk"): they stay out of the TUN. ``--mark`` is another."""
TABLE = 0x7A6B
"""Our routing table, 31339."""
STATE_DIR = Path(
    {"darwin": "/var/run/zks_lwip", "win32": r"C:\ProgramData\zks_lwip"}.get(
        sys.platform, "/run/zks_lwip"
    )
)
"""Journals and control sockets; root only, and (not on Windows) empty after a start of the
machine."""


class KillSwitch(enum.Enum):
    """What holds the traffic when the tunnel does not."""

    STRICT = "strict"
    """Routes that refuse, and a firewall table that drops what would leave elsewhere."""
    ROUTE = "route"
    """Routes that refuse; a socket that is bound to a device goes around them."""
    OFF = "off"
    """Nothing: the host falls back to its own network when the TUN is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Everything about the host that the user or the tunnel decides.

    A networks' tuple must not overlap in itself; ``bypass`` and ``only`` exclude each other.

    :raises ConfigError: something of it cannot be.
    """

    tun: str = "zks0"
    mtu: int = 1500
    """Bytes, 1280 to 65535."""
    vnet_hdr: bool = False
    """Make the TUN with ``IFF_VNET_HDR`` offloads."""
    queue_length: int | None = None
    """Packets; None: what takes a burst, by the MTU."""
    node: str = "/dev/net/tun"
    netns: str | None = None
    """The network namespace to capture; None: our own, where our sockets need marks."""
    ipv6: bool = True
    """IPv6 goes through the tunnel; otherwise it is refused at once (its DNS is still ours)."""
    kill_switch: KillSwitch = KillSwitch.STRICT
    lan: bool = True
    """Connected private subnets may be reached directly (their port 53 may not)."""
    bypass: tuple[Network, ...] = ()
    bypass_users: tuple[int, ...] = ()
    """User ids whose traffic stays out of the tunnel (not their DNS)."""
    only: tuple[Network, ...] = ()
    """If not empty, only these go through the tunnel (and DNS)."""
    forward: bool = False
    """Packets that the host forwards (containers, bridges) go through the tunnel, too."""
    mark: int = MARK
    """SO_MARK of the tunnel's own sockets; the next two are ``mark_inbound``, ``mark_excluded``."""
    inbound: tuple[int, ...] = ()
    """TCP and UDP ports whose callers from outside are answered the way they came."""
    exclude: bool = False
    """There is a cgroup whose processes send beside the tunnel."""
    user: str | None = None
    """Name of the user that this process becomes once the host is set up; None: none."""
    peers: tuple[Network, ...] | None = None
    """Where marked sockets may go: the worker, the resolvers; None: anywhere (embedded worker)."""
    block_dot: bool = False
    """DNS over TLS and QUIC (port 853) is captured as DNS is, for the gateway to refuse it."""
    persistent: bool = False
    """On Windows the firewall's filters outlive a start of the machine (``--always-on``)."""
    resolver: bool = True
    """Tell systemd-resolved or resolvconf, where they run."""
    state_dir: Path = STATE_DIR

    def __post_init__(self) -> None:
        for option, networks in (("host.bypass", self.bypass), ("host.only", self.only)):
            _check_overlap(option, networks)
        for version, width in ((4, 32), (6, 128)):
            # They do not overlap, so their sizes add up.
            mine = [network for network in self.bypass if network.version == version]
            if sum(network.num_addresses for network in mine) == 1 << width:
                names = " ".join(f"`host.bypass` {network}" for network in mine)
                raise ConfigError(f"{names} is all of IPv{version}: nothing would be tunnelled")
        if self.only and (self.bypass or self.bypass_users):
            raise ConfigError("and `host.bypass` exclude each other: give one of them", "host.only")
        for port in self.inbound:
            if not 1 <= port <= 65535:
                raise ConfigError(f"{port} is not a port: give 1 to 65535", "host.inbound")
        if not 1 <= self.mark < 0xFFFFFFFF:
            raise ConfigError(
                f"{self.mark:#x} is out of range: give 0x1 to 0xfffffffe", "host.mark"
            )
        if self.exclude and self.mark_excluded > 0xFFFFFFFF:
            raise ConfigError(
                f"{self.mark:#x} is out of range with `host.exclude`: give 0x1 to 0xfffffffd",
                "host.mark",
            )

    @property
    def mark_inbound(self) -> int:
        """Mark of connections from outside to a port of --allow-inbound, and of their replies."""
        return self.mark + 1

    @property
    def mark_excluded(self) -> int:
        """Mark of what processes of the excluded cgroup send, and of its replies."""
        return self.mark + 2


def _check_overlap(option: str, networks: Iterable[Network]) -> None:
    seen: list[Network] = []
    for network in networks:
        for other in seen:
            if network.version == other.version and network.overlaps(other):
                raise ConfigError(
                    f"{network} overlaps `{option}` {other}: give one of them", option
                )
        seen.append(network)
