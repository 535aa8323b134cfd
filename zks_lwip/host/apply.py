"""Do and undo steps, and say what failed; runs in the host's thread."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import HostError, PrivilegeError, ZksError
from ..net.windows import WindowsCallError
from .plan.step import Step

__all__ = ["Applier", "StepHelper", "undo_all"]

_PRIVILEGES = {
    "linux": "`connect` needs root or CAP_NET_ADMIN, `run -- COMMAND` needs neither",
    "darwin": "`connect` needs root: run it with sudo",
    "win32": "`connect` needs an administrator: start it from an elevated prompt",
}
"""What to do for want of a privilege, by system."""


class StepHelper(Protocol):
    """Another process, which does the steps that this one may not do any more."""

    def __contains__(self, step: Step) -> bool: ...
    def do(self, step: Step) -> None: ...
    def undo(self, step: Step) -> None: ...
    def close(self) -> None: ...


class Applier:
    """Does and undoes steps through a system, in that system's thread.

    :param system: what the steps of this system act through.
    """

    def __init__(self, system: Any) -> None:
        self._system = system
        self.helper: StepHelper | None = None
        """Does steps that this process may not."""

    def do(self, step: Step) -> None:
        """Do a step; harmless where it is done already.

        :raises HostError: it cannot be done; says what and why.
        :raises PrivilegeError: for want of a privilege.
        """
        helper = self._helper_for(step)
        if helper is None:
            _explained(step.commands(), lambda: step.do(self._system))
        else:
            _explained(step.commands(), lambda: helper.do(step))

    def undo(self, step: Step, *, stays: bool = False) -> None:
        """Take a step back; harmless where it has gone already.

        :param stays: the TUN stays, so that what else vanishes with it is undone, too.
        :raises HostError, PrivilegeError: as :meth:`do`.
        """
        if step.vanishes and not stays:
            return
        helper = self._helper_for(step)
        if helper is None:
            _explained(step.undo_commands(), lambda: step.undo(self._system))
        else:
            _explained(step.undo_commands(), lambda: helper.undo(step))

    def _helper_for(self, step: Step) -> StepHelper | None:
        return self.helper if self.helper is not None and step in self.helper else None


def undo_all(steps: list[Step], undo: Callable[[Step], None]) -> list[str]:
    """Undo steps in reverse, each once, whatever fails.

    :returns: what failed.
    """
    problems = []
    for step in dict.fromkeys(reversed(steps)):
        try:
            undo(step)
        except ZksError as error:
            problems.append(str(error))
    return problems


def _explained(commands: Sequence[str], action: Callable[[], None]) -> None:
    """Do something, and name the command that it stands for where it fails."""
    try:
        action()
    except OSError as error:
        said = str(error) if isinstance(error, WindowsCallError) else ""
        raise _explain(commands, error.errno or 0, said) from error
    except subprocess.SubprocessError as error:
        raise HostError(f"{_shown(commands)}: {error}") from error


def _shown(commands: Sequence[str]) -> str:
    return commands[0].split("\n")[0] if commands else "this step"


def _explain(commands: Sequence[str], code: int, said: str) -> HostError | PrivilegeError:
    message = f"`{_shown(commands)}` failed: {said or os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return PrivilegeError(f"{message}; {_PRIVILEGES.get(sys.platform, 'it needs more rights')}")
    if code == errno.EOPNOTSUPP and sys.platform == "linux":
        return HostError(f"{message}; the kernel lacks CONFIG_IP_MULTIPLE_TABLES, perhaps")
    return HostError(message)
