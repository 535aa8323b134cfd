"""The steps of ``exclude``: a cgroup for programs beside the tunnel, and the mark of their packets.

A packet is told by the cgroup that its socket was made in (``socket cgroupv2`` of nft(8)), so what
a program's children send is told, too. Marking has a table of its own, apart from the firewall's:
its sets hold cgroup and mark for :data:`LEASE_SECONDS` only, and an instance that runs renews that.
One that has been killed excludes nothing any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ....errors import HostError
from ..step import Step, kind
from ..system import Groups, Programs, System, View

__all__ = ["CGROUP_PREFIX", "LEASE_SECONDS", "MARKING_TABLE", "Cgroup", "Marking"]

CGROUP_PREFIX = "zks_lwip-"
"""What the names of our cgroups begin with; the inode number of the network namespace follows."""
MARKING_TABLE = "zks_lwip_excluded"
"""Our other nftables table, of family inet."""
LEASE_SECONDS = 10
"""For how long the cgroup stays in the set unless it is renewed."""

_ROOT = "/sys/fs/cgroup"
"""Where nft(8) looks for cgroups."""
_PATH = re.compile(r"/sys/fs/cgroup(/[A-Za-z0-9_-]+)?/zks_lwip-\d{1,20}")
_TABLE = f"table inet {MARKING_TABLE}"


@kind
@dataclass(frozen=True, slots=True)
class Cgroup(Step):
    """A cgroup (v2) directly below the root of its hierarchy, without limits.

    Where it goes, its processes go on in the root's, as if they had never been in it.
    """

    in_journal_only: ClassVar[bool] = True
    outlives: ClassVar[bool] = True
    needs_root: ClassVar[bool] = True
    path: str

    def commands(self) -> list[str]:
        return [f"mkdir -p {self.path}"]

    def undo_commands(self) -> list[str]:
        return [f"rmdir {self.path}"]

    def do(self, system: System) -> None:
        system.make_cgroup(self.path)

    def undo(self, system: Groups) -> None:
        system.remove_cgroup(self.path)

    def remains(self, view: View) -> bool:
        return True  # not to be seen, and harmless to undo

    def check_recorded(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"no Cgroup of ours: {self}")


@kind
@dataclass(frozen=True, slots=True)
class Marking(Step):
    """Mark what a cgroup's processes send, before its way is chosen anew by that mark."""

    in_journal_only: ClassVar[bool] = True
    atomic: ClassVar[bool] = True
    path: str
    """The cgroup's; empty where the step is only to be undone."""
    mark: int

    @property
    def ruleset(self) -> str:
        """The table, for ``nft -f``, with a lease that begins now."""
        chain = "type route hook output priority mangle; policy accept;"
        mark = f"meta mark set {self.mark:#x}"
        sets = "".join(
            f"add set inet {MARKING_TABLE} {name} {{ {kind}; flags dynamic,timeout; }}\n"
            for name, kind in (("groups", "typeof socket cgroupv2 level 1"), ("marks", "type mark"))
        )
        return (
            f"add {_TABLE}\nflush {_TABLE}\n{sets}{self.lease}"
            f"{_TABLE} {{\n\tchain excluded {{\n\t\t{chain}\n"
            f"\t\tsocket cgroupv2 level 1 @groups {mark}\n"
            # Another program's socket may come to have addresses and ports of such a connection:
            # it is left alone. What the kernel itself sends for one (a RST) has no socket.
            f"\t\tmeta skuid != 4294967295 accept\n"
            f"\t\tmeta mark 0 ct mark @marks {mark}\n\t}}\n}}\n"
        )

    @property
    def lease(self) -> str:
        """Input of ``nft -f`` that renews the lease; older kernels do that only to new elements."""
        lines = []
        group = self.path.removeprefix(f"{_ROOT}/")
        for name, element in (("groups", f'"{group}"'), ("marks", f"{self.mark:#x}")):
            where = f"element inet {MARKING_TABLE} {name}"
            lines += [
                f"add {where} {{ {element} }}\n",
                f"delete {where} {{ {element} }}\n",
                f"add {where} {{ {element} timeout {LEASE_SECONDS}s }}\n",
            ]
        return "".join(lines)

    def commands(self) -> list[str]:
        return [f"nft -f - <<'END'\n{self.ruleset}END"]

    def undo_commands(self) -> list[str]:
        return [f"nft delete {_TABLE}"]

    def do(self, system: Programs) -> None:
        try:
            system.run(["nft", "-f", "-"], self.ruleset)
        except HostError as error:
            raise HostError(
                f"{error}. `allow_exclude` needs Linux 5.13 and nft 0.9.9 (`socket cgroupv2`)"
            ) from error

    def renew(self, system: Programs) -> None:
        """Have the cgroup stay in the set for the length of another lease.

        :raises HostError: nft refuses it.
        """
        try:
            system.run(["nft", "-f", "-"], self.lease)
        except HostError:
            self.do(system)  # another program has deleted the table

    def undo(self, system: Programs) -> None:
        system.run(["nft", "-f", "-"], f"add {_TABLE}\ndelete {_TABLE}\n")

    def remains(self, view: View) -> bool:
        return True

    def recorded(self) -> Marking:
        return Marking("", 0)  # its name is enough to undo it

    def replaces(self, other: Step) -> bool:
        return isinstance(other, Marking)
