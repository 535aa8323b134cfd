"""A machine with Windows that is set up, see :mod:`zks_lwip.host.base`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..base import BaseHost, HostSystem, OnStep
from ..plan.plan import Plan
from ..plan.windows import make
from ..plan.windows.system import WindowsSystem

__all__ = ["OpenWindows", "WindowsHost"]


class _Acting(HostSystem, WindowsSystem, Protocol):
    """What a machine that is set up acts through."""


OpenWindows = Callable[[], _Acting]


class WindowsHost(BaseHost):
    """A machine that has been set up; held by :func:`~zks_lwip.host.base.hold_host`.

    :param on_step: called with the number of a step and the step, before it is done.
    :param hold: as of :class:`~zks_lwip.host.base.BaseHost`.
    :param open_system: makes what the steps act through; called in the host's thread.
    """

    def __init__(
        self,
        plan: Plan,
        on_step: OnStep | None = None,
        *,
        hold: bool = False,
        open_system: OpenWindows,
    ) -> None:
        def open_windows() -> _Acting:
            system = open_system()
            # Before the first socket: it sets where the tunnel's sockets leave.
            system.observe(None, 0)
            return system

        super().__init__(plan, on_step, hold=hold, planner=make, open_system=open_windows)
