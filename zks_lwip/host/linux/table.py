"""The firewall's table as nft(8) has it: load it, see whether it still looks as loaded, delete it.

Runs in a thread in the network namespace.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence

from ...errors import HostError
from ...net.descriptors import is_scarcity
from ..plan.firewall import is_ours
from ..plan.steps import TABLE_NAME
from ..programs import read_program, run_program, search_path

__all__ = ["Table", "count_refused", "list_table", "nft_path", "table_presence"]

_MAX_LOADS = 5
"""How often a new ruleset is loaded again until it looks as it did: nearly always, once."""
_MAX_LIST_SECONDS = 10.0
_DELETE = f"add table inet {TABLE_NAME}\ndelete table inet {TABLE_NAME}\n"
"""Delete the table; ``add`` comes first, so that it succeeds whether or not the table is there.

Before a ruleset, in one transaction, it leaves nothing of the table that is there. Packets may pass
meanwhile, see :func:`~zks_lwip.host.plan.firewall.ruleset`: only where nothing else helps.
"""


def nft_path() -> str | None:
    """Return the path of nft(8); None if it is not installed."""
    return shutil.which("nft", path=search_path())


def run_nft(arguments: Sequence[str], text: str = "") -> str:
    """Run nft(8) with ``text`` on its standard input, and return what it printed.

    :raises HostError: it is not installed, or failed.
    """
    path = nft_path()
    if path is None:
        raise HostError("nft is not installed: install the package nftables")
    return run_program([path, *arguments], text)


def list_table(nft: str, read: Callable[..., tuple[int, str]] = read_program) -> str:
    """Return our table as it is: rules, chains, sets and flags, without what counts.

    :param nft: the path of nft(8).
    :param read: runs it, see :func:`~zks_lwip.host.programs.read_program`.
    :returns: its text; empty if there is no such table.
    :raises HostError: it cannot be told.
    """
    argv = [nft, "-s", "-n", "list", "table", "inet", TABLE_NAME]
    code, listing = read(argv, patience=_MAX_LIST_SECONDS)
    return listing if code == 0 else ""


class Table:
    """Our table, and how it looked when it had been loaded.

    :param run: runs nft(8), see :func:`run_nft`.
    :param show: lists the table, see :func:`list_table`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[str], str], str] = run_nft,
        show: Callable[[str], str] = list_table,
    ) -> None:
        self._run = run
        self._show = show
        self._ruleset = ""
        self.loaded: str | None = None
        """Its listing once it had been loaded; None: not loaded, or it could not be listed."""

    def load(self, ruleset: str) -> None:
        """Load a ruleset in the place of what is there, and remember how the table looks.

        A change by another program between two loads is seen: the listing that two loads give
        alike is ours.

        :raises HostError: nft refuses it.
        """
        delete = ""
        try:
            self._run(["-f", "-"], ruleset)
            if self.loaded is not None and ruleset == self._ruleset:
                if self._listing() in (self.loaded, None):
                    return
                delete = _DELETE  # another program's chain in it, say, which loading leaves
        except HostError as error:
            if is_scarcity(error):
                raise
            delete = _DELETE  # something of it has become of another kind
        if delete:
            self._run(["-f", "-"], delete + ruleset)
        looks = self._listing()
        for _ in range(_MAX_LOADS):
            # It may have been changed between the two: what two loads give alike is ours.
            self._run(["-f", "-"], ruleset)
            before, looks = looks, self._listing()
            if looks == before:
                break
        self._ruleset, self.loaded = ruleset, looks

    def delete(self) -> None:
        """Delete the table, if it is there."""
        self._run(["-f", "-"], _DELETE)

    def _listing(self) -> str | None:
        """Return how the table looks; None if that cannot be told: then take it to be as it was."""
        try:
            return self._show(nft_path() or "nft") or None  # it is there: nft had no room for it
        except HostError:
            return None


def table_presence(
    nft: str | None,
    known: bool | None,
    loaded: str | None,
    *,
    read: Callable[..., tuple[int, str]] = read_program,
) -> tuple[bool, bool]:
    """Tell whether our firewall is there, and whether another table of its name is.

    :param nft: the path of nft(8), None if it is not installed.
    :param known: a table of our name is ours whatever it looks like; None: not known.
    :param loaded: what :func:`list_table` gave when it had been loaded, if this process did that.
    :param read: runs a program, see :func:`~zks_lwip.host.programs.read_program`.
    :raises HostError: with ``loaded``, for want of descriptors or memory: to be tried again.
    """
    if nft is None:
        return False, False
    try:
        if loaded is not None:
            return list_table(nft, read) == loaded, False
        # As text, which every nft prints, and without what is in the sets.
        argv = [nft, "-t", "list", "table", "inet", TABLE_NAME]
        code, listing = read(argv, patience=_MAX_LIST_SECONDS)
    except HostError as error:
        if loaded is not None and is_scarcity(error):
            raise  # or what has been done to it would be seen with the next change only
        # Who has to change it will hear why; what was known before is not forgotten for that.
        return known is not False, False
    ours = bool(known) or is_ours(listing)
    return code == 0 and ours, code == 0 and not ours


def count_refused() -> int:
    """Return how many packets our firewall has counted as refused.

    :raises HostError: it is not loaded, or nft does not show the counter.
    """
    text = run_nft(["-j", "list", "counter", "inet", TABLE_NAME, "refused"])
    try:
        counters = [item["counter"] for item in json.loads(text)["nftables"] if "counter" in item]
        return int(counters[0]["packets"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise HostError("nft does not show how many packets the firewall has refused") from None
