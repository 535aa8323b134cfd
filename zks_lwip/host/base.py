"""A plan in force: done, kept and taken back, the same way on every system.

All of it happens in one thread, on Linux in the captured namespace. A step is written into the
journal before it is done. A system's own host is a :class:`BaseHost` with what only it can do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import trio

from ..device import FdDevice, RingDevice
from ..errors import DeviceError, HostError, ZksError
from ..net.netns import NamespaceThread, namespace_cookie, namespace_id
from .apply import Applier
from .done import DoneSteps
from .journal import JournalError
from .plan.config import HostConfig, KillSwitch
from .plan.plan import Plan, missing
from .plan.state import HostState
from .plan.step import Step

__all__ = ["BaseHost", "HostDevice", "HostSystem", "OnStep", "Planner", "hold_host"]

T = TypeVar("T")
H = TypeVar("H", bound="BaseHost")

_log = logging.getLogger(__name__)

OnStep = Callable[[int, Step], None]


class _Tun(Protocol):
    """The TUN of a host that is captured."""

    name: str
    """Of the interface."""

    def close(self) -> None:
        """Close it, with which it vanishes; twice is harmless."""
        ...


class FdTun(_Tun, FdDevice, Protocol):
    """One behind a descriptor."""


class RingTun(_Tun, RingDevice, Protocol):
    """One of Wintun's."""


HostDevice = FdTun | RingTun


class HostSystem(Protocol):
    """What a host needs of its system besides what its steps do."""

    @property
    def device(self) -> HostDevice | None:
        """The TUN, while it is open."""
        ...

    def observe(self, netns: str | None, own_inode: int) -> HostState:
        """Return the state of the host.

        :param netns: of the network namespace that this is; None: the one of this thread.
        :param own_inode: of the namespace that this process's sockets are in.
        """
        ...

    def close(self) -> None:
        """Let go of the TUN, with which it vanishes, and of all else; the rest stays as it is."""
        ...


class Planner(Protocol):
    """What makes a system's plans: a module, such as :mod:`zks_lwip.host.plan.make`."""

    def make_plan(
        self, config: HostConfig, state: HostState, *, keep: Plan | None = None
    ) -> Plan: ...
    def with_state(self, plan: Plan, state: HostState) -> Plan: ...


@contextlib.asynccontextmanager
async def hold_host(host: H) -> AsyncIterator[H]:
    """Do all steps of a host's plan, and undo them at the end, in reverse; also after a failure
    half-way.

    Where :attr:`BaseHost.hold` is set when the block is left, the host stays closed, as after
    SIGKILL. What an instance that died has left is taken over, without opening anything in between;
    if *that* fails, the host stays as closed as it was. Where ``hold`` is set from the start, the
    host is closed whatever fails, also where there can be no journal.

    :raises HostError: a step failed, or another instance runs on this host.
    :raises PrivilegeError: for want of a privilege.
    """
    plan = host.plan
    keep = host.hold and plan.config.kill_switch is not KillSwitch.OFF
    try:
        await host.start()
    except Exception as error:  # of every kind: with ``hold`` none may leave the host open
        problems = await host.close_only(error) if keep else []
        try:
            await host.stop(keep=keep or plan.state.leftover is not None)
        except HostError as second:
            problems.append(str(second))
        if problems:
            raise HostError("; ".join([str(error), *problems])) from error
        raise
    except BaseException:
        await host.stop()
        raise
    try:
        yield host
    finally:
        await host.stop(keep=host.hold and plan.config.kill_switch is not KillSwitch.OFF)


class BaseHost:
    """A host that has been set up; held by :func:`hold_host`.

    :param on_step: called, in the host's thread, with the number of a step and the step, when it is
        in the journal and not yet done.
    :param hold: :attr:`hold` from the start.
    :param planner: makes other plans for it.
    :param open_system: makes what the steps act through; called in the host's thread.
    """

    def __init__(
        self,
        plan: Plan,
        on_step: OnStep | None,
        *,
        hold: bool,
        planner: Planner,
        open_system: Callable[[], HostSystem],
    ) -> None:
        self.plan = plan
        """What is in force."""
        self.paused = False
        """Between :meth:`pause` and :meth:`resume`."""
        self.hold = hold
        """However the block ends, leave the host closed: set it once the tunnel was up, so that a
        failure does not open it, and clear it when told to stop."""
        self._on_step = on_step or (lambda number, step: None)
        self._thread = NamespaceThread(plan.config.netns)
        self._lock = trio.Lock()
        self._done = DoneSteps()
        self._planner = planner
        self._open_system = open_system
        self._system: HostSystem | None = None
        self._applier: Applier | None = None

    @property
    def device(self) -> HostDevice:
        """The TUN; closed at the end of :func:`hold_host`.

        :raises HostError: the host is not set up, or the TUN has gone.
        """
        device = self._require_system().device
        if device is None:
            raise HostError(f"the interface {self.plan.config.tun} has gone")
        return device

    def _require_system(self) -> HostSystem:
        if self._system is None:
            raise HostError("the host is not set up")
        return self._system

    def _require_applier(self) -> Applier:
        if self._applier is None:
            raise HostError("the host is not set up")
        return self._applier

    async def start(self) -> None:
        """Do the plan; for :func:`hold_host`."""
        await self._thread.run(self._open)
        for number, step in enumerate(self.plan.steps):
            # One job each: a cancellation is seen between two.
            await self._thread.run(self._do, number, step)
            await trio.lowlevel.checkpoint()
        for step in self.plan.stale:
            await self._thread.run(self._undo, step)

    async def close_only(self, error: Exception) -> list[str]:
        """Do what closes and is found again without a journal, after a failed start.

        The TUN, sysctls and the resolver stay as they are, and everything does where another
        instance holds the journal. For :func:`hold_host`.

        :param error: why the start has failed.
        :returns: what failed now.
        """
        problems: list[str] = []
        if not self._done.journaled and not isinstance(error, JournalError):
            return problems
        for number, step in enumerate(self.plan.steps):
            try:
                if step.closes:
                    await self._thread.run(self._do, number, step)
            except ZksError as other:
                if str(other) != str(error):
                    problems.append(str(other))
        return problems

    async def stop(self, *, keep: bool = False) -> None:
        """Undo everything; a cancellation does not interrupt it.

        :param keep: leave it closed instead, until ``recover`` or the next instance.
        :raises HostError: something could not be undone; the journal keeps it for ``recover``.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._thread.run(self._close, keep)
            finally:
                self._thread.close()

    async def update(self, config: HostConfig) -> None:
        """Change to another configuration with nothing open in between; the TUN stays as it is.

        In a pause, what that has opened follows at its end.

        :raises HostError: as the system's ``make_plan``, and :func:`hold_host`.
        """
        async with self._lock:
            await self._thread.run(
                self._change, self._planner.make_plan(config, self.plan.state, keep=self.plan)
            )

    async def reassert(self) -> HostState:
        """Look again; bring back what others have removed, follow the subnets that are connected.

        In a pause, so that its end closes the host as it is then.

        :raises DeviceError: the TUN itself has gone.
        """
        async with self._lock:
            return await self._thread.run(self._reassert)

    async def pause(self) -> None:
        """Open the host: its own routes, resolvers and settings and no firewall, until
        :meth:`resume`.
        """
        async with self._lock:
            self.paused = True
            for step in reversed(self._pausing()):
                await self._thread.run(self._undo, step, True)

    async def resume(self) -> None:
        """Close what :meth:`pause` has opened.

        A resolver that does not take it is logged only: its questions are captured anyway.
        """
        async with self._lock:
            for number, step in enumerate(self._pausing()):
                try:
                    await self._thread.run(self._do, number, step)
                except HostError as error:
                    if not step.optional:
                        raise
                    _log.error("%s", error)
            self.paused = False

    async def delegate(self, *, other_user: bool) -> None:
        """Leave what needs root to a helper, as this process gives its privileges away.

        :param other_user: it becomes another user, too, to whom the resolver does not listen.
        """

    async def refused(self) -> int | None:
        """Return how many packets the firewall has refused since it was loaded.

        :returns: None without a firewall, in a pause, and where that is not counted.
        :raises HostError: the firewall does not show it.
        """
        return None

    async def exclude(self, pid: int) -> None:
        """Have a process, and those that it starts, send beside the tunnel.

        :raises HostError: it cannot be, or the plan does not have that.
        """
        raise HostError("this system cannot let single programs send beside the tunnel")

    def excluded(self) -> list[int]:
        """Return the ids of the processes that send beside the tunnel."""
        return []

    async def renew_exclusion(self) -> bool:
        """Renew the lease of what is excluded, if anything is; every few seconds.

        :returns: whether anything is.
        :raises HostError: the firewall does not take it.
        """
        return False

    def _pausing(self) -> list[Step]:
        return [step for step in self.plan.steps if step.paused]

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the host's thread."""
        return await self._thread.run(function, *args)

    def _open(self) -> None:
        inode = namespace_id(None)
        self._system = self._open_system()
        self._applier = Applier(self._system)
        config = self.plan.config
        self._done.open_journal(
            config.state_dir, inode, namespace_cookie(), netns=config.netns, tun=config.tun
        )

    def _do(self, number: int, step: Step) -> None:
        known = not self._done.add(step)
        for command in step.commands():
            _log.info("[#] %s", command)
        self._on_step(number, step)
        try:
            self._require_applier().do(step)
        except ZksError:
            if step.atomic and not known:
                self._done.remove(step)  # there is nothing to undo
            raise

    def _undo(self, step: Step, stays: bool = False) -> None:
        if stays or not step.vanishes:
            for command in step.undo_commands():
                _log.info("[#] %s", command)
        self._require_applier().undo(step, stays=stays)

    def _change(self, plan: Plan) -> None:
        old, self.plan = self.plan, plan
        try:
            self._replace(self._in_force(old), self._in_force(plan))
        except ZksError:
            self.plan = old  # so that another look at the host tries again
            raise

    def _in_force(self, plan: Plan) -> tuple[Step, ...]:
        """Return the steps of a plan that are to be done now: in a pause, those that it leaves."""
        return tuple(step for step in plan.steps if not (self.paused and step.paused))

    def _replace(self, before: tuple[Step, ...], wanted: tuple[Step, ...]) -> None:
        after = set(wanted)
        for number, step in enumerate(wanted):
            if step not in before:
                self._do(number, step)
        for step in reversed(before):
            if step not in after and not any(new.replaces(step) for new in wanted):
                self._undo(step)

    def _reassert(self) -> HostState:
        first = self.plan.state
        state = self._require_system().observe(first.netns, first.own_inode)
        tun = self.plan.config.tun
        gone = DeviceError(f"the interface {tun} was removed by another program")
        if state.link(tun) is None:
            if self.paused:
                return state
            raise gone
        wanted = self._planner.with_state(self.plan, state)
        before = self._in_force(self.plan)
        self._change(wanted)
        in_force = self._in_force(wanted)
        for step in missing(wanted, state):
            if step not in in_force:
                continue
            # (A new one is, too: undoing the old one may have taken it away.)
            if step in before:
                command = step.commands()[0].split("\n")[0]
                _log.warning("another program has undone `%s`: done again", command)
            try:
                self._require_applier().do(step)
            except HostError as error:
                if self._require_system().observe(first.netns, first.own_inode).link(tun):
                    raise
                raise gone from error  # just now
        return state

    def _close(self, keep: bool) -> None:
        applier = self._applier
        problems: list[str] = []
        if applier is not None and not keep:
            problems = self._done.undo_all(self._undo)
        if self._system is not None:
            self._system.close()
        if applier is not None and applier.helper is not None:
            applier.helper.close()
        if keep and self._done.remain:
            _log.error("the host stays closed; `zks-lwip recover` opens it")
        self._done.close_journal(keep=keep or bool(problems))
        if problems:
            raise HostError(
                "not everything could be undone, `zks-lwip recover` tries again: "
                + "; ".join(problems)
            )
