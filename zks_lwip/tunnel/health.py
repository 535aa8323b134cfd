"""Looking, where there are several workers, how near each of them is and whether it answers.

A check is a connection, TLS where there is any, and ``GET /health`` beside the tunnel's path. Any
HTTP answer below 500 shows a worker that is there, also one that knows no such page; no token is
sent. What sessions show counts for more: a worker that carries one is not given up by a check.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable

import trio

from .._version import __version__
from ..carrier.tcp_info import carrier_of, round_trip, stretched
from ..errors import WorkerUnreachable, ZksError
from ..net.names import join_host_port
from .dial import open_transport
from .options import TunnelConfig
from .workers import KnownWorker, Workers

__all__ = ["HealthChecks", "check_worker"]

_log = logging.getLogger(__name__)

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\D")
_PATIENCE = 3.0
"""Seconds that the first answer of all may take before workers are dialled without."""
_AS_NEAR, _AS_NEAR_PART = 0.02, 0.5
"""Seconds that others have to answer, too, when the first has; at least, and as a part of the time
that it took."""
_MAX_LINE = 1024
"""Bytes within which the first line of the answer must have ended."""


async def check_worker(
    config: TunnelConfig, context: ssl.SSLContext | None, slowness: float = 0.0
) -> float:
    """Connect to a worker and ask whether it is well.

    :param context: as for :func:`~.dial.connect_worker`.
    :param slowness: the round trip of connections beside it, in seconds.
    :returns: the seconds that it took to connect.
    :raises WorkerUnreachable: it does not answer, or says that it cannot serve.
    :raises ZksError: as :func:`~.dial.open_transport`.
    """
    stream, seconds = await open_transport(config, context, slowness)
    worker = config.worker
    try:
        trip = max(slowness, round_trip(carrier_of(stream)))
        limit = stretched(config.upgrade_timeout, 2, trip)
        with trio.fail_after(limit):
            status = await _ask(stream, config)
    except trio.TooSlowError:
        raise WorkerUnreachable(
            f"worker {worker} took the connection but does not answer a check within {limit:.3g} s."
        ) from None
    except (trio.BrokenResourceError, ValueError) as error:
        raise WorkerUnreachable(f"worker {worker} does not answer a check ({error}).") from None
    finally:
        await trio.aclose_forcefully(stream)
    if status >= 500:
        raise WorkerUnreachable(f"worker {worker} cannot serve now ({status}).")
    return seconds


async def _ask(stream: trio.abc.Stream, config: TunnelConfig) -> int:
    """Return the status of the answer to ``GET /health``.

    :raises ValueError: it is no HTTP; says so.
    """
    worker = config.worker
    default_port = 443 if worker.secure else 80
    host = join_host_port(worker.host, None if worker.port == default_port else worker.port)
    lines = [
        f"GET {worker.path.rpartition('/')[0]}/health HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: zks-lwip/{__version__}",
        "Connection: close",
    ]
    await stream.send_all("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
    answer = b""
    while b"\n" not in answer:
        data = await stream.receive_some(_MAX_LINE)
        answer += data
        if not data or len(answer) > _MAX_LINE:
            break
    match = _STATUS.match(answer)
    if match is None:
        raise ValueError("what came is no HTTP" if answer else "it hung up")
    return int(match[1])


class HealthChecks:
    """Checks each worker once in a while; :meth:`run` must be running.

    :param carries: whether a session is up with a worker: then a check that fails says nothing.
    :param wanted: waits until checks are of use: while there is no session, dialling shows the
        same.
    :param changed: called when something has been found out.
    :param slowness: returns the round trip of the tunnel as far as it is known, in seconds.
    """

    def __init__(
        self,
        workers: Workers,
        context: ssl.SSLContext | None,
        *,
        carries: Callable[[KnownWorker], bool],
        wanted: Callable[[], trio.Event],
        changed: Callable[[], None],
        slowness: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._context = context
        self._carries = carries
        self._wanted = wanted
        self._changed = changed
        self._slowness = slowness
        self._first = trio.Event()
        self._all = trio.Event()
        self._news = trio.Event()
        self._unanswered = len(workers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled; started when it is known which worker is the nearest.

        Where none answers for a while, it is started all the same.
        """
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for each in self._workers.all:
                nursery.start_soon(self._watch, each)
            with trio.move_on_after(_PATIENCE):
                await self._first.wait()
            # What comes later is further away by more than measurements vary
            took = trio.current_time() - began
            with trio.move_on_after(max(_AS_NEAR, took * _AS_NEAR_PART)):
                await self._all.wait()
            task_status.started()

    def renew(self, context: ssl.SSLContext | None) -> None:
        """Trust other certificates from now on."""
        self._context = context

    def look_again(self) -> None:
        """A worker has failed: it may have to be checked earlier than it seemed."""
        self._news.set()
        self._news = trio.Event()

    async def _watch(self, worker: KnownWorker) -> None:
        await self._check(worker)
        self._unanswered -= 1
        if not self._unanswered:
            self._all.set()
        if worker.well or not self._unanswered:
            self._first.set()
        checked = trio.current_time()
        while True:
            with trio.move_on_at(worker.check_due(checked)):
                await self._news.wait()
                continue
            await self._wanted().wait()
            await self._check(worker)
            checked = trio.current_time()

    async def _check(self, worker: KnownWorker) -> None:
        try:
            seconds = await check_worker(worker.config, self._context, self._slowness())
        except ZksError as error:
            _log.debug("a check has failed: %s", error)
            if not worker.well or not self._carries(worker):
                worker.failed(error, trio.current_time())
        else:
            _log.debug("%s answers a check; connected in %.1f ms", worker, seconds * 1e3)
            worker.connected(seconds)
            worker.answered(trio.current_time())
        self._changed()
