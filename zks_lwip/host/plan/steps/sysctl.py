"""The step that changes a setting of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..step import Step, kind
from ..system import System, View

__all__ = ["SYSCTLS", "Sysctl"]

SYSCTLS = (
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.conf.all.route_localnet",
)
"""Settings that a step may change for the host as a whole."""


@kind
@dataclass(frozen=True, slots=True)
class Sysctl(Step):
    """A kernel setting."""

    in_journal_only: ClassVar[bool] = True
    paused: ClassVar[bool] = True  # without the firewall route_localnet lets neighbours in
    name: str
    """One of :data:`SYSCTLS`."""
    value: str
    previous: str
    """What it was before we ever touched it."""

    def commands(self) -> list[str]:
        return [f"sysctl -w {self.name}={self.value}"]

    def undo_commands(self) -> list[str]:
        return [f"sysctl -w {self.name}={self.previous}"]

    def do(self, system: System) -> None:
        system.write_sysctl(self.name, self.value)

    def undo(self, system: System) -> None:
        # Another program that has changed it since meant to.
        if system.read_sysctl(self.name) == self.value:
            system.write_sysctl(self.name, self.previous)

    def is_there(self, view: View) -> bool | None:
        now = view.sysctls.get(self.name)
        return None if now is None else now == self.value

    def replaces(self, other: Step) -> bool:
        return isinstance(other, Sysctl) and other.name == self.name

    def check_recorded(self) -> None:
        if not (self.name in SYSCTLS and self.value.isdigit() and self.previous.isdigit()):
            raise ValueError(f"no Sysctl of ours: {self}")
