"""One program whose only way to the network is a VPN; needs no privilege."""

from __future__ import annotations

import io
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from .._util import open_file, single_error
from ..config import StaticName, VpnConfig, parse_static_name
from ..errors import ConfigError, WorkerUnreachable
from ..host.plan.addresses import TUN_IPV4, TUN_IPV6
from ..host.published.ports import PublishedPort
from ..host.published.publisher import Publisher
from ..host.rootless.sockets import NamespaceSockets
from ..host.rootless.spawn import Rootless, spawn
from ..metrics import Metered
from ..net.descriptors import raise_descriptor_limit
from .open import open_vpn
from .vpn import Vpn
from .worker_process import WorkerProcess

__all__ = ["run_command", "up_within"]

T = TypeVar("T")

_HOSTS = Path("/etc/hosts")


def run_command(
    config: VpnConfig,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    publish: Sequence[PublishedPort] = (),
    metrics: socket.socket | None = None,
    patience: float | None = None,
    on_ready: Callable[[Vpn, Sequence[PublishedPort]], None],
    on_end: Callable[[dict[str, Any]], None],
    begun: WorkerProcess | None = None,
) -> int:
    """Run a command in user, mount and network namespaces of its own, behind a TUN.

    To be called before trio runs and before there is a thread: a process with threads cannot make a
    user namespace.

    :param command: the program and its arguments.
    :param env: its environment.
    :param publish: ports of the command on this host.
    :param metrics: listens for those who ask for metrics.
    :param patience: seconds within which the VPN has to be up; None: any time.
    :param on_ready: called when the VPN is up, before the command starts, with what is published
        and the ports that it really has.
    :param on_end: called with the counters when the command has ended; with ``published`` where
        ports are.
    :param begun: as of :func:`~.open.open_vpn`; none of the command's processes has its pipes.
    :returns: the exit code of the command.
    :raises WorkerUnreachable: ``patience`` has run out.
    :raises ZksError: a namespace, a port or the VPN could not be had, or the command not be
        executed.
    """
    names = own_names({item.name for item in config.dns_static})
    config = replace(config, dns_static=(*config.dns_static, *names))
    with ExitStack() as stack:
        # First of all: a port that is taken is an error before anything has begun.
        publisher = stack.enter_context(Publisher(publish)) if publish else None
        device = config.device
        child = stack.enter_context(spawn(name=device.tun, mtu=device.mtu, vnet_hdr=True))
        published = None
        if publisher is not None:
            published = (publisher, stack.enter_context(NamespaceSockets(child)))
        raise_descriptor_limit()  # ours: the process of the command keeps the caller's
        run = partial(
            _run, config, child, published, command, env, patience, on_ready, on_end, begun
        )
        if metrics is None:
            return trio.run(run, lambda vpn: None)
        return trio.run(_run_measured, Metered(metrics), run)


async def _run_measured(
    metered: Metered, run: Callable[[Callable[[Vpn], None]], Awaitable[int]]
) -> int:
    """Run, with the metrics' server beside it."""
    with single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(metered.run)
            code = await run(metered.measure)
            nursery.cancel_scope.cancel()
    return code


async def _run(
    config: VpnConfig,
    child: Rootless,
    published: tuple[Publisher, NamespaceSockets] | None,
    command: Sequence[str],
    env: Mapping[str, str],
    patience: float | None,
    on_ready: Callable[[Vpn, Sequence[PublishedPort]], None],
    on_end: Callable[[dict[str, Any]], None],
    begun: WorkerProcess | None,
    measure: Callable[[Vpn], None],
) -> int:
    async with up_within(patience, open_vpn(config, device=child.device, begun=begun)) as vpn:
        measure(vpn)
        async with AsyncExitStack() as stack:
            ports: Sequence[PublishedPort] = ()
            if published is not None:
                publisher, sockets = published
                publisher.listen()
                ports = publisher.ports
                await stack.enter_async_context(publisher.serving(sockets, ipv6=child.ipv6))
            on_ready(vpn, ports)
            child.start(command, env=env)
            code = await child.wait()
        stats = vpn.counters()
        on_end(stats if published is None else stats | {"published": published[0].stats()})
    return code


@asynccontextmanager
async def up_within(
    patience: float | None, opening: AbstractAsyncContextManager[T]
) -> AsyncIterator[T]:
    """Enter a context, and give up where that takes too long; its block may take any time.

    :param patience: seconds; None: any time.
    :raises WorkerUnreachable: they have run out.
    """
    with trio.move_on_after(math.inf if patience is None else patience) as starting:
        async with opening as opened:
            starting.deadline = math.inf  # it is up
            # ... and, should the time have run out at the same moment, is given up here.
            await trio.lowlevel.checkpoint_if_cancelled()
            yield opened
        return
    raise WorkerUnreachable(
        f"the worker was not reached within {patience:g} s: `zks-lwip doctor` looks why"
    )


def own_names(known: set[str], *, hosts: Path = _HOSTS) -> list[StaticName]:
    """Return this machine's name with the TUN's addresses, lest it be asked of a resolver outside.

    For systems without nss-myhostname(8), as which it answers. A name with a dot may be one of the
    public DNS, and is left to it.

    :param known: names that are answered anyhow, as those in the file ``hosts`` are.
    """
    name = socket.gethostname().lower()
    if "." in name or name in known or _names(hosts, name):
        return []
    try:
        return [parse_static_name(f"{name}={tun.ip}") for tun in (TUN_IPV4, TUN_IPV6)]
    except ConfigError:
        return []  # no name of DNS: it cannot be asked for


def _names(hosts: Path, name: str) -> bool:
    """Return whether a hosts file, which may be a long block list, has that name."""
    try:
        with io.TextIOWrapper(open_file(hosts), "utf-8", "replace") as file:
            return any(name in line.partition("#")[0].lower().split()[1:] for line in file)
    except OSError:
        return False  # what the resolver library makes of it, too
