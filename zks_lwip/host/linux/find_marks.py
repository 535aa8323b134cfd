"""Ask nft(8) and iptables-save(8) which marks others use; runs in a thread in the namespace.

Each is asked only where it can have something to say, for some seconds and 16 MiB at most. What
cannot be asked, or answers nonsense, is told, and does not keep a user from connecting.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ...errors import HostError, PrivilegeError
from ..plan.marks import MarkUse, NftMarks, read_iptables, read_nftables
from ..programs import read_program, search_path
from .privileges import check_net_admin

__all__ = ["find_marks"]

# Seconds: of all programs together, and of each one, however long the others took.
_MAX_SECONDS, _MIN_SECONDS_EACH = 5.0, 1.0


def find_marks(nft: str | None) -> tuple[tuple[MarkUse, ...], tuple[str, ...]]:
    """Return the marks that other programs' firewalls use.

    :param nft: the path of nft(8), None if it is not installed.
    :returns: the uses; and what could not be read, and why.
    """
    try:
        check_net_admin()
    except PrivilegeError:
        return (), ()  # nothing is shown, nor can anything be changed
    look = _Look()
    return look.uses(nft), tuple(look.unseen)


class _Look:
    """One look, within a number of seconds altogether."""

    def __init__(self) -> None:
        self.unseen: list[str] = []
        self._end = time.monotonic() + _MAX_SECONDS

    def uses(self, nft: str | None) -> tuple[MarkUse, ...]:
        found = None if nft is None else self._nftables(nft)
        uses = [] if found is None else [*found.uses]
        for family, program in (("ip", "iptables"), ("ip6", "ip6tables")):
            # (Where nft says nothing, there may be rules of iptables-nft.)
            kinds = ["nft"] if found is None or family in found.opaque else []
            if _has_legacy_tables(family):
                kinds.append("legacy")
            for save in dict.fromkeys(_save_program(program, kind) for kind in kinds):
                if save is not None:
                    uses += self._iptables(save, program)
                elif found is not None or "legacy" in kinds:
                    self.unseen.append(f"there are rules of {program}, but no {program}-save")
        return tuple(uses)

    def _nftables(self, nft: str) -> NftMarks | None:
        # Without what is in named sets, which may be millions of addresses; unless it is marks.
        argv = [nft, "-j", "-n", "-t", "list", "ruleset"]
        try:
            found = read_nftables(self._printed(argv))
            if found.named:
                argv.remove("-t")
                found = read_nftables(self._printed(argv))
        except (HostError, ValueError) as error:
            self.unseen.append(f"{' '.join(argv)}: {error}")
            return None
        return found

    def _iptables(self, save: str, program: str) -> tuple[MarkUse, ...]:
        try:
            return read_iptables(self._printed([save]), program)
        except (HostError, ValueError) as error:
            self.unseen.append(f"{save}: {error}")
            return ()

    def _printed(self, argv: list[str]) -> str:
        left = self._end - time.monotonic()
        code, text = read_program(argv, patience=max(_MIN_SECONDS_EACH, left))
        if code:
            raise HostError(f"exit code {code}")
        return text


def _has_legacy_tables(family: str) -> bool:
    """Return whether the kernel's older tables are in use; iptables-legacy would load them."""
    try:
        return bool(Path(f"/proc/thread-self/net/{family}_tables_names").read_text().strip())
    except OSError:
        return False  # the kernel has none


def _save_program(program: str, kind: str) -> str | None:
    """Return the path of the save program of this kind.

    Else that of the one without a kind in its name, which is of one of them; None if there is none.
    """
    names = (f"{program}-{kind}-save", f"{program}-save")
    return next((path for name in names if (path := shutil.which(name, path=search_path()))), None)
