"""macOS, as :class:`zks_lwip.host.platform.Platform` describes a system."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HostError, PrivilegeError
from ...net.netns import namespace_id
from ...net.uplinks import uplink
from ..plan.config import STATE_DIR, HostConfig
from ..programs import run_program
from ..reports import NextHop
from .read import read_next_hop

if TYPE_CHECKING:
    from ..base import BaseHost
    from ..plan.plan import Plan
    from ..plan.state import HostState
    from ..reports import Recovery, Remains, RunningInstance


def check_privileges(command: str = "connect") -> None:
    if os.geteuid() != 0:
        raise PrivilegeError(f"{command} needs root, to change routes and pf: run it with sudo.")


async def observe(netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
    import trio

    from ..journal import read_leftover
    from .observe import look
    from .system import MacosHostSystem

    namespace_id(netns)  # there are none to be named

    def first() -> HostState:
        return look(MacosHostSystem(state_dir), read_leftover(state_dir))

    return await trio.to_thread.run_sync(first)


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    from ..plan.macos import make

    return make.make_plan(config, state, keep=keep)


def applied(plan: Plan, *, hold: bool = False) -> AbstractAsyncContextManager[BaseHost]:
    from ..base import hold_host
    from .host import MacosHost

    return hold_host(MacosHost(plan, hold=hold))


async def watch(host: BaseHost, on_move: Callable[[bool], None]) -> None:
    from ..monitor import watch_news
    from .news import LOOK_SECONDS, open_news

    await watch_news(host, [open_news()], on_move, every=LOOK_SECONDS)


async def follow(on_move: Callable[[bool], None]) -> None:
    from ..monitor import follow_news
    from .news import open_news

    await follow_news(open_news(), on_move)


def next_hop(address: str, mark: int | None) -> NextHop | None:
    version = 6 if ":" in address else 4
    scope = []
    try:
        if mark is not None and (index := uplink(version)) is not None:
            scope = ["-ifscope", socket.if_indextoname(index)]
        family = "-inet6" if version == 6 else "-inet"
        text = run_program(["route", "-n", "get", family, *scope, address])
        gateway, interface = read_next_hop(text)
        return NextHop(socket.if_nametoindex(interface), gateway, "")
    except (HostError, OSError):  # no route, or the interface has just gone
        return None


def recover(directory: Path = STATE_DIR) -> Recovery:
    from . import recover

    return recover.recover(directory)


def remains(netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
    from . import recover

    return recover.remains(directory)


def running_instances(
    directory: Path = STATE_DIR, *, besides: str | None = None
) -> list[RunningInstance]:
    return []  # one machine, one namespace


async def drop_privileges(host: BaseHost, *, user: str | None = None) -> None:
    """Keep them: pf knows the tunnel's sockets by being root's, and pfctl is for root alone.

    The plan has refused another user.
    """
