"""The step that adds a route to our table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..step import Step, kind
from ..system import System, View
from ._rtnetlink import FAMILIES, GONE, PROTOCOL, UNICAST, UNREACHABLE

__all__ = ["Route"]

_SCOPE_UNIVERSE = 0


@kind
@dataclass(frozen=True, slots=True)
class Route(Step):
    """A default route in our table."""

    family: int
    """4 or 6."""
    table: int
    metric: int
    """The least wins."""
    device: str | None = None
    """The interface that it leads to; None: the destination is unreachable."""

    def _words(self) -> str:
        target = "unreachable default" if self.device is None else f"default dev {self.device}"
        if self.device is not None and self.family == 4:
            # Of scope link, which is ip(8)'s choice, it would count as a way to any gateway: who
            # adds a default route without naming the interface would get the TUN as uplink.
            target += " scope global"
        return f"{target} table {self.table} metric {self.metric} proto {PROTOCOL}"

    def commands(self) -> list[str]:
        return [f"ip -{self.family} route replace {self._words()}"]

    def undo_commands(self) -> list[str]:
        return [f"ip -{self.family} route del {self._words()}"]

    def do(self, system: System) -> None:
        system.netlink("route", "replace", self._request())

    def undo(self, system: System) -> None:
        system.netlink("route", "del", self._request(), tolerate=GONE)

    def _request(self) -> dict[str, Any]:
        request: dict[str, Any] = {
            "family": FAMILIES[self.family],
            "dst_len": 0,
            "scope": _SCOPE_UNIVERSE,
            "table": self.table,
            "priority": self.metric,
            "proto": PROTOCOL,
        }
        if self.device is None:
            request["type"] = UNREACHABLE
        else:
            request |= {"type": UNICAST, "oif": self.device}
        return request

    def is_there(self, view: View) -> bool:
        return self in view.ours

    @property
    def closes(self) -> bool:
        return not self.device
