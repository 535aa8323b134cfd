"""Take down what instances that died have left, from their journals and by name.

Harmless where there is nothing, and when repeated.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import HostError, ZksError
from ...net.netns import namespace_cookie, namespace_id, run_in_netns
from ..journal import Record
from ..plan.config import STATE_DIR
from ..plan.steps import TABLE_NAME, Nftables
from ..recover import recover_journals, undo_remaining, undo_steps
from ..reports import Recovery
from .instances import NAMED
from .socket_namespaces import open_namespace_of_socket
from .system import LinuxSystem

__all__ = ["Recovery", "recover"]

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a blank in a path, and the like


def recover(directory: Path = STATE_DIR) -> Recovery:
    """Undo every journal of an instance that does not run any more; blocks, a second at most.

    In this thread's namespace also what bears our name without being in a journal.

    :param directory: where journals are.
    :raises PrivilegeError: this is not root.
    """
    own = namespace_id(None)
    found: dict[str | None, int] = {None: own}

    def find(inode: int, record: Record) -> str | None:
        where = _find(inode, record)
        if where is None and (fd := open_namespace_of_socket(inode)) is not None:
            held.callback(os.close, fd)
            where = f"/proc/self/fd/{fd}"
        if where is not None:
            found[where] = inode
        return where

    def undo(netns: str | None, record: Record, recovery: Recovery) -> list[str]:
        if namespace_id(None) != found[netns]:
            raise HostError(f"the namespace {netns} has become another one; run `recover` again")
        return _undo(netns, record, own, recovery)

    def take_down(netns: str | None, record: Record, recovery: Recovery) -> None:
        try:
            recovery.left += run_in_netns(netns, undo, netns, record, recovery)
        except ZksError as error:
            recovery.left.append(str(error))

    with contextlib.ExitStack() as held:
        return recover_journals(
            directory, own, take_down, find=find, take_down_rest=_take_down_rest
        )


def _find(inode: int, record: Record) -> str | None:
    """Return a name or path of the namespace with that inode; None: it has gone.

    One without a name lives as long as a process or a thread is in it, it is mounted (a
    container's), or a descriptor of it is open. What only sockets keep alive, these lead to
    (:mod:`.socket_namespaces`).
    """
    for name in _candidates(inode, record):
        try:
            if namespace_id(name) == inode:
                return name
        except ZksError:
            continue  # removed while we looked
    return None


def _candidates(inode: int, record: Record) -> Iterator[str]:
    """Names and paths by which the namespace with that inode may be found, the likeliest first."""
    if record.netns is not None:
        yield record.netns
    if NAMED.is_dir():
        yield from sorted(path.name for path in NAMED.iterdir())
    mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    for fields in map(str.split, mounts.splitlines()):
        if fields[3] == f"net:[{inode}]":
            yield _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    yield from (f"{path}/ns/net" for path in processes)
    for path in processes:
        yield from (f"{thread}/ns/net" for thread in _entries(path / "task"))
        yield from (f"{path}/fd/{fd}" for fd in _descriptors(path, inode))


def _descriptors(process: Path, inode: int) -> Iterator[str]:
    """Yield a process's descriptors of the namespace with that inode.

    No other file is asked for anything: one on a server that has gone would hold us up.
    """
    device = os.stat("/proc/self/ns/net").st_dev
    for information in _entries(process / "fdinfo"):
        fd = os.path.basename(information)
        try:
            told = Path(information).read_text(encoding="ascii", errors="replace")
            # (Linux tells the inode since 5.14; a link may name a mount instead.)
            alike = f"\nino:\t{inode}\n" in told
            alike = alike or os.readlink(process / "fd" / fd) == f"net:[{inode}]"
            if alike and os.stat(process / "fd" / fd).st_dev == device:
                yield fd
        except OSError:
            continue  # it was closed


def _entries(directory: Path) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in os.listdir(directory)]
    except OSError:
        return []  # the process has ended


def _take_down_rest(record: Record, recovery: Recovery) -> None:
    """Undo what the journal knows of a namespace that has gone, and that has not gone with it."""
    steps = [step for step in record.steps if step.outlives]
    if not steps:
        return
    with contextlib.closing(LinuxSystem()) as system:
        recovery.left += undo_steps(system, steps, recovery)


def _undo(netns: str | None, record: Record, own: int, recovery: Recovery) -> list[str]:
    """Undo what the journal knows, what bears our protocol number, and our firewall.

    Runs in the namespace.

    :returns: what failed.
    """
    with contextlib.closing(LinuxSystem()) as system:
        # Of one that has gone, whose number this one has now, only what outlives it is left.
        same = record.is_of(namespace_cookie())
        steps = [step for step in record.steps if same or step.outlives]
        known = record.may_know(Nftables) and same
        state = system.observe(netns, own, table_known=known)
        if state.foreign_table:
            where = f" in the network namespace {netns}" if netns else ""
            recovery.foreign.append(
                f"the nftables table inet {TABLE_NAME}{where} is not of our making, and left as it "
                f"is (`nft list table inet {TABLE_NAME}` shows it)"
            )
        # The firewall first, so that it goes last: nothing is open before all is.
        known_steps = (Nftables(""), *state.ours, *(step.recorded() for step in steps))
        return undo_remaining(system, state, known_steps, recovery)
