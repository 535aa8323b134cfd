"""Counters: what went through, what was refused, what was dropped and why.

They only grow while a tunnel lives; gauges (open flows, associations) are read where they are.
Nothing in here names a host.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["GatewayCounters"]


@dataclass(slots=True)
class GatewayCounters:
    """What the gateway has done so far. ``up`` is from the applications, ``down`` to them."""

    flows_opened: int = 0  #: SYNs of new TCP connections
    flows_accepted: int = 0  #: of these, handed to the stack
    flows_reset: int = 0  #: ended by RST, from either side
    flows_over_limit: int = 0  #: refused, or made another be, by ``max_flows`` or descriptors
    bytes_up: int = 0  #: of TCP
    bytes_down: int = 0  #: of TCP
    associations_opened: int = 0
    associations_evicted: int = 0  #: dropped before their time, as the least recently used
    datagrams_up: int = 0
    datagrams_down: int = 0
    datagram_bytes_up: int = 0
    datagram_bytes_down: int = 0
    datagrams_dropped: int = 0  #: neither tunnel nor stack had room, or no tunnel was there
    datagrams_refused: int = 0  #: answered with ICMP
    udp_errors: int = 0  #: ICMP errors that the worker told of
    loops: int = 0  #: connections of the tunnel's own that came back to it
    dns_queries: int = 0
    dns_dropped: int = 0  #: answers that the stack had no room for
    dns_connections_over_limit: int = 0  #: refused, or made another be closed, by their limit
    echoes: int = 0
    echoes_dropped: int = 0
    refused: Counter[int] = field(default_factory=Counter)  #: TCP connections, by ERROR code

    def as_dict(self) -> dict[str, Any]:
        """Return a plain copy, for printing and JSON."""
        result: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            result[item.name] = dict(value) if isinstance(value, Counter) else value
        return result
