"""Take down what instances that died have left, from their journals: the same on every system.

Harmless where there is nothing, and when repeated.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import HostError, PrivilegeError
from ..net.netns import namespace_id
from .apply import Applier, undo_all
from .journal import (
    NO_RECORD,
    Journal,
    Record,
    boot_id,
    journal_path,
    parse,
    read_journal,
    running,
)
from .plan.step import Step
from .reports import Recovery, Remains

__all__ = [
    "TakeDown",
    "recover_journals",
    "remains_here",
    "undo_remaining",
    "undo_steps",
]

TakeDown = Callable[[str | None, Record, Recovery], None]
"""Takes down what a record says, and what is seen to be ours, in a namespace (None: this one), and
notes in the recovery what was undone and what could not be."""

_NAME = re.compile(r"net-(\d+)\.journal")


def recover_journals(
    directory: Path,
    own: int,
    take_down: TakeDown,
    *,
    find: Callable[[int, Record], str | None] = lambda inode, record: None,
    take_down_rest: Callable[[Record, Recovery], None] = lambda record, recovery: None,
) -> Recovery:
    """Undo every journal of an instance that does not run any more; blocks.

    In this namespace also what bears our name without being in a journal.

    :param directory: where journals are.
    :param own: of the namespace that this is; 0 where a system has none.
    :param find: returns a name or path of the namespace with that inode; None: it has gone.
    :param take_down_rest: takes down what a record says, and what has not gone with its namespace.
    :raises PrivilegeError: this is not root.
    """
    recovery = Recovery()
    seen = set()
    try:
        names = sorted(path.name for path in directory.iterdir() if not path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except PermissionError as error:
        raise PrivilegeError(f"cannot read {directory}: {error.strerror}; run it as root") from None
    for name in names:
        if match := _NAME.fullmatch(name):
            inode = int(match[1])
            seen.add(inode)
            if running(journal_path(directory, inode)):
                recovery.running.append(str(journal_path(directory, inode)))
                continue
            try:
                journal = Journal(directory, inode)
            except PrivilegeError:
                raise
            except HostError as error:
                recovery.left.append(str(error))
                continue
            with contextlib.closing(journal):
                record = journal.record or NO_RECORD
                where = None if inode == own else find(inode, record)
                known = len(recovery.left)
                if inode != own and where is None:
                    take_down_rest(record, recovery)
                    done = len(recovery.left) == known
                else:
                    done = _take_down(where, record, take_down, recovery)
                if done:
                    journal.path.with_suffix(".sock").unlink(missing_ok=True)
                    journal.finish()
    if own not in seen:
        take_down(None, NO_RECORD, recovery)
    return recovery


def _take_down(where: str | None, record: Record, take_down: TakeDown, recovery: Recovery) -> bool:
    """Take down what a record says; return whether nothing of it is left for another try."""
    known = len(recovery.left)
    take_down(where, record, recovery)
    if len(recovery.left) > known:
        return False
    recovery.left += [
        f"{problem}: settings that only it knew (sysctl, resolver) were left as they are"
        for problem in record.problems
    ]
    return True


def undo_remaining(system: Any, view: Any, steps: Iterable[Step], recovery: Recovery) -> list[str]:
    """Undo those steps of which something is left, the last first, and note how.

    :param system: what the steps act through.
    :param view: the state of the host.
    :returns: what failed.
    """
    return undo_steps(system, [step for step in steps if step.remains(view)], recovery)


def undo_steps(system: Any, steps: Iterable[Step], recovery: Recovery) -> list[str]:
    """Undo steps, the last first, each once, and note how.

    :param system: what they act through.
    :returns: what failed.
    """
    applier = Applier(system)

    def undo(step: Step) -> None:
        applier.undo(step)
        recovery.undone.extend(step.undo_commands())

    return undo_all(list(dict.fromkeys(steps)), undo)


def remains_here(directory: Path, is_closed: Callable[[], bool]) -> Remains | None:
    """Return what an instance that died has left where there are no namespaces.

    :param directory: where the journal is.
    :param is_closed: looks whether its firewall holds.
    :returns: None: nothing, or it runs.
    :raises PrivilegeError: this process may not see whether it runs.
    """
    path = journal_path(directory, namespace_id(None))
    if running(path):
        return None
    text = read_journal(path)
    record = parse(text) if text else None
    if record and not (record.boot == boot_id() and record.steps):
        record = None
    closed = is_closed()
    if record is None and not closed:
        return None
    return Remains(None if record is None else record.pid, closed)
