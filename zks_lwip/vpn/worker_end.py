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
from .worker_process import WorkerProcess, worker_arguments

__all__ = ["LoadingEnd", "TunnelSockets", "WorkerEnd", "load_worker_end", "open_worker_end"]


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
    config: VpnConfig, *, begun: WorkerProcess | None = None, for_others: bool = False
) -> AsyncIterator[LoadingEnd]:
    """Yield the worker that ``config`` names; without one, begin to start it as a child process.

    :param begun: that child process, if it has been begun.
    :param for_others: as of :func:`~.worker_process.worker_arguments`.
    :raises WorkerUnreachable: the embedded worker cannot be started.
    """
    if not config.embedded:
        yield LoadingEnd(None)
        return
    arguments = worker_arguments(
        loopback=config.loopback_alias is not None, user=config.user, for_others=for_others
    )
    async with load_embedded_worker(begun=begun, arguments=arguments) as loading:
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
