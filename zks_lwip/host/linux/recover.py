"""Take down what instances that died have left, from their journals and by name.

Harmless where there is nothing, and when repeated.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import HostError, PrivilegeError, ZksError
from ...net.netns import namespace_cookie, namespace_id, run_in_netns
from ..plan.config import STATE_DIR
from ..plan.step import Step
from ..plan.steps import TABLE_NAME, Nftables
from .apply import Applier, undo_all
from .instances import NAMED, NO_RECORD
from .journal import Journal, Record, journal_path, running
from .system import LinuxSystem

__all__ = ["Recovery", "recover"]

_NAME = re.compile(r"net-(\d+)\.journal")


@dataclass(slots=True)
class Recovery:
    """What :func:`recover` did."""

    undone: list[str] = field(default_factory=list)
    """Commands, in order."""
    left: list[str] = field(default_factory=list)
    """What is still there, and why."""
    foreign: list[str] = field(default_factory=list)
    """What bears our name and is another program's; it was not touched."""
    running: list[str] = field(default_factory=list)
    """Journals of instances that run; they were not touched."""


def recover(directory: Path = STATE_DIR) -> Recovery:
    """Undo every journal of an instance that does not run any more; blocks, a second at most.

    In this thread's namespace also what bears our name without being in a journal.

    :param directory: where journals are.
    :raises PrivilegeError: this is not root.
    """
    recovery = Recovery()
    own = namespace_id(None)
    seen = set()
    try:
        names = sorted(path.name for path in directory.iterdir() if not path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except PermissionError as error:
        raise PrivilegeError(f"cannot read {directory}: {error.strerror}; run it as root") from None
    for name in names:
        if match := _NAME.fullmatch(name):
            seen.add(int(match[1]))
            _recover(directory, int(match[1]), own, recovery)
    if own not in seen:
        _take_down(None, NO_RECORD, own, recovery)
    return recovery


def _recover(directory: Path, inode: int, own: int, recovery: Recovery) -> None:
    if running(journal_path(directory, inode)):
        recovery.running.append(str(journal_path(directory, inode)))
        return
    try:
        journal = Journal(directory, inode)
    except PrivilegeError:
        raise
    except HostError as error:
        recovery.left.append(str(error))
        return
    try:
        record = journal.record or NO_RECORD
        where = None if inode == own else _find(inode, record)
        if inode == own or where is not None:
            known = len(recovery.left)
            _take_down(where, record, own, recovery)
            if len(recovery.left) > known:
                return  # for another try
            recovery.left += [
                f"{problem}: settings that only it knew (sysctl, resolver) were left as they are"
                for problem in record.problems
            ]
        journal.path.with_suffix(".sock").unlink(missing_ok=True)
        journal.finish()
    finally:
        journal.close()


def _find(inode: int, record: Record) -> str | None:
    """Return a name or path of the namespace with that inode; None: it has gone, with all in it."""
    names = [] if record.netns is None else [record.netns]
    if NAMED.is_dir():
        names += sorted(path.name for path in NAMED.iterdir())
    for name in names:
        try:
            if namespace_id(name) == inode:
                return name
        except ZksError:
            continue  # removed while we looked
    return None


def _take_down(netns: str | None, record: Record, own: int, recovery: Recovery) -> None:
    try:
        recovery.left += run_in_netns(netns, _undo, netns, record, own, recovery)
    except ZksError as error:
        recovery.left.append(str(error))


def _undo(netns: str | None, record: Record, own: int, recovery: Recovery) -> list[str]:
    """Undo what the journal knows, what bears our protocol number, and our firewall.

    Runs in the namespace.

    :returns: what failed.
    """
    with contextlib.closing(LinuxSystem()) as system:
        applier = Applier(system)
        steps = record.steps if record.is_of(namespace_cookie()) else ()
        known = record.may_know_table and record.is_of(namespace_cookie())
        state = system.observe(netns, own, table_known=known)
        if state.foreign_table:
            where = f" in the network namespace {netns}" if netns else ""
            recovery.foreign.append(
                f"the nftables table inet {TABLE_NAME}{where} is not of our making, and left as it "
                f"is (`nft list table inet {TABLE_NAME}` shows it)"
            )

        def undo(step: Step) -> None:
            applier.undo(step)
            for command in step.undo_commands():
                recovery.undone.append(command)

        # The firewall first, so that it goes last: nothing is open before all is.
        known_steps = (Nftables(""), *state.ours, *(step.recorded() for step in steps))
        found = [step for step in known_steps if step.remains(state)]
        return undo_all(list(dict.fromkeys(found)), undo)
