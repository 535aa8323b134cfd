"""``worker`` at work: its signals, its metrics, and what the service manager is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._loading import end_loading
from ..daemon.systemd import notify, notify_reloading
from ..errors import ConfigError
from ..worker import Worker
from ..worker.addresses import BoundSocket
from ..worker.stats import WorkerStats
from ._environment import echo_or_go_on
from ._options import print_stats_json

if TYPE_CHECKING:
    from ..metrics import MetricsServer
    from ..worker.processes import Supervisor

__all__ = ["read_mark", "serve_child_worker", "serve_worker", "supervise"]

_STOP = (signal.SIGTERM, signal.SIGINT)
_RELOAD = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
_TELL = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()


_MAX_LINE = 16
"""Bytes of a mark as a line."""


def read_mark(parent_fd: int) -> int | None:
    """Wait, with all modules loaded, until the process that started us tells its sockets' mark.

    :param parent_fd: the pipe that it tells it in, as a line.
    :returns: SO_MARK; None: they need none.
    :raises SystemExit: that process is gone.
    :raises ConfigError: the pipe is none, or something else comes.
    """
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _MAX_LINE:
            if not (more := os.read(parent_fd, 1)):
                raise SystemExit(0)
            line += more
        return int(line) or None
    except OSError as error:
        raise _no_parent(parent_fd, str(error.strerror)) from None
    except ValueError:
        raise _no_parent(parent_fd, f"{line!r} is no mark") from None


def _no_parent(fd: int, why: str) -> ConfigError:
    return ConfigError(f"--parent-fd {fd}: {why}")


async def serve_worker(
    worker: Worker,
    *,
    metrics: socket.socket | None,
    parent_fd: int | None,
    user: str | None,
) -> None:
    """Serve until a signal ends it.

    :param metrics: listens for those who ask for metrics.
    :param parent_fd: a pipe whose other end is closed when the process that started us is gone.
    :param user: becomes this user then.
    """
    with trio.open_signal_receiver(*_STOP, *_RELOAD, *_TELL) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, worker)
            if parent_fd is not None:
                nursery.start_soon(_end_with_parent, parent_fd, worker)
            await nursery.start(worker.run)
            if parent_fd is not None and sys.platform == "linux":
                await _drop_privileges(worker.mark, user)
            if metrics is not None:
                nursery.start_soon(_measuring(metrics, worker).run)
            _tell_where(worker.listening)
            await worker.ended.wait()
            nursery.cancel_scope.cancel()


async def serve_child_worker(worker: Worker, control: socket.socket) -> None:
    """Serve as one of several processes, until the supervisor ends it or is gone."""
    from ..worker.processes import serve_child  # here: most workers are one process

    with trio.open_signal_receiver(*_STOP, *_RELOAD) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, worker)
            await nursery.start(worker.run)
            end_loading()
            nursery.start_soon(serve_child, worker, control)
            await worker.ended.wait()
            nursery.cancel_scope.cancel()


async def supervise(supervisor: Supervisor, *, metrics: socket.socket | None) -> None:
    """Run several processes until a signal ends them.

    :param metrics: listens for those who ask for metrics.
    """
    with trio.open_signal_receiver(*_STOP, *_RELOAD, *_TELL) as signals:
        async with trio.open_nursery() as nursery:
            wanted, asked = trio.open_memory_channel[None](1)
            nursery.start_soon(_pass_on, signals, supervisor, wanted)
            nursery.start_soon(_tell_numbers, supervisor, asked)
            if metrics is not None:
                served = _metrics_server(metrics, supervisor.stats, supervisor.problem)
                nursery.start_soon(served.run)
            await nursery.start(supervisor.run)
            _tell_where(supervisor.listening)
            await supervisor.ended.wait()
            nursery.cancel_scope.cancel()


async def _pass_on(
    signals: AsyncIterator[int], supervisor: Supervisor, wanted: trio.MemorySendChannel[None]
) -> None:
    async for number in signals:
        if number in _RELOAD:
            reload_and_tell(supervisor.reload)
        elif number in _TELL:
            with suppress(trio.WouldBlock):  # one more telling is due already
                wanted.send_nowait(None)
        else:
            notify("STOPPING=1")
            supervisor.stop()


async def _tell_numbers(supervisor: Supervisor, asked: trio.MemoryReceiveChannel[None]) -> None:
    """Print the numbers of all, each time it is asked for: a process that is busy is waited for."""
    async for _ in asked:
        stats, _ = await supervisor.stats()
        print_stats_json(stats.to_json())


def _tell_where(listening: Sequence[BoundSocket]) -> None:
    end_loading()
    where = [str(each) for each in listening]
    for each in where:
        echo_or_go_on(f"listening on {each}")
    notify("READY=1", f"STATUS=listening on {', '.join(where)}")


def _measuring(sock: socket.socket, worker: Worker) -> MetricsServer:
    async def stats() -> tuple[WorkerStats, int]:
        return worker.stats(), 1

    return _metrics_server(sock, stats, lambda: "shutting down" if worker.stopping else None)


def _metrics_server(
    sock: socket.socket,
    stats: Callable[[], Awaitable[tuple[WorkerStats, int]]],
    problem: Callable[[], str | None],
) -> MetricsServer:
    from ..metrics import MetricsServer  # here: hardly a worker serves them, and they take long
    from ..metrics.worker import WorkerSource

    return MetricsServer(sock, WorkerSource(stats, problem))


async def _drop_privileges(mark: int | None, user: str | None) -> None:
    """A worker beside a client has the client's privileges: all it may need is to mark sockets."""
    from ..host.linux.privileges import Capability, drop_privileges

    await drop_privileges(None, user=user, keep=() if mark is None else (Capability.NET_ADMIN,))


async def _obey(signals: AsyncIterator[int], worker: Worker) -> None:
    async for number in signals:
        if number in _RELOAD:
            reload_and_tell(worker.reload)
        elif number in _TELL:
            print_stats_json(worker.stats().to_json())
        else:
            notify("STOPPING=1")
            worker.stop()


def reload_and_tell(reload: Callable[[], None]) -> None:
    """Reload, and have the service manager wait until that is done."""
    notify_reloading()
    reload()
    notify("READY=1")


async def _end_with_parent(fd: int, worker: Worker) -> None:
    """End at once when the other end of the pipe is closed: the process that started us is gone."""
    try:
        os.set_blocking(fd, False)
        while True:
            await trio.lowlevel.wait_readable(fd)
            if not os.read(fd, 4096):
                break
    except OSError as error:
        raise _no_parent(fd, str(error.strerror)) from None
    worker.stop()
    worker.stop()
