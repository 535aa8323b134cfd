"""What each flow is given: the tunnel, the DNS service, or a refusal.

Pure decisions over addresses and ports, without I/O. Addresses are literals as the stack writes
them (``192.0.2.1``, ``2001:db8::1``: no brackets, no zone).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from ipaddress import IPv4Address

from ..config import Ipv6
from ..stack import Reject

__all__ = ["DNS_PORT", "REFUSALS", "Policy", "Service", "refusal_for"]

DNS_PORT = 53

#: The codes of the tunnel's ERROR (PROTOCOL.md §4) as an application sees them: the kernel turns
#: RST into ECONNREFUSED, ICMP into ENETUNREACH, EHOSTUNREACH or EACCES, silence into ETIMEDOUT.
#: A limit of the worker's (429), or that it goes away (503), is no answer of the far end: in
#: silence the kernel sends its SYN again, 1, 3, 7 … seconds after the first, a new attempt each.
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


def refusal_for(code: int, *, hopeless: bool = False) -> Reject:
    """How an ERROR code looks to the application; an unknown one counts as 502.

    ``hopeless``: the tunnel is down for longer than one waits for it, so trying again is no use.
    """
    if code == 503 and hopeless:
        return Reject.NET_UNREACHABLE
    return REFUSALS.get(code, Reject.HOST_UNREACHABLE)


class Service(enum.Enum):
    """Who serves a flow that is not refused."""

    TUNNEL = "tunnel"
    DNS = "dns"


class Policy:
    """Decides by destination, for TCP and UDP alike.

    ``worker_ipv6`` is asked each time, since it is known only once the worker has said HELLO: None
    means not yet known, and then IPv6 waits for the tunnel like everything else. ``refuses`` says
    which ports are refused whatever the address (``--dot block``).
    """

    __slots__ = ("_alias", "_ipv6", "_refuses", "_worker_ipv6")

    def __init__(
        self,
        *,
        ipv6: Ipv6 = Ipv6.AUTO,
        worker_ipv6: Callable[[], bool | None] = lambda: None,
        loopback_alias: IPv4Address | None = None,
        refuses: Callable[[int], bool] = lambda port: False,
    ) -> None:
        self._ipv6 = ipv6
        self._refuses = refuses
        self._worker_ipv6 = worker_ipv6
        self._alias = None if loopback_alias is None else str(loopback_alias)

    def decide(self, destination: tuple[str, int]) -> Service | Reject:
        """Who serves a flow or datagram to ``destination``, or how it is refused."""
        host, port = destination
        if port == DNS_PORT:
            # Whatever the family: the answer comes from here, not from the address that was asked.
            return Service.DNS
        if self._refuses(port):
            return Reject.RST
        if ":" in host and self.blocks_ipv6():
            return Reject.NET_UNREACHABLE
        return Service.TUNNEL

    def blocks_ipv6(self) -> bool:
        """Whether IPv6 is refused at once, so that applications fall back to IPv4."""
        if self._ipv6 is Ipv6.AUTO:
            return self._worker_ipv6() is False
        return self._ipv6 is Ipv6.BLOCK

    def to_worker(self, host: str) -> str:
        """The host that the worker is asked for: the alias stands for the host's own loopback."""
        return "127.0.0.1" if host == self._alias else host

    def from_worker(self, host: str) -> str:
        """The source that the application sees for what came from ``host`` at the worker."""
        return self._alias if self._alias is not None and host == "127.0.0.1" else host
