"""What each flow, datagram and echo request is given: the tunnel, the DNS service, or a refusal.

Every refusal of the gateway is chosen here, by pure decisions over addresses, ports and error
codes, without I/O. Addresses are literals as the stack writes them (``192.0.2.1``,
``2001:db8::1``: no brackets, no zone).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Protocol

from ..stack import FrameRules, Reject
from .options import Icmp, Ipv6

__all__ = [
    "DNS_PORT",
    "GIVES_WAY",
    "LOOP",
    "NO_ROOM",
    "REFUSALS",
    "SAFE_MTU",
    "UDP_REFUSALS",
    "FlowPolicy",
    "Service",
    "WorkerAbilities",
    "refusal_for",
    "udp_refusal_for",
]

DNS_PORT = 53

LOOP = Reject.HOST_UNREACHABLE
"""For a connection of the tunnel's own that has come back to it."""
NO_ROOM = Reject.SILENT
"""For a SYN that finds no room, or that has been held too long: as of a kernel without room for one
more. Its sender sends it again, and that is a new connection.
"""
GIVES_WAY = Reject.RST
"""For a connection to port 53 that is idle, or makes room: its client opens a new one."""

REFUSALS: dict[int, Reject] = {
    0: Reject.RST,  # CLOSE: aborted before it was connected
    101: Reject.NET_UNREACHABLE,
    104: Reject.RST,
    110: Reject.SILENT,
    111: Reject.RST,
    113: Reject.HOST_UNREACHABLE,
    403: Reject.PROHIBITED,
    429: Reject.SILENT,
    502: Reject.HOST_UNREACHABLE,
    503: Reject.SILENT,
}
"""The codes of the tunnel's ERROR (PROTOCOL.md §4) as an application sees them.

The kernel turns RST into ECONNREFUSED, ICMP into ENETUNREACH, EHOSTUNREACH or EACCES, silence into
ETIMEDOUT. A limit of the worker's (429), or that it goes away (503), is no answer of the far end:
in silence the kernel sends its SYN again, 1, 3, 7 … seconds after the first, a new attempt each.
"""
UDP_REFUSALS: dict[int, Reject] = {111: Reject.PORT_UNREACHABLE, 90: Reject.TOO_BIG}
"""Codes of UDP_ERROR (PROTOCOL.md §5) that are seen otherwise than those of ERROR.

"Refused" is ICMP port unreachable (connected sockets see ECONNREFUSED), and 90 is "fragmentation
needed" or "packet too big" (EMSGSIZE).
"""
SAFE_MTU = 1280
"""The MTU, in bytes, that is told with :attr:`Reject.TOO_BIG`.

The frame does not say which it is; this one every path of IPv6 has (RFC 8200 §5), and what is
larger the worker's system has in pieces from then on.
"""


class WorkerAbilities(Protocol):
    """What the worker's HELLO says (PROTOCOL.md §3)."""

    @property
    def udp(self) -> bool: ...
    @property
    def icmp(self) -> bool: ...
    @property
    def ipv6(self) -> bool: ...
    @property
    def idle_udp(self) -> int: ...
    @property
    def associations(self) -> int: ...


def refusal_for(code: int, *, hopeless: bool = False) -> Reject:
    """Return how the application sees that its connection was not made.

    :param code: of the tunnel's ERROR; an unknown one counts as 502.
    :param hopeless: the tunnel is down for longer than one waits for it: trying again is no use.
    """
    if code == 503 and hopeless:
        return Reject.NET_UNREACHABLE
    return REFUSALS.get(code, Reject.HOST_UNREACHABLE)


def udp_refusal_for(code: int) -> tuple[Reject, int]:
    """Return how the application sees an error of its datagram, and the MTU to tell it.

    :param code: of the tunnel's UDP_ERROR; an unknown one counts as 502.
    :returns: the MTU in bytes, or 0: none is told.
    """
    how = UDP_REFUSALS.get(code) or refusal_for(code)
    return how, SAFE_MTU if how is Reject.TOO_BIG else 0


class Service(enum.Enum):
    """Where a flow, datagram or echo request that is not refused is served."""

    TUNNEL = "tunnel"
    DNS = "dns"
    """By the DNS service."""
    GATEWAY = "gateway"
    """By the gateway itself: an echo request that it answers."""


class FlowPolicy:
    """Decides by destination.

    :param ipv6: what happens to the applications' IPv6.
    :param icmp: what happens to their echo requests.
    :param worker: asked each time, since the worker's abilities are known once it has said HELLO.
        None: not yet; then IPv6 and UDP wait for the tunnel like everything else.
    :param loopback_alias: the address that stands for the worker's 127.0.0.1; None: none does.
    :param refuses: whether a port is refused, whatever the address.
    """

    __slots__ = ("_alias", "_frame_rules", "_icmp", "_ipv6", "_refuses", "_worker")

    def __init__(
        self,
        *,
        ipv6: Ipv6 = Ipv6.AUTO,
        icmp: Icmp = Icmp.TUNNEL,
        worker: Callable[[], WorkerAbilities | None] = lambda: None,
        loopback_alias: IPv4Address | None = None,
        refuses: Callable[[int], bool] = lambda port: False,
    ) -> None:
        self._ipv6 = ipv6
        self._icmp = icmp
        self._worker = worker
        self._refuses = refuses
        self._alias = None if loopback_alias is None else str(loopback_alias)
        self._frame_rules: dict[bool, FrameRules] = {}

    def decide(self, destination: tuple[str, int]) -> Service | Reject:
        """Return where a TCP connection to ``destination`` is served, or how it is refused."""
        host, port = destination
        if port == DNS_PORT:
            # Whatever the family: the answer comes from here, not from the address that was asked.
            return Service.DNS
        if self._refuses(port):
            return Reject.RST
        if ":" in host and self._blocks_ipv6():
            return Reject.NET_UNREACHABLE
        return Service.TUNNEL

    def decide_datagram(self, destination: tuple[str, int], *, carried: bool) -> Service | Reject:
        """Return where a UDP datagram to ``destination`` is served, or how it is refused.

        :param carried: :meth:`carries_datagrams`, which does not change within a batch.
        """
        service = self.decide(destination)
        if service is Reject.RST:  # UDP has none
            return Reject.PORT_UNREACHABLE
        if service is Service.TUNNEL and not carried:
            # (Of an unreachable host, Linux does not tell a connected socket.)
            return Reject.PORT_UNREACHABLE
        return service

    def carries_datagrams(self, *, hopeless: bool) -> bool:
        """Return whether the worker carries UDP, now or when the tunnel is back.

        :param hopeless: the tunnel is down for longer than one waits for it.
        """
        worker = self._worker()
        return not hopeless and (worker is None or worker.udp)

    def frame_rules(self) -> FrameRules:
        """Return which datagrams :meth:`decide_datagram` gives to the tunnel, where it carries any.

        The others are decided on one by one.
        """
        ipv6 = not self._blocks_ipv6()
        rules = self._frame_rules.get(ipv6)
        if rules is None:
            ports = (port for port in range(65536) if port == DNS_PORT or self._refuses(port))
            alias = None if self._alias is None else IPv4Address(self._alias)
            rules = self._frame_rules[ipv6] = FrameRules(ports, ipv6=ipv6, loopback_alias=alias)
        return rules

    def decide_echo(self, host: str) -> Service | Reject:
        """Return where an ICMP echo request to ``host`` is served; refused, it is dropped."""
        if self._icmp is Icmp.REPLY:
            return Service.GATEWAY
        worker = self._worker()
        if (
            self._icmp is Icmp.OFF
            or worker is None
            or not worker.icmp
            or (":" in host and self._blocks_ipv6())
        ):
            return Reject.SILENT
        return Service.TUNNEL

    def to_worker(self, host: str) -> str:
        """Return the host that the worker is asked for where the application asked for ``host``."""
        return "127.0.0.1" if host == self._alias else host

    def from_worker(self, host: str) -> str:
        """Return the source that the application sees for what came from ``host`` at the worker."""
        return self._alias if self._alias is not None and host == "127.0.0.1" else host

    def _blocks_ipv6(self) -> bool:
        """Return whether IPv6 is refused at once, so that applications fall back to IPv4."""
        if self._ipv6 is Ipv6.AUTO:
            worker = self._worker()
            return worker is not None and not worker.ipv6
        return self._ipv6 is Ipv6.BLOCK
