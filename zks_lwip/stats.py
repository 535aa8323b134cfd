"""Counters: what went through, what was refused, what was dropped and why.

All of them only ever grow while a tunnel lives; gauges (open flows, associations) are read where
they are. Nothing in here names a host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["GatewayCounters", "format_summary"]


@dataclass(slots=True)
class GatewayCounters:
    """What the gateway has done so far. ``up`` is from the applications, ``down`` to them."""

    flows_opened: int = 0  #: SYNs of new TCP connections
    flows_accepted: int = 0  #: of these, handed to the stack
    flows_reset: int = 0  #: ended by RST, from either side
    flows_over_limit: int = 0  #: refused, or made another be refused, by ``max_flows``
    bytes_up: int = 0
    bytes_down: int = 0
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
        """A plain copy, for printing and JSON."""
        result: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            result[item.name] = dict(value) if isinstance(value, Counter) else value
        return result


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def format_summary(stats: Mapping[str, Any]) -> list[str]:
    """The lines that ``--stats`` prints at the end, from :meth:`zks_lwip.vpn.Vpn.stats`."""
    gateway: Mapping[str, Any] = stats["gateway"]
    refused = sum(gateway["refused"].values())
    lines = [
        f"TCP: {gateway['flows_opened']} connections ended in lwIP "
        f"({gateway['flows_accepted']} accepted, {refused} refused by the worker, "
        f"{gateway['flows_reset']} reset), "
        f"{_bytes(gateway['bytes_up'])} up, {_bytes(gateway['bytes_down'])} down",
        f"UDP: {gateway['datagrams_up']} datagrams up, {gateway['datagrams_down']} down, "
        f"{gateway['datagrams_refused']} refused, {gateway['datagrams_dropped']} dropped, "
        f"in {gateway['associations_opened']} associations",
        f"DNS: {gateway['dns_queries']} queries; ICMP: {gateway['echoes']} echo requests",
    ]
    for name in ("stack", "tunnel"):
        numbers = _flat(stats.get(name, {}))
        if numbers:
            lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in numbers))
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers in a nested mapping that are not zero, with dotted names."""
    result: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.extend(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, (int, float)) and value:
            shown = int(value) if float(value).is_integer() else round(value, 3)
            result.append((f"{prefix}{key}", shown))
    return result
