"""Put a plan into force on Linux, and take it back: :func:`applied`.

::

    state = await observe(config.netns)  # of observe.py
    plan = make_plan(config, state)      # of plan/make.py
    async with applied(plan) as host:
        ...  # host.device is the TUN; sockets of the tunnel are marked with plan.mark

All of it happens in one thread that lives in the captured namespace, see :mod:`..base`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ...errors import HostError
from ..base import BaseHost, OnStep, hold_host
from ..plan import make
from ..plan.plan import Plan
from ..plan.steps import Cgroup, Marking, Nftables
from .cgroup import is_populated, processes
from .resolver_helper import ResolverHelper
from .system import LinuxHostSystem, LinuxSystem
from .table import count_refused

__all__ = ["Host", "applied"]


def applied(
    plan: Plan, *, hold: bool = False, on_step: OnStep | None = None
) -> AbstractAsyncContextManager[Host]:
    """Return a context in which a plan is in force, see :func:`~zks_lwip.host.base.hold_host`.

    :param hold: close the host whatever fails, also where there can be no journal, and set
        :attr:`Host.hold` from the start.
    :param on_step: called, in the namespace's thread, with the number of a step and the step, when
        it is in the journal and not yet done.
    """
    return hold_host(Host(plan, on_step, hold=hold))


class Host(BaseHost):
    """A network namespace that has been set up; made by :func:`applied`.

    :param on_step: called as :func:`applied` says.
    :param hold: :attr:`hold` from the start.
    :param open_system: makes what the steps act through; called in the namespace's thread.
    """

    def __init__(
        self,
        plan: Plan,
        on_step: OnStep | None = None,
        *,
        hold: bool = False,
        open_system: Callable[[], LinuxHostSystem] = LinuxSystem,
    ) -> None:
        self._linux: LinuxHostSystem | None = None

        def open_linux() -> LinuxHostSystem:
            self._linux = open_system()
            return self._linux

        super().__init__(plan, on_step, hold=hold, planner=make, open_system=open_linux)

    async def delegate(self, *, other_user: bool) -> None:
        """Leave what needs root to a helper, as this process gives its privileges away.

        :param other_user: it becomes another user, too, to whom the resolver does not listen.
        """
        steps = [
            step
            for step in self.plan.steps
            if isinstance(step, Cgroup) or (other_user and step.needs_root)
        ]
        if steps:
            self._require_applier().helper = await self._thread.run(ResolverHelper, steps)

    async def refused(self) -> int | None:
        """Return how many packets the firewall has refused since it was loaded.

        :returns: None without a firewall, and in a pause.
        :raises HostError: nft does not show it.
        """
        if self.paused or not any(isinstance(step, Nftables) for step in self.plan.steps):
            return None
        return await self._thread.run(count_refused)

    async def exclude(self, pid: int) -> None:
        """Have a process, and those that it starts, send beside the tunnel.

        :raises HostError: it cannot be, or the plan does not have that.
        """
        async with self._lock:
            for step in self.plan.steps:
                if isinstance(step, Cgroup):
                    await self._thread.run(self._require_linux().add_process, step.path, pid)
                elif isinstance(step, Marking):
                    await self._thread.run(step.renew, self._require_linux())

    def excluded(self) -> list[int]:
        """Return the ids of the processes that send beside the tunnel."""
        groups = (step.path for step in self.plan.steps if isinstance(step, Cgroup))
        return [pid for path in groups for pid in processes(path)]

    async def renew_exclusion(self) -> bool:
        """Renew the lease of what is excluded, if anything is; every few seconds.

        :returns: whether anything is.
        :raises HostError: the firewall does not take it.
        """
        async with self._lock:
            for step in self.plan.steps:
                if isinstance(step, Marking) and is_populated(step.path):
                    await self._thread.run(step.renew, self._require_linux())
                    return True
        return False

    def _require_linux(self) -> LinuxHostSystem:
        if self._linux is None:
            raise HostError("the host is not set up")
        return self._linux
