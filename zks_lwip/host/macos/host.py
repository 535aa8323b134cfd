"""A Mac that is set up, see :mod:`zks_lwip.host.base`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..base import BaseHost, HostSystem, OnStep
from ..plan.macos import make
from ..plan.macos.pf import ANCHOR
from ..plan.macos.steps import PfAnchor, ask_anchor
from ..plan.macos.system import MacosSystem
from ..plan.plan import Plan
from .read import read_refused
from .system import MacosHostSystem

__all__ = ["MacosHost", "OpenMacos"]


class _System(HostSystem, MacosSystem, Protocol):
    """What a Mac that is set up acts through."""


OpenMacos = Callable[[], _System]


class MacosHost(BaseHost):
    """A Mac that has been set up; held by :func:`~zks_lwip.host.base.hold_host`.

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
        open_system: OpenMacos | None = None,
    ) -> None:
        self._macos: _System | None = None

        def open_macos() -> _System:
            if open_system is None:
                self._macos = MacosHostSystem(plan.config.state_dir)
            else:
                self._macos = open_system()
            # Before the first socket: it sets where the tunnel's sockets leave.
            self._macos.observe(None, 0)
            return self._macos

        super().__init__(plan, on_step, hold=hold, planner=make, open_system=open_macos)

    async def refused(self) -> int | None:
        if self.paused or not any(isinstance(step, PfAnchor) for step in self.plan.steps):
            return None
        assert self._macos is not None
        arguments = ("-a", ANCHOR, "-v", "-s", "rules")
        return read_refused(await self.run(ask_anchor, self._macos, *arguments))
