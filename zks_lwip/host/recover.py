"""Take down what instances that died have left, from their journals and by name.

Harmless where there is nothing, and when repeated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import IPRoute

from zks_lwip.device._netns import namespace_cookie, namespace_id, run_in_netns
from zks_lwip.errors import HostError, PrivilegeError, ZksError
from zks_lwip.host._apply import Applier
from zks_lwip.host._observe import look, read_sysctl
from zks_lwip.host.config import STATE_DIR, TABLE
from zks_lwip.host.journal import Journal, Record, boot_id, journal_path, parse, running
from zks_lwip.host.linux import undo_all
from zks_lwip.host.steps import TABLE_NAME, Nftables, Resolvconf, Route, Rule, Step, Sysctl

__all__ = ["Recovery", "Remains", "recover", "remains"]

_NAME = re.compile(r"net-(\d+)\.journal")
_NAMED = Path("/run/netns")
_NO_RECORD = Record(0, "", None, 0, "")


@dataclass(slots=True)
class Recovery:
    """What :func:`recover` did."""

    undone: list[str] = field(default_factory=list)
    """Commands, in order."""
    left: list[str] = field(default_factory=list)
    """What is still there, and why."""
    foreign: list[str] = field(default_factory=list)
    """What bears our name and is somebody else's; it was not touched."""
    running: list[str] = field(default_factory=list)
    """Journals of instances that run; they were not touched."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What an instance that does not run any more has left."""

    pid: int | None
    """Of its process; None: it could not write its journal (``--always-on`` closes without)."""
    closed: bool
    """It refuses what does not go through the tunnel. What is there counts, not what was planned:
    it may have died in a pause, or have had no kill switch."""


def remains(netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
    """What an instance that died, or could not write its journal, has left; None: nothing, or it
    runs.

    :raises PrivilegeError: this is not root.
    """
    inode, cookie = run_in_netns(netns, lambda: (namespace_id(None), namespace_cookie()))
    path = journal_path(directory, inode)
    record: Record | None = None
    try:
        if running(path):
            return None
        record = parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise PrivilegeError(f"cannot read {path}: {error.strerror}; run it as root") from None
    if record and not (record.boot == boot_id() and record.is_of(cookie) and record.steps):
        record = None
    closed = run_in_netns(netns, _is_closed, netns, record or _NO_RECORD)
    if record is None and not closed:
        return None
    return Remains(None if record is None else record.pid, closed)


def _is_closed(netns: str | None, record: Record) -> bool:
    known = record.may_know_table and record.is_of(namespace_cookie())
    with IPRoute() as ip:
        state = look(ip, netns, namespace_id(None), None, table_known=known)
    captures = any(isinstance(step, Rule) and step.table == TABLE for step in state.ours)
    refuses = any(isinstance(step, Route) and step.device is None for step in state.ours)
    return state.nft_table or (captures and refuses)


def recover(directory: Path = STATE_DIR) -> Recovery:
    """Undo every journal of an instance that does not run any more; blocks, a second at most.

    In our own namespace also what bears our name without being in a journal.

    :raises PrivilegeError: this is not root.
    """
    recovery = Recovery()
    own = namespace_id(None)
    seen = set()
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        names = []
    except PermissionError as error:
        raise PrivilegeError(f"cannot read {directory}: {error.strerror}; run it as root") from None
    for name in names:
        if match := _NAME.fullmatch(name):
            seen.add(int(match[1]))
            _recover(directory, int(match[1]), own, recovery)
    if own not in seen:
        _take_down(None, _NO_RECORD, own, recovery)
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
        record = journal.record or _NO_RECORD
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
    """A name or path of the namespace with that inode; None: it has gone, with all in it."""
    names = [] if record.netns is None else [record.netns]
    if _NAMED.is_dir():
        names += sorted(path.name for path in _NAMED.iterdir())
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
    """Runs in the namespace: what the journal knows, what bears our protocol number, and our
    firewall.
    """
    with IPRoute() as ip:
        applier = Applier(ip)
        steps = record.steps if record.is_of(namespace_cookie()) else ()
        known = record.may_know_table and record.is_of(namespace_cookie())
        state = look(ip, netns, own, None, table_known=known)
        if state.foreign_table:
            where = f" in the network namespace {netns}" if netns else ""
            recovery.foreign.append(
                f"the nftables table inet {TABLE_NAME}{where} is not of our making, and left as it "
                f"is (`nft list table inet {TABLE_NAME}` shows it)"
            )
        table = Nftables("")

        def is_there(step: Step) -> bool:
            if isinstance(step, (Rule, Route)):
                return step in state.ours
            if isinstance(step, Sysctl):
                return read_sysctl(step.name) == step.value
            return isinstance(step, Resolvconf) or (step == table and state.nft_table)

        def undo(step: Step) -> None:
            applier.undo(step)
            for command in step.undo_commands():
                recovery.undone.append(command)

        # The firewall first, so that it goes last: nothing is open before all is.
        found = [step for step in (table, *state.ours, *steps) if is_there(step)]
        return undo_all(list(dict.fromkeys(found)), undo)
