"""The steps that tell the system's resolver: systemd-resolved, or resolvconf(8).

Both take orders from user id 0 alone, whatever capabilities others have, so a helper process of
root's does these steps where this one becomes another user: they act through programs only.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import ClassVar

from ..step import Step, kind
from ..system import Programs, View

__all__ = ["LinkDns", "ResolverStep", "Resolvconf"]

_RECORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class ResolverStep(Step):
    """A step that tells the system's resolver, which takes orders from root alone."""

    paused: ClassVar[bool] = True
    needs_root: ClassVar[bool] = True
    optional: ClassVar[bool] = True  # its questions are captured anyway

    def do(self, system: Programs) -> None:
        raise NotImplementedError

    def undo(self, system: Programs) -> None:
        raise NotImplementedError


@kind
@dataclass(frozen=True, slots=True)
class LinkDns(ResolverStep):
    """systemd-resolved asks this server, over the TUN, for every name (``~.``)."""

    vanishes: ClassVar[bool] = True
    device: str
    server: str

    def _settings(self) -> list[list[str]]:
        return [
            ["resolvectl", "dns", self.device, self.server],
            ["resolvectl", "domain", self.device, "~."],
            ["resolvectl", "default-route", self.device, "true"],
        ]

    def commands(self) -> list[str]:
        return [shlex.join(argv) for argv in self._settings()]

    def undo_commands(self) -> list[str]:
        return [f"resolvectl revert {self.device}"]

    def do(self, system: Programs) -> None:
        for argv in self._settings():
            system.run(argv)

    def undo(self, system: Programs) -> None:
        system.run(["resolvectl", "revert", self.device])


@kind
@dataclass(frozen=True, slots=True)
class Resolvconf(ResolverStep):
    """resolvconf(8) puts this server first into /etc/resolv.conf; openresolv, it alone.

    Alone means without the search domains and options of the others' records.
    """

    in_journal_only: ClassVar[bool] = True
    record: str
    server: str
    wishes: str | None = None
    """The host's own search domains and options (resolv_conf.py), one line each."""

    @property
    def text(self) -> str:
        """The record."""
        return "\n".join([f"nameserver {self.server}", *(self.wishes or "").splitlines()]) + "\n"

    def commands(self) -> list[str]:
        lines = shlex.join(self.text.splitlines())
        return [f"printf '%s\\n' {lines} | resolvconf -a {self.record} -m 0 -x"]

    def undo_commands(self) -> list[str]:
        return [f"resolvconf -d {self.record} -f"]

    def do(self, system: Programs) -> None:
        system.run(["resolvconf", "-a", self.record, "-m", "0", "-x"], self.text)

    def undo(self, system: Programs) -> None:
        system.run(["resolvconf", "-d", self.record, "-f"])

    def remains(self, view: View) -> bool:
        return True  # not to be seen, and harmless to undo

    def replaces(self, other: Step) -> bool:
        return isinstance(other, Resolvconf) and other.record == self.record

    def check_recorded(self) -> None:
        if not _RECORD.fullmatch(self.record):
            raise ValueError(f"no Resolvconf of ours: {self}")
