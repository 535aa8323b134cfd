"""Linux, as :class:`zks_lwip.host.platform.Platform` describes a system.

Modules are imported where they are used: a proxy, say, only looks up next hops. What is called late
is imported when it is taken from here: without a descriptor no module can be loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ..._lazy import lazy_names
from ..plan.config import STATE_DIR, HostConfig

if TYPE_CHECKING:
    from ..base import BaseHost
    from ..plan.plan import Plan
    from ..plan.state import HostState
    from ..reports import Recovery, Remains, RunningInstance
    from .route_lookup import next_hop as next_hop
else:
    __getattr__ = lazy_names(__package__, {"route_lookup": "next_hop"})


def check_privileges(command: str = "connect") -> None:
    from . import privileges

    privileges.check_net_admin(command)


async def observe(netns: str | None = None, *, state_dir: Path = STATE_DIR) -> HostState:
    from . import observe

    return await observe.observe(netns, state_dir=state_dir)


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    from ..plan import make

    return make.make_plan(config, state, keep=keep)


def applied(plan: Plan, *, hold: bool = False) -> AbstractAsyncContextManager[BaseHost]:
    # The monitor, too: when it begins, this process may be a user who cannot read Python's files.
    from . import host, monitor  # noqa: F401

    return host.applied(plan, hold=hold)


async def watch(host: BaseHost, on_move: Callable[[bool], None]) -> None:
    from . import monitor

    await monitor.watch(host, on_move)


async def follow(on_move: Callable[[bool], None]) -> None:
    from . import monitor

    await monitor.follow(on_move)


def recover(directory: Path = STATE_DIR) -> Recovery:
    from . import recover

    return recover.recover(directory)


def remains(netns: str | None, directory: Path = STATE_DIR) -> Remains | None:
    from . import instances

    return instances.remains(netns, directory)


def running_instances(
    directory: Path = STATE_DIR, *, besides: str | None = None
) -> list[RunningInstance]:
    from . import instances

    return instances.running_instances(directory, besides=besides)


async def drop_privileges(host: BaseHost, *, user: str | None = None) -> None:
    from . import privileges

    await privileges.drop_privileges(host, user=user)
