"""Take down what instances that died have left on Windows, from the journal and by name.

After a start of the machine the journal does not count, and persistent filters are still there:
they are known by our provider.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from ...errors import ZksError
from ...net.netns import namespace_id
from ..journal import Record
from ..plan.config import STATE_DIR
from ..plan.windows.state import WindowsState
from ..plan.windows.steps import WfpFilters
from ..plan.windows.system import WindowsSystem
from ..recover import recover_journals, remains_here, undo_remaining
from ..reports import Recovery, Remains

__all__ = ["RecoverSystem", "recover", "remains"]


class RecoverSystem(WindowsSystem, Protocol):
    """What this needs of a machine."""

    def look(self) -> WindowsState:
        """Return its state."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def recover(directory: Path = STATE_DIR, *, open_system: Callable[[], RecoverSystem]) -> Recovery:
    """Undo the journal of an instance that does not run any more, and our filters; blocks.

    :param directory: where the journal is.
    :param open_system: makes what the steps act through.
    :raises PrivilegeError: this is not an administrator.
    """

    def take_down(netns: str | None, record: Record, recovery: Recovery) -> None:
        try:
            with closing(open_system()) as system:
                # The filters first, so that they go last: nothing is open before all is.
                steps = (WfpFilters("", False), *(step.recorded() for step in record.steps))
                recovery.left += undo_remaining(system, system.look(), steps, recovery)
        except ZksError as error:
            recovery.left.append(str(error))

    return recover_journals(directory, namespace_id(None), take_down)


def remains(
    directory: Path = STATE_DIR, *, open_system: Callable[[], RecoverSystem]
) -> Remains | None:
    """Return what an instance that died has left; None: nothing, or it runs.

    :raises PrivilegeError: this process may not see whether it runs.
    """

    def is_closed() -> bool:
        with closing(open_system()) as system:
            return bool(system.look().filters)

    return remains_here(directory, is_closed)
