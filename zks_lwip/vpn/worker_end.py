"""The worker's end as the client sees it: one elsewhere, or the embedded one, which is started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from ..config import VpnConfig, WorkerEndpoint, parse_worker_url
from ..tunnel import TunnelConfig
from .embedded_worker import LoadingWorker, load_embedded_worker

__all__ = ["LoadingEnd", "TunnelSockets", "WorkerEnd", "load_worker_end", "open_worker_end"]

_PRIVATE = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
)
"""What the embedded worker may reach besides the public internet: this machine's own networks,
which it is in anyway. Loopback only by its alias in the tunnel."""


class TunnelSockets(Protocol):
    """What the tunnel's sockets need where the host, or something else, is captured."""

    @property
    def mark(self) -> int | None:
        """SO_MARK; None: they need none."""
        ...

    @property
    def resolve(self) -> Callable[[str], Awaitable[Sequence[str]]] | None:
        """What finds the addresses of worker and proxy; None: the system's resolver."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """Where the worker is, or the workers are, how they are reached, and what watches it."""

    tunnel: TunnelConfig
    watch: Callable[[], Awaitable[None]]
    """Must be running; raises TunnelError when an embedded worker has ended."""


class LoadingEnd:
    """A worker's end before it is known what the tunnel's sockets need.

    :param embedded: the worker that is started; None: ``config`` names one.
    """

    def __init__(self, embedded: LoadingWorker | None) -> None:
        self._embedded = embedded

    async def ready(self, config: VpnConfig, local: TunnelSockets) -> WorkerEnd:
        """Return it for a tunnel.

        :raises WorkerUnreachable: the embedded worker does not start.
        """
        max_memory = config.half_memory
        if self._embedded is None:
            return WorkerEnd(
                replace(
                    config.tunnel(), mark=local.mark, resolve=local.resolve, max_memory=max_memory
                ),
                trio.sleep_forever,
            )
        worker = await self._embedded.listen(local.mark)
        here = WorkerEndpoint(url=parse_worker_url(worker.url), token=worker.token)
        # Its end is an error of the tunnel's, which keeps the host closed.
        return WorkerEnd(replace(config.tunnel(here), max_memory=max_memory), worker.watch)


@asynccontextmanager
async def load_worker_end(
    config: VpnConfig, *, for_others: bool = False
) -> AsyncIterator[LoadingEnd]:
    """Yield the worker that ``config`` names; without one, begin to start it as a child process.

    :param for_others: other machines use the tunnel, too: the embedded worker is no way past this
        machine's firewall for them, and refuses its addresses.
    :raises WorkerUnreachable: the embedded worker cannot be started.
    """
    if not config.embedded:
        yield LoadingEnd(None)
        return
    async with load_embedded_worker(arguments=_embedded_arguments(config, for_others)) as loading:
        yield LoadingEnd(loading)


@asynccontextmanager
async def open_worker_end(
    config: VpnConfig, local: TunnelSockets, *, for_others: bool = False
) -> AsyncIterator[WorkerEnd]:
    """Yield the worker that ``config`` names; without one, start it as a child process.

    :param for_others: as of :func:`load_worker_end`.
    :raises WorkerUnreachable: the embedded worker does not start.
    """
    async with load_worker_end(config, for_others=for_others) as loading:
        yield await loading.ready(config, local)


def _embedded_arguments(config: VpnConfig, for_others: bool) -> list[str]:
    networks = _PRIVATE if config.loopback_alias is None else (*_PRIVATE, "127.0.0.1/32")
    arguments = [argument for network in networks for argument in ("--allow", network)]
    if not for_others:
        # It acts for programs of this machine, which reach its addresses without it as well (or,
        # from another namespace, its loopback by `host_loopback`).
        arguments.append("--allow-own")
    if config.user is not None:
        arguments += ["--user", config.user]
    return arguments
