"""Windows, as :class:`zks_lwip.host.platform.Platform` describes a system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import PrivilegeError
from ...net.netns import namespace_id
from ...net.uplinks import uplink
from ..plan.config import STATE_DIR, HostConfig
from ..reports import NextHop

if TYPE_CHECKING:
    from ..base import BaseHost
    from ..plan.plan import Plan
    from ..plan.state import HostState
    from ..reports import Recovery, Remains, RunningInstance
    from .iphelper import IpHelper
    from .system import WindowsHostSystem


def check_privileges(command: str = "connect") -> None:
    if not ctypes.CDLL("shell32.dll").IsUserAnAdmin():
        raise PrivilegeError(
            f"{command} needs an administrator, to change routes and filters: start it from an "
            "elevated prompt."
        )


@cache
def _helper() -> IpHelper:
    from .iphelper import IpHelper

    return IpHelper(ctypes.CDLL("iphlpapi.dll"))


def _open_system() -> WindowsHostSystem:
    from .resolvers import WindowsResolvers
    from .system import WindowsHostSystem, program_path
    from .wfp import Engine

    library = ctypes.CDLL("fwpuclnt.dll")
    return WindowsHostSystem(_helper(), lambda: Engine(library), WindowsResolvers(), program_path())


async def observe(netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
    from contextlib import closing
    from dataclasses import replace

    import trio

    from ..journal import read_leftover

    namespace_id(netns)  # there are none to be named

    def first() -> HostState:
        leftover = read_leftover(state_dir)
        with closing(_open_system()) as system:
            return replace(system.look(), leftover=leftover)

    return await trio.to_thread.run_sync(first)


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    from ..plan.windows import make

    return make.make_plan(config, state, keep=keep)


def applied(plan: Plan, *, hold: bool = False) -> AbstractAsyncContextManager[BaseHost]:
    from ..base import hold_host
    from .host import WindowsHost

    return hold_host(WindowsHost(plan, hold=hold, open_system=_open_system))


async def watch(host: BaseHost, on_move: Callable[[bool], None]) -> None:
    from ..monitor import watch_news
    from .news import LOOK_SECONDS, news

    with news(_helper()) as found:
        await watch_news(host, [found], on_move, every=LOOK_SECONDS)


async def follow(on_move: Callable[[bool], None]) -> None:
    from ..monitor import follow_news
    from .news import news

    with news(_helper()) as found:
        await follow_news(found, on_move)


def next_hop(address: str, mark: int | None) -> NextHop | None:
    index = uplink(6 if ":" in address else 4) if mark is not None else None
    found = _helper().best_route(address, index or 0)
    return None if found is None else NextHop(found.ifindex, found.gateway, "")


def recover(directory: Path = STATE_DIR) -> Recovery:
    from . import recover

    return recover.recover(directory, open_system=_open_system)


def remains(netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
    from . import recover

    return recover.remains(directory, open_system=_open_system)


def running_instances(
    directory: Path = STATE_DIR, *, besides: str | None = None
) -> list[RunningInstance]:
    return []  # one machine, one network


async def drop_privileges(host: BaseHost, *, user: str | None = None) -> None:
    """Keep them: filters and routes are for administrators alone.

    The plan has refused another user.
    """
