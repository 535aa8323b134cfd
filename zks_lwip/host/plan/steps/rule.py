"""The step that adds a rule of policy routing."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, ClassVar

from ..step import Step, kind
from ..system import System, View
from ._rtnetlink import FAMILIES, GONE, PROTOCOL, THERE, TO_TABLE, UNREACHABLE

__all__ = ["MAIN", "Rule"]

MAIN = 254
"""The table ``main``."""
_ALL_BITS = 0xFFFFFFFF


@kind
@dataclass(frozen=True, slots=True)
class Rule(Step):
    """A rule of policy routing (ip-rule(8))."""

    paused: ClassVar[bool] = True
    family: int
    """4 or 6."""
    priority: int
    """The least comes first."""
    table: int | None
    """Where it leads; None: the destination is unreachable."""
    fwmark: int | None = None
    to: str | None = None
    uid: int | None = None
    ipproto: str | None = None
    """``tcp`` or ``udp``."""
    sport: int | None = None
    dport: int | None = None
    source: str | None = None
    iif: str | None = None
    """``lo``: only what this machine sends itself, nothing that it forwards."""

    def _words(self) -> str:
        words = [f"priority {self.priority}"]
        if self.iif is not None:
            words.append(f"iif {self.iif}")
        if self.source is not None:
            words.append(f"from {self.source}")
        if self.to is not None:
            words.append(f"to {self.to}")
        if self.fwmark is not None:
            words.append(f"fwmark {self.fwmark:#x}")
        if self.uid is not None:
            words.append(f"uidrange {self.uid}-{self.uid}")
        for name in ("ipproto", "sport", "dport"):
            if (value := getattr(self, name)) is not None:
                words.append(f"{name} {value}")
        action = {None: "unreachable", MAIN: "lookup main"}.get(self.table, f"lookup {self.table}")
        return " ".join([*words, action, f"protocol {PROTOCOL}"])

    def commands(self) -> list[str]:
        return [f"ip -{self.family} rule add {self._words()}"]

    def undo_commands(self) -> list[str]:
        return [f"ip -{self.family} rule del {self._words()}"]

    def do(self, system: System) -> None:
        system.netlink("rule", "add", self._request(), tolerate=THERE)

    def undo(self, system: System) -> None:
        system.netlink("rule", "del", self._request(), tolerate=GONE)

    def _request(self) -> dict[str, Any]:
        request: dict[str, Any] = {
            "family": FAMILIES[self.family],
            "priority": self.priority,
            "protocol": PROTOCOL,
        }
        if self.table is None:
            request["action"] = UNREACHABLE
        else:
            request |= {"table": self.table, "action": TO_TABLE}
        if self.fwmark is not None:
            request |= {"fwmark": self.fwmark, "fwmask": _ALL_BITS}
        if self.iif is not None:
            request["iifname"] = self.iif
        if self.source is not None:
            request["src"] = self.source
        if self.to is not None:
            request["dst"] = self.to  # (pyroute2 drops 0.0.0.0 and :: where they stand alone)
        if self.ipproto is not None:
            # Not getprotobyname(): minimal systems have no /etc/protocols.
            request["ip_proto"] = getattr(socket, f"IPPROTO_{self.ipproto.upper()}")
        for name, value in (("uid", self.uid), ("sport", self.sport), ("dport", self.dport)):
            if value is not None:
                request[f"{name}_range"] = f"{value}:{value}"
        return request

    def is_there(self, view: View) -> bool:
        return self in view.ours

    @property
    def closes(self) -> bool:
        return True
