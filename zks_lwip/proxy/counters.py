"""What the proxy counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ProxyCounters"]


@dataclass(slots=True)
class ProxyCounters:
    """What the proxy has done so far. ``up`` is from the clients, ``down`` to them."""

    clients: int = 0  #: TCP connections to the proxy
    clients_evicted: int = 0  #: of these, closed in the handshake for others' sake
    clients_late: int = 0  #: closed because the handshake took too long
    clients_malformed: int = 0  #: closed because they speak neither SOCKS5 nor HTTP
    auth_failures: int = 0  #: wrong names or passwords
    connects: int = 0  #: requests for a TCP connection, by SOCKS5 and CONNECT
    connected: int = 0  #: of these, connected by the worker
    forwarded: int = 0  #: requests for http:// URLs
    over_limit: int = 0  #: requests refused by a limit of the proxy's
    resets: int = 0  #: connections ended by RST, from either side
    bytes_up: int = 0  #: of TCP
    bytes_down: int = 0  #: of TCP
    associations_opened: int = 0
    datagrams_up: int = 0
    datagrams_down: int = 0
    datagrams_fragmented: int = 0  #: of clients, dropped: FRAG was not 0
    datagrams_malformed: int = 0  #: of clients, dropped: the header cannot be read
    datagrams_foreign: int = 0  #: not from the client whose association it is, dropped
    datagrams_dropped: int = 0  #: no room for them, no tunnel, no such name, or too large
    udp_errors: int = 0  #: ICMP errors that the worker told of; SOCKS5 cannot
    refused: Counter[int] = field(default_factory=Counter)  #: requests, by ERROR code

    def as_dict(self) -> dict[str, Any]:
        """Return a plain copy, for printing and JSON."""
        return asdict(self) | {"refused": dict(self.refused)}
