"""Put a plan into force on Linux, and take it back: :func:`observe`, :func:`applied`.

::

    state = await observe(config.netns)
    plan = make_plan(config, state)
    async with applied(plan) as host:
        ...  # host.device is the TUN; sockets of the tunnel are marked with plan.mark

All of it happens in one thread that lives in the captured namespace.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import trio
from pyroute2 import IPRoute

from zks_lwip.device import TunDevice
from zks_lwip.device._netns import NamespaceThread, namespace_cookie, namespace_id
from zks_lwip.errors import DeviceError, HostError, ZksError
from zks_lwip.host import journal as journals
from zks_lwip.host._apply import Applier, count_refused
from zks_lwip.host._find_marks import find_marks
from zks_lwip.host._observe import look
from zks_lwip.host._resolver import Hand, is_resolver
from zks_lwip.host.config import STATE_DIR, HostConfig, KillSwitch
from zks_lwip.host.plan import Plan, make_plan, missing, with_state
from zks_lwip.host.state import HostState
from zks_lwip.host.steps import Nftables, Resolvconf, Route, Rule, Step, Sysctl

__all__ = ["Host", "applied", "make_plan", "observe"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def observe(netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
    """Look at a network namespace (a name of ``ip netns``, a path, or None for our own).

    :raises ConfigError: there is no such namespace.
    :raises PrivilegeError: it may not be entered.
    """
    thread = NamespaceThread(netns)
    try:
        return await thread.run(_observe, netns, namespace_id(None), state_dir)
    finally:
        thread.close()


def _observe(netns: str | None, own_inode: int, state_dir: Path) -> HostState:
    leftover, known = None, False
    path = journals.journal_path(state_dir, namespace_id(None))
    with contextlib.suppress(FileNotFoundError, PermissionError):
        # (Not root: then nothing can be changed, and the first step will say so.)
        text = path.read_text(encoding="utf-8", errors="replace")
        record = journals.parse(text)
        same = record.boot == journals.boot_id() and record.is_of(namespace_cookie())
        if record.version and same:
            leftover = record.leftover()
        known = bool(text) and record.may_know_table and (same or not record.version)
    with IPRoute() as ip:
        state = look(ip, netns, own_inode, leftover, table_known=known)
    uses, unseen = find_marks(state.nft)
    return replace(state, mark_uses=(*state.mark_uses, *uses), unseen=unseen)


OnStep = Callable[[int, Step], None]


@contextlib.asynccontextmanager
async def applied(
    plan: Plan, *, hold: bool = False, on_step: OnStep | None = None
) -> AsyncIterator[Host]:
    """Do all steps of a plan, and undo them at the end, in reverse; also after a failure half-way.

    Where :attr:`Host.hold` is set when the block is left, the host stays closed, as after SIGKILL.
    What an instance that died has left is taken over, without opening anything in between; if
    *that* fails, the host stays as closed as it was. With ``hold`` it is closed whatever fails,
    also where there can be no journal, and :attr:`Host.hold` is set from the start. ``on_step`` is
    called, in the namespace's thread, with the number of a step and the step, when it is in the
    journal and not yet done.

    :raises HostError: a step failed, or another instance runs in this namespace.
    :raises PrivilegeError: for want of a privilege.
    """
    host = Host(plan, on_step)
    host.hold = hold
    keep = hold and plan.config.kill_switch is not KillSwitch.OFF
    try:
        await host.start()
    except Exception as error:  # one of the kernel's or of ours, too: closed is closed
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


class Host:
    """A network namespace that has been set up; made by :func:`applied`."""

    def __init__(self, plan: Plan, on_step: OnStep | None = None) -> None:
        self.plan = plan
        """What is in force."""
        self.paused = False
        self.hold = False
        """However the block ends, leave the host closed: set it once the tunnel was up, so that a
        failure does not open it, and clear it when told to stop."""
        self._on_step = on_step or (lambda number, step: None)
        self._thread = NamespaceThread(plan.config.netns)
        self._lock = trio.Lock()
        self._journal: journals.Journal | None = None
        self._unwritten = False
        self._ip: IPRoute | None = None
        self._applier: Applier | None = None
        self._done: list[Step] = []

    @property
    def device(self) -> TunDevice:
        """The TUN; closed at the end of :func:`applied`."""
        device = self._working.device
        if device is None:
            raise HostError(f"the interface {self.plan.config.tun} has gone")
        return device

    @property
    def _working(self) -> Applier:
        if self._applier is None:
            raise HostError("the host is not set up")
        return self._applier

    async def start(self) -> None:
        """Do the plan; for :func:`applied`."""
        await self._thread.run(self._open)
        for number, step in enumerate(self.plan.steps):
            # One job each: a cancellation is seen between two.
            await self._thread.run(self._do, number, step)
            await trio.lowlevel.checkpoint()
        for step in self.plan.stale:
            await self._thread.run(self._undo, step)

    async def close_only(self, error: Exception) -> list[str]:
        """After a failed start: do what closes and is found again without a journal; what failed.

        The TUN, sysctls and the resolver stay as they are, and everything does where another
        instance holds the journal. For :func:`applied`.
        """
        problems: list[str] = []
        if self._journal is None and not isinstance(error, journals.JournalError):
            return problems
        for number, step in enumerate(self.plan.steps):
            try:
                if _closes(step):
                    await self._thread.run(self._do, number, step)
            except ZksError as other:
                if str(other) != str(error):
                    problems.append(str(other))
        return problems

    async def stop(self, *, keep: bool = False) -> None:
        """Undo everything, or (``keep``) leave it for whoever comes next; not interrupted.

        What is left stays closed until ``recover`` or the next instance.

        :raises HostError: something could not be undone; the journal keeps it for ``recover``.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._thread.run(self._close, keep)
            finally:
                self._thread.close()

    async def update(self, config: HostConfig) -> None:
        """Change to another configuration with nothing open in between; the TUN stays as it is.

        :raises HostError: see :func:`make_plan` and :func:`applied`.
        """
        async with self._lock:
            await self._thread.run(self._change, make_plan(config, self.plan.state, keep=self.plan))

    async def reassert(self) -> HostState:
        """Look again; bring back what somebody has removed, follow the subnets that are connected.

        :raises DeviceError: the TUN itself has gone.
        """
        async with self._lock:
            return await self._thread.run(self._reassert)

    async def pause(self) -> None:
        """Open the host: its own routes and resolvers and no firewall, until :meth:`resume`."""
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
                    if not is_resolver(step):
                        raise
                    _log.error("%s", error)
            self.paused = False

    async def delegate(self) -> None:
        """Leave the resolver to a helper, as we are about to become another user."""
        steps = [step for step in self.plan.steps if is_resolver(step)]
        if steps:
            self._working.hand = await self._thread.run(Hand, steps)

    async def refused(self) -> int | None:
        """Packets that the firewall has refused since it was loaded; None without one."""
        if self.paused or not any(isinstance(step, Nftables) for step in self.plan.steps):
            return None
        return await self._thread.run(count_refused)

    def _pausing(self) -> list[Step]:
        kinds = (Nftables, Rule)
        return [s for s in self.plan.steps if isinstance(s, kinds) or is_resolver(s)]

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call something in the captured namespace's thread."""
        return await self._thread.run(function, *args)

    def _open(self) -> None:
        inode = namespace_id(None)
        self._ip = IPRoute()
        self._applier = Applier(self._ip)
        self._journal = journals.Journal(self.plan.config.state_dir, inode, namespace_cookie())
        try:
            self._journal.begin(self.plan.config.netns, self.plan.config.tun)
        except journals.JournalError:
            self._journal.close()
            self._journal = None
            raise

    def _do(self, number: int, step: Step) -> None:
        known = not self._write_down(step)
        for command in step.commands():
            _log.info("[#] %s", command)
        self._on_step(number, step)
        try:
            self._working.do(step)
        except ZksError:
            if isinstance(step, Nftables) and not known:
                self._done.remove(Nftables(""))  # all or nothing: there is nothing to undo
            raise

    def _write_down(self, step: Step) -> bool:
        """Have the step undone at the end; whether it was not to be already."""
        if isinstance(step, Nftables):
            step = Nftables("")  # its name is enough to undo it
        if step in self._done:
            return False
        try:
            if self._journal is not None:  # without one, only what closes is done
                self._journal.append(step)
        except journals.JournalError as error:
            if isinstance(step, (Sysctl, Resolvconf)):
                raise
            # What bears our name, or vanishes with the TUN, is found without a journal.
            if not self._unwritten:
                self._unwritten = True
                _log.error("%s; `recover` will look for what is not in it", error)
        self._done.append(step)
        return True

    def _undo(self, step: Step, stays: bool = False) -> None:
        if stays or not step.vanishes:
            for command in step.undo_commands():
                _log.info("[#] %s", command)
        self._working.undo(step, stays=stays)

    def _change(self, plan: Plan) -> None:
        old, self.plan = self.plan, plan
        if self.paused:
            return
        try:
            self._replace(old.steps, plan.steps)
        except ZksError:
            self.plan = old  # so that another look at the host tries again
            raise

    def _replace(self, before: tuple[Step, ...], wanted: tuple[Step, ...]) -> None:
        after = set(wanted)
        for number, step in enumerate(wanted):
            if step not in before:
                self._do(number, step)
        for step in reversed(before):
            # A firewall is replaced by the next one; only its absence has to be made.
            replaced = isinstance(step, Nftables) and any(isinstance(s, Nftables) for s in after)
            if step not in after and not replaced:
                self._undo(step)

    def _reassert(self) -> HostState:
        assert self._ip is not None
        first, loaded = self.plan.state, self._working.loaded
        state = look(self._ip, first.netns, first.own_inode, None, loaded=loaded)
        if self.paused:
            return state
        tun = self.plan.config.tun
        gone = DeviceError(f"somebody has removed the interface {tun}")
        if state.link(tun) is None:
            raise gone
        wanted = with_state(self.plan, state)
        self._change(wanted)
        for step in missing(wanted, state):
            _log.warning("somebody has undone `%s`: done again", step.commands()[0].split("\n")[0])
            try:
                self._working.do(step)
            except HostError as error:
                if tun in (name for _, name in socket.if_nameindex()):
                    raise
                raise gone from error  # just now
        return state

    def _close(self, keep: bool) -> None:
        journal, applier = self._journal, self._applier
        problems: list[str] = []
        if journal is not None and applier is not None and not keep:
            record = journal.record
            old = () if record is None else record.steps
            problems = undo_all([*old, *self._done], self._undo)
        if applier is not None and applier.device is not None:
            applier.device.close()
        if applier is not None and applier.hand is not None:
            applier.hand.close()
        if self._ip is not None:
            self._ip.close()
            self._ip = None
        if keep and (journal is not None or self._done):
            _log.error("the host stays closed; `zks-lwip recover` opens it")
        if journal is None:
            return
        if keep or problems:
            journal.close()
        else:
            journal.finish()
        self._journal = None
        if problems:
            raise HostError(
                "not everything could be undone, `zks-lwip recover` tries again: "
                + "; ".join(problems)
            )


def _closes(step: Step) -> bool:
    return isinstance(step, (Nftables, Rule)) or (isinstance(step, Route) and not step.device)


def undo_all(steps: list[Step], undo: Callable[[Step], None]) -> list[str]:
    """Undo steps in reverse, each once, whatever fails; what failed."""
    problems = []
    for step in dict.fromkeys(reversed(steps)):
        try:
            undo(step)
        except ZksError as error:
            problems.append(str(error))
    return problems
