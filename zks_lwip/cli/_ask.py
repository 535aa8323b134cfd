"""Asking the running instance, for the commands that need one."""

from __future__ import annotations

from typing import Any

__all__ = ["ask_running"]


def ask_running(netns: str | None, command: str, **values: Any) -> Any:
    """What the instance that captures ``netns`` (None: this namespace) answers to ``command``.

    Raises :class:`~zks_lwip.control.NotRunning` also for one that has died, with what it has left;
    and what :func:`zks_lwip.control.ask` raises.
    """
    from ..control import NotRunning, ask, control_path
    from ..host.config import STATE_DIR
    from ..host.recover import remains

    try:
        return ask(control_path(STATE_DIR, netns), command, **values)
    except NotRunning as error:
        left = remains(netns)
        if left is None:
            raise
        if not left.closed:
            raise NotRunning(
                f"the machine is OPEN: process {left.pid}, which captured it, has died in a pause, "
                "or without a kill switch. Start `connect` again to close it, or take away the "
                "rest of what it had set up with `zks-lwip recover`."
            ) from error
        who = f"process {left.pid}, which captured it, has died"
        if left.pid is None:
            who = "an instance that could not write its journal has closed it, and ended"
        raise NotRunning(
            f"the machine is closed: {who}. Start `connect` again, or open it with "
            "`zks-lwip recover`."
        ) from error
