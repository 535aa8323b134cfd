"""Take down what instances that died have left on a Mac, from the journal and by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from ...errors import ZksError
from ...net.netns import namespace_id
from ..apply import Applier, undo_all
from ..journal import Record, boot_id, journal_path, parse, read_journal, running
from ..plan.config import STATE_DIR
from ..plan.macos.steps import PfAnchor, PfEnable, ScutilDns
from ..plan.step import Step
from ..recover import recover_journals
from ..reports import Recovery, Remains
from .observe import Looked, look
from .system import MacosHostSystem

__all__ = ["recover", "remains"]


class _RecoverSystem(Looked, Protocol):
    def close(self) -> None: ...


def recover(
    directory: Path = STATE_DIR, *, open_system: Callable[[Path], _RecoverSystem] = MacosHostSystem
) -> Recovery:
    """Undo the journal of an instance that does not run any more, and what bears our name; blocks.

    :param directory: where the journal is.
    :param open_system: makes what the steps act through.
    :raises PrivilegeError: this is not root.
    """

    def take_down(netns: str | None, record: Record, recovery: Recovery) -> None:
        try:
            with closing(open_system(directory)) as system:
                recovery.left += _undo(system, record, recovery)
        except ZksError as error:
            recovery.left.append(str(error))

    return recover_journals(directory, namespace_id(None), take_down)


def _undo(system: Looked, record: Record, recovery: Recovery) -> list[str]:
    """Undo what the journal knows, our anchor, our token and our record of the resolver.

    :returns: what failed.
    """
    applier, state = Applier(system), look(system)

    def undo(step: Step) -> None:
        applier.undo(step)
        recovery.undone.extend(step.undo_commands())

    # The firewall first, so that it goes last: nothing is open before all is.
    known = (PfAnchor(""), PfEnable(), ScutilDns(""), *(step.recorded() for step in record.steps))
    found = [step for step in known if step.remains(state)]
    return undo_all(list(dict.fromkeys(found)), undo)


def remains(
    directory: Path = STATE_DIR, *, open_system: Callable[[Path], _RecoverSystem] = MacosHostSystem
) -> Remains | None:
    """Return what an instance that died has left; None: nothing, or it runs.

    :raises PrivilegeError: this process may not see whether it runs.
    """
    path = journal_path(directory, namespace_id(None))
    if running(path):
        return None
    text = read_journal(path)
    record = parse(text) if text else None
    if record and not (record.boot == boot_id() and record.steps):
        record = None
    with closing(open_system(directory)) as system:
        state = look(system)
    closed = state.pf_loaded and state.pf_enabled
    if record is None and not closed:
        return None
    return Remains(None if record is None else record.pid, closed)
