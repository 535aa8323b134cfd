"""Which instances run, and what one that does not run any more has left; nothing is changed.

Root reads the journals. Another user may only see that they are there, how long they are and
whether they are locked, where the directory lets everybody look up names (``--control-group``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import PrivilegeError, ZksError
from ...net.netns import namespace_cookie, namespace_id, run_in_netns
from ..journal import NO_RECORD, Record, boot_id, journal_path, parse, read_journal, running
from ..plan.config import STATE_DIR, TABLE
from ..reports import Remains, RunningInstance

__all__ = ["NAMED", "remains", "running_instances"]

NAMED = Path("/run/netns")
"""Where ip(8) keeps named namespaces."""

_JOURNAL = re.compile(r"net-(\d+)\.journal")
_LOCKS = Path("/proc/locks")


def remains(netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
    """Return what an instance that died, or could not write its journal, has left.

    :param netns: the network namespace, None for the one of this thread.
    :param directory: where journals are.
    :returns: None if nothing is left, or the instance runs.
    :raises PrivilegeError: this process may not even see whether there is a journal.
    """
    if not _reads(directory, namespace_id(netns)):
        return _remains_unread(netns, directory)
    inode, cookie = run_in_netns(netns, lambda: (namespace_id(None), namespace_cookie()))
    path = journal_path(directory, inode)
    if running(path):
        return None
    text = read_journal(path)
    record = None if text is None else _parse(text)
    if record and not (record.boot == boot_id() and record.is_of(cookie) and record.steps):
        record = None
    closed = run_in_netns(netns, _is_closed, netns, record or NO_RECORD)
    if record is None and not closed:
        return None
    return Remains(None if record is None else record.pid, closed)


def _reads(directory: Path, inode: int) -> bool:
    """Return whether this process may read that journal, if there is one."""
    try:
        with open(journal_path(directory, inode), "rb"):
            return True
    except PermissionError:
        return False
    except OSError:
        return os.geteuid() == 0 or not directory.exists()


def _remains_unread(netns: str | None, directory: Path) -> Remains | None:
    """Do as :func:`remains` without reading a journal: by its size, and by routes and rules."""
    held = _held(directory, namespace_id(netns))
    if held:
        return None
    closed = run_in_netns(netns, _is_closed, netns, NO_RECORD)
    if held is None and not closed:
        return None
    return Remains(None, closed, readable=held is None)


def _held(directory: Path, inode: int) -> bool | None:
    """Tell whether an instance holds a journal that may not be read; None: it is empty, or none.

    :raises PrivilegeError: the directory may not be searched.
    """
    path = journal_path(directory, inode)
    try:
        seen = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PrivilegeError(f"cannot look at {path}: {error.strerror}; run it as root") from None
    if not seen.st_size:
        return None
    # Not by a lock of our own, which would keep an instance from starting meanwhile.
    device = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    return any("FLOCK" in line and device in line.split() for line in lines)


def _parse(text: str) -> Record:
    """Read a journal; here the kinds of step are known that it may name."""
    from ..plan import steps  # noqa: F401

    return parse(text)


def _is_closed(netns: str | None, record: Record) -> bool:
    # Here: they take long, and where an instance runs, none is needed.
    from ..plan.steps import Nftables, Route, Rule
    from .observe import look
    from .rtnetlink import open_rtnetlink

    known = record.may_know(Nftables) and record.is_of(namespace_cookie())
    with open_rtnetlink() as ip:
        state = look(ip, netns, namespace_id(None), None, table_known=known)
    captures = any(isinstance(step, Rule) and step.table == TABLE for step in state.ours)
    refuses = any(isinstance(step, Route) and step.device is None for step in state.ours)
    return state.nft_table or (captures and refuses)


def running_instances(
    directory: Path = STATE_DIR, *, besides: str | None = None
) -> list[RunningInstance]:
    """Return the instances that run in other namespaces, as many as this process may know of.

    :param besides: the namespace that is left out; None: the one of this thread.
    """
    left_out = namespace_id(besides)
    names = _names()
    try:
        found = [_JOURNAL.fullmatch(path.name) for path in sorted(directory.iterdir())]
        inodes = [int(match[1]) for match in found if match]
    except OSError:  # no directory, or it may not be listed: ask for those that have names
        inodes = [*names, namespace_id(None)]
    instances = []
    for inode in dict.fromkeys(inodes):
        if inode == left_out:
            continue
        path = journal_path(directory, inode)
        name = names.get(inode)
        try:
            if _reads(directory, inode):
                if running(path) and (text := read_journal(path)) is not None:
                    record = _parse(text)
                    netns = name or record.netns
                    instances.append(RunningInstance(netns, record.pid or None, record.tun or None))
            elif _held(directory, inode):
                instances.append(RunningInstance(name, None, None))
        except PrivilegeError:
            continue  # not for this user to know
    return instances


def _names() -> dict[int, str]:
    """Return the names of namespaces by their inodes."""
    names: dict[int, str] = {}
    for path in sorted(NAMED.iterdir()) if NAMED.is_dir() else ():
        try:
            names.setdefault(namespace_id(path.name), path.name)
        except ZksError:
            continue  # removed while we looked
    return names
