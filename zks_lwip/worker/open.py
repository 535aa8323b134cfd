"""A worker inside a trio program, for the length of an ``async with``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from .._util import single_error
from .options import WorkerConfig
from .served import ServedSession, list_sessions
from .server import Worker
from .stats import WorkerStats

__all__ = ["RunningWorker", "open_worker"]


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that listens; made by :func:`open_worker`."""

    worker: Worker
    """The worker itself."""
    address: str
    """Where it listens: an IP address without brackets."""
    port: int
    """The port that it got, where ``config.port`` is 0."""

    @property
    def url(self) -> str:
        """The URL for a client; with TLS, the address stands for a name of the certificate."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        scheme = "ws" if self.worker.config.tls_cert is None else "wss"
        return f"{scheme}://{host}:{self.port}/tunnel"

    def stats(self) -> WorkerStats:
        """Return what it has done and holds, of each token and in all."""
        return self.worker.stats()

    def sessions(self) -> list[ServedSession]:
        """Return what is told of each session that it holds, at this moment."""
        return list_sessions(self.worker.sessions)

    def reload(self) -> None:
        """Read the token file and the certificate again; end the sessions of removed tokens.

        What cannot be read stays as it was, and an error is logged.
        """
        self.worker.reload()


@asynccontextmanager
async def open_worker(
    config: WorkerConfig, *, raise_limits: bool = False
) -> AsyncIterator[RunningWorker]:
    """Open the real connections for clients of the tunnel, for the length of an ``async with``.

    ::

        async with open_worker(WorkerConfig(port=0)) as worker:
            print("listening at", worker.url)
            await trio.sleep_forever()

    At the end of the block clients are told to go elsewhere, and streams go on for most of
    ``config.drain`` seconds, if any are open. Cancelled, or left by an error, it ends at once.

    :param raise_limits: raise this process's limit of descriptors (RLIMIT_NOFILE) to the most that
        it may have: each connection takes one, and the usual limit is 1024. Otherwise the worker
        keeps within what there is.
    :raises ConfigError: a file cannot be read, there is no token beyond loopback, or nothing can
        listen there.
    :raises PrivilegeError: the system refuses the port or the mark.
    """
    with single_error() as bodies:
        worker = Worker(config, raise_limits=raise_limits)
        async with trio.open_nursery() as nursery:
            address, port = await nursery.start(worker.run)
            try:
                yield RunningWorker(worker, address, port)
            except BaseException as error:
                bodies.append(error)
                raise
            worker.stop()
