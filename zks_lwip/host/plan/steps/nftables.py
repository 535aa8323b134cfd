"""The step that loads the firewall's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..step import Step, kind
from ..system import System, View

__all__ = ["TABLE_NAME", "Nftables"]

TABLE_NAME = "zks_lwip"
"""Our nftables table, of family inet."""


@kind
@dataclass(frozen=True, slots=True)
class Nftables(Step):
    """Our nftables table, loaded as one transaction."""

    paused: ClassVar[bool] = True
    atomic: ClassVar[bool] = True
    ruleset: str
    """What nft(8) loads; empty where the step is only to be undone."""

    def commands(self) -> list[str]:
        return [f"nft -f - <<'END'\n{self.ruleset}END"]

    def undo_commands(self) -> list[str]:
        return [f"nft delete table inet {TABLE_NAME}"]

    def do(self, system: System) -> None:
        system.load_table(self.ruleset)

    def undo(self, system: System) -> None:
        system.delete_table()

    def is_there(self, view: View) -> bool:
        return view.nft_table

    @property
    def closes(self) -> bool:
        return True

    def recorded(self) -> Nftables:
        return Nftables("")  # its name is enough to undo it

    def replaces(self, other: Step) -> bool:
        return isinstance(other, Nftables)
