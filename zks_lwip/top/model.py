"""What the screen shows: the last answers of an instance, rates, what is sorted and filtered."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SORTS", "Model", "Row", "clean", "drops"]

SORTS = ("rate", "down", "up", "age", "target", "program")
"""What flows are sorted by; the first is the default."""
_HISTORY = 240
_Key = tuple[str, tuple[str, int] | None, tuple[str, int] | None]


def clean(text: str) -> str:
    """Return a text of others' making without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


@dataclass(slots=True)
class Row:
    """A flow, as a line of the table."""

    protocol: str
    source: tuple[str, int] | None
    destination: tuple[str, int] | None
    target: str
    """Name, or address, and port."""
    via: str
    state: str
    seconds: float
    up: int
    down: int
    rate: float
    """Bytes a second, both ways, since the last answer."""
    pid: int | None = None
    program: str = ""

    @property
    def key(self) -> _Key:
        """What tells it from others."""
        return (self.protocol, self.source, self.destination)


@dataclass(slots=True)
class Model:
    """All of it; :meth:`told` takes each answer."""

    status: Mapping[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    left_out: int = 0
    slowest: Sequence[Sequence[Any]] = ()
    up: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    """Bytes a second from applications, TCP and UDP, the last one now."""
    down: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    queries: float = 0.0
    """DNS queries a second."""
    sort: str = SORTS[0]
    reverse: bool = False
    filter: str = ""
    selected: int = 0
    message: str = ""
    typing: bool = False
    """Keys are for the filter."""
    _before: tuple[float, Mapping[str, Any], dict[_Key, int]] | None = None

    def told(
        self,
        status: Mapping[str, Any],
        flows: Mapping[str, Any],
        owners: Mapping[tuple[str, str, int], Any],
        now: float,
    ) -> None:
        """Take what an instance has answered.

        :param owners: programs by protocol, address and port of their sockets.
        :param now: seconds, of a clock that does not jump.
        """
        traffic = status["traffic"]
        before = self._before
        passed = max(1e-3, now - before[0]) if before is not None else 0.0
        totals: dict[_Key, int] = {}
        rows = []
        for each in flows["flows"]:
            row = _row(each, owners)
            totals[row.key] = row.up + row.down
            if before is not None:
                known = before[2].get(row.key, 0)
                row.rate = max(0, totals[row.key] - known) / passed
            rows.append(row)
        if before is not None:
            old = before[1]
            if traffic["bytes_down"] >= old["bytes_down"]:  # else it was started anew
                self.up.append((_bytes(traffic, "up") - _bytes(old, "up")) / passed)
                self.down.append((_bytes(traffic, "down") - _bytes(old, "down")) / passed)
                self.queries = (traffic["dns_queries"] - old["dns_queries"]) / passed
        self.status, self.rows = status, rows
        self.left_out, self.slowest = flows["left_out"], flows["slowest_names"]
        self._before = (now, traffic, totals)

    def gone(self, status: Mapping[str, Any]) -> None:
        """Take that no instance answers."""
        self.status, self.rows, self.left_out, self._before = status, [], 0, None

    def shown(self) -> list[Row]:
        """Return the flows that pass the filter, sorted."""
        words = self.filter.lower().split()
        rows = [row for row in self.rows if all(word in _text(row) for word in words)]
        keys: dict[str, Any] = {
            "rate": lambda row: (-row.rate, -(row.up + row.down), row.seconds),
            "down": lambda row: -row.down,
            "up": lambda row: -row.up,
            "age": lambda row: row.seconds,
            "target": lambda row: row.target,
            "program": lambda row: (row.program, row.target),
        }
        rows.sort(key=keys[self.sort], reverse=self.reverse)
        return rows

    def current(self) -> Row | None:
        """Return the flow that is selected."""
        rows = self.shown()
        self.selected = max(0, min(self.selected, len(rows) - 1))
        return rows[self.selected] if rows else None


def _bytes(traffic: Mapping[str, int], way: str) -> int:
    return traffic[f"bytes_{way}"] + traffic[f"datagram_bytes_{way}"]


def _text(row: Row) -> str:
    address = "" if row.destination is None else row.destination[0]
    words = (row.program, row.pid or "", row.protocol, row.target, address, row.state, row.via)
    return " ".join(map(str, words)).lower()


def _row(flow: Mapping[str, Any], owners: Mapping[tuple[str, str, int], Any]) -> Row:
    source, destination = _end(flow["source"]), _end(flow["destination"])
    host = flow["name"] or (destination[0] if destination else "")
    port = f":{destination[1]}" if destination else ""
    host = f"[{host}]" if ":" in host else host
    owner = None if source is None else owners.get((flow["protocol"], *source))
    return Row(
        protocol=flow["protocol"],
        source=source,
        destination=destination,
        target=clean(f"{host}{port}") or "–",
        via=flow["via"],
        state=flow["state"],
        seconds=flow["seconds"],
        up=flow["bytes_up"],
        down=flow["bytes_down"],
        rate=0.0,
        pid=None if owner is None else owner.pid,
        program="" if owner is None else clean(owner.program),
    )


def _end(end: Sequence[Any] | None) -> tuple[str, int] | None:
    return None if end is None else (str(end[0]), int(end[1]))


def drops(status: Mapping[str, Any]) -> dict[str, int]:
    """Return what was dropped or refused, by reason, as far as there was any."""
    stats = status.get("stats") or {}
    gateway = stats.get("gateway", {})
    dns = stats.get("dns", {})
    found = {
        "firewall": status.get("refused") or 0,
        "far end": sum(gateway.get("refused", {}).values()),
        "reset": gateway.get("flows_reset", 0),
        "max-flows": gateway.get("flows_over_limit", 0),
        "UDP refused": gateway.get("datagrams_refused", 0),
        "UDP dropped": gateway.get("datagrams_dropped", 0),
        "UDP errors": gateway.get("udp_errors", 0),
        "ping": gateway.get("echoes_dropped", 0),
        "loops": gateway.get("loops", 0),
        "DNS": gateway.get("dns_dropped", 0),
        "SERVFAIL": dns.get("servfail", 0),
        "blocked": dns.get("blocked", 0),
    }
    return {name: count for name, count in found.items() if count}
