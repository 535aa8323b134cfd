"""Take down what instances that died have left on a Mac, from the journal and by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from ...errors import ZksError
from ...net.netns import namespace_id
from ..journal import Record
from ..plan.config import STATE_DIR
from ..plan.macos.steps import PfAnchor, PfEnable, ScutilDns
from ..recover import recover_journals, remains_here, undo_remaining
from ..reports import Recovery, Remains
from .observe import Looked, look
from .system import MacosHostSystem

__all__ = ["recover", "remains"]


class _RecoverSystem(Looked, Protocol):
    def close(self) -> None: ...


def recover(
    directory: Path = STATE_DIR, *, open_system: Callable[[Path], _RecoverSystem] = MacosHostSystem
) -> Recovery:
    """Undo the journal of an instance that does not run any more, our anchor, our token and our
    record of the resolver; blocks.

    :param directory: where the journal is.
    :param open_system: makes what the steps act through.
    :raises PrivilegeError: this is not root.
    """

    def take_down(netns: str | None, record: Record, recovery: Recovery) -> None:
        try:
            with closing(open_system(directory)) as system:
                # The firewall first, so that it goes last: nothing is open before all is.
                ours = (PfAnchor(""), PfEnable(), ScutilDns(""))
                steps = (*ours, *(step.recorded() for step in record.steps))
                recovery.left += undo_remaining(system, look(system), steps, recovery)
        except ZksError as error:
            recovery.left.append(str(error))

    return recover_journals(directory, namespace_id(None), take_down)


def remains(
    directory: Path = STATE_DIR, *, open_system: Callable[[Path], _RecoverSystem] = MacosHostSystem
) -> Remains | None:
    """Return what an instance that died has left; None: nothing, or it runs.

    :raises PrivilegeError: this process may not see whether it runs.
    """

    def is_closed() -> bool:
        with closing(open_system(directory)) as system:
            state = look(system)
        return state.pf_loaded and state.pf_enabled

    return remains_here(directory, is_closed)
