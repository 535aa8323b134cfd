"""The system that this is: what ``vpn``, ``daemon`` and the command line ask of it.

Each system has a package below :mod:`zks_lwip.host` with a module ``platform`` that fulfils
:class:`Platform`; :func:`current` returns it. How a system is added stands in the docstring of
:mod:`zks_lwip.host`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import HostError
from .plan.config import STATE_DIR

if TYPE_CHECKING:
    from .base import BaseHost
    from .linux import platform as _linux
    from .macos import platform as _macos
    from .plan.config import HostConfig
    from .plan.plan import Plan
    from .plan.state import HostState
    from .reports import NextHop, Recovery, Remains, RunningInstance
    from .windows import platform as _windows

__all__ = ["Platform", "current", "is_supported"]

_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
"""The package of each system, by ``sys.platform``."""


class Platform(Protocol):
    """One system's part of capturing a host."""

    def check_privileges(self, command: str = "connect") -> None:
        """Check that this process may change the network.

        :param command: the subcommand to name in the error.
        :raises PrivilegeError: it may not.
        """
        ...

    async def observe(self, netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
        """Look at the host, and at the journal about it; nothing is changed.

        :param netns: a network namespace, on Linux; None: that of this thread.
        :raises ConfigError: there is no such namespace.
        :raises PrivilegeError: it may not be entered.
        :raises HostError: it cannot be looked at.
        """
        ...

    def make_plan(self, config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
        """Return what is to be changed on a host that looks like this; pure.

        :param keep: the plan that is in force, when this one is to take its place.
        :raises ConfigError: this system, or this host, cannot do what is asked for.
        :raises HostError: another program uses what would be ours, or something is missing.
        :raises DeviceError: the interface is taken.
        """
        ...

    def applied(self, plan: Plan, *, hold: bool = False) -> AbstractAsyncContextManager[BaseHost]:
        """Return a context in which the plan is in force, see :func:`.base.hold_host`.

        :param hold: close the host whatever fails.
        """
        ...

    async def watch(self, host: BaseHost, on_move: Callable[[bool], None]) -> None:
        """Keep a host as planned, until cancelled, see :func:`.monitor.watch_news`.

        :raises DeviceError: another program has removed the TUN.
        """
        ...

    async def follow(self, on_move: Callable[[bool], None]) -> None:
        """Tell of changes on a host that is not set up, until cancelled.

        :raises OSError: that cannot be followed.
        """
        ...

    def next_hop(self, address: str, mark: int | None) -> NextHop | None:
        """Return the next hop of a socket of ours with that mark, or without; blocks.

        :returns: None if there is no route, or if it cannot be looked up now.
        """
        ...

    def recover(self, directory: Path = STATE_DIR) -> Recovery:
        """Undo what instances that died have left; blocks.

        :param directory: where journals are.
        :raises PrivilegeError: this process may not.
        """
        ...

    def remains(self, netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
        """Return what an instance that died has left; None: nothing, or it runs.

        :raises PrivilegeError: this process may not even see that.
        """
        ...

    def running_instances(
        self, directory: Path = STATE_DIR, *, besides: str | None = None
    ) -> list[RunningInstance]:
        """Return the instances that run in other namespaces."""
        ...

    async def drop_privileges(self, host: BaseHost, *, user: str | None = None) -> None:
        """Give away what is not needed any more once the host is set up.

        :param user: name of the user to become; None: stay who this is.
        :raises ConfigError: there is no such user, or it cannot be done on this system.
        :raises PrivilegeError, HostError: it cannot be done.
        """
        ...


if TYPE_CHECKING:
    _CHECKED: tuple[Platform, ...] = (_linux, _macos, _windows)


def is_supported() -> bool:
    """Return whether hosts of this system can be captured."""
    return sys.platform in _SYSTEMS


def current() -> Platform:
    """Return what captures hosts of this system.

    :raises HostError: nothing does.
    """
    if not is_supported():
        raise HostError(f"hosts of {sys.platform} cannot be captured; use the proxy")
    return cast(Platform, import_module(f".{_SYSTEMS[sys.platform]}.platform", __package__))
