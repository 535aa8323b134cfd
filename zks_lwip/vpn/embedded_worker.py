"""The embedded worker: the Python worker as a child process on loopback.

It is a process of its own because one interpreter lock would otherwise carry both ends of the
tunnel. It shares nothing with this one but two pipes: through the first it reads a random token,
which so appears neither in an argument nor in the environment; the second ends when this process
does, however it dies, and the worker with it.

It takes long to load. So it is begun first (:mod:`.worker_process`), before the look at the host,
and told in the second pipe what has come of that: the mark of its sockets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ..errors import TunnelError, WorkerUnreachable
from .worker_process import WorkerProcess, begin_worker

__all__ = ["EmbeddedWorker", "LoadingWorker", "load_embedded_worker", "open_embedded_worker"]

_log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""Until the child must have said where it listens. Starting an interpreter takes 0.5 s."""
STOP_SECONDS = 2.0
"""Between the end of its work and SIGTERM, and between SIGTERM and SIGKILL."""

_LISTENING = re.compile(rb"listening on (127\.0\.0\.1):(\d{1,5})\s*\Z")
_MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class EmbeddedWorker:
    """A worker that listens: its URL, its token, and its process."""

    url: str
    token: str = field(repr=False)
    process: WorkerProcess = field(repr=False)
    output: trio.lowlevel.FdStream = field(repr=False)

    async def watch(self) -> None:
        """Read what it prints (or the pipe would fill), until cancelled.

        :raises TunnelError: it has ended.
        """
        async for data in self.output:
            _log.debug("embedded worker: %s", bytes(data).decode("utf-8", "replace").rstrip())
        code = await self.process.wait()
        raise TunnelError(
            f"the embedded worker ended by itself with code {code}, so nothing can leave the "
            "tunnel any more. Start again; -v shows what it logs."
        )


class LoadingWorker:
    """A worker that loads what it is made of, until :meth:`listen`.

    :param output: what it prints.
    """

    def __init__(self, process: WorkerProcess, output: trio.lowlevel.FdStream) -> None:
        self.process = process
        self.told = False
        """It has been told to listen."""
        self._output = output

    async def listen(self, mark: int | None) -> EmbeddedWorker:
        """Have it listen, and return it when it does.

        :param mark: SO_MARK of all its sockets (needs CAP_NET_ADMIN).
        :raises WorkerUnreachable: it does not start, or does not listen within 20 s.
        """
        self.told = True
        self.process.tell(b"%d\n" % (mark or 0))
        url = await _started(self.process, self._output)
        _log.info("embedded worker: process %d at %s", self.process.pid, url)
        return EmbeddedWorker(url, self.process.token, self.process, self._output)


@asynccontextmanager
async def load_embedded_worker(
    *,
    begun: WorkerProcess | None = None,
    arguments: Sequence[str] = (),
    command: Sequence[str] = (),
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[LoadingWorker]:
    """Run a worker, which does nothing until :meth:`LoadingWorker.listen`, for the length of an
    ``async with``.

    It is gone when the block has been left, at the latest after 4 s, even when cancelled.

    :param begun: the worker, if it has been begun.
    :param arguments: if not: further options of ``zks_lwip worker``.
    :param command: what runs it then; none: this interpreter and package.
    :param stop_seconds: between the end of its work and SIGTERM, and from there to SIGKILL.
    :raises WorkerUnreachable: it cannot be started.
    """
    process = begin_worker(arguments, command=command) if begun is None else begun
    output = trio.lowlevel.FdStream(process.take_output())
    loading = LoadingWorker(process, output)
    try:
        yield loading
    finally:
        process.cut_lifeline()
        with trio.CancelScope(shield=True):
            await _stop(process, stop_seconds, at_work=loading.told)
            await output.aclose()


@asynccontextmanager
async def open_embedded_worker(
    *,
    mark: int | None = None,
    arguments: Sequence[str] = (),
    watched: bool = True,
    command: Sequence[str] = (),
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[EmbeddedWorker]:
    """Run a worker that listens for the length of an ``async with``.

    :param mark: as of :meth:`LoadingWorker.listen`.
    :param arguments: as of :func:`load_embedded_worker`, and so the others.
    :param watched: its end inside the block is an error; otherwise
        :meth:`EmbeddedWorker.watch` must be running.
    :raises WorkerUnreachable: it does not start, or does not listen within 20 s.
    :raises TunnelError: it has ended inside the block.
    """
    async with load_embedded_worker(
        arguments=arguments, command=command, stop_seconds=stop_seconds
    ) as loading:
        worker = await loading.listen(mark)
        async with trio.open_nursery() as nursery:
            if watched:
                nursery.start_soon(worker.watch)
            yield worker
            nursery.cancel_scope.cancel()


async def _started(process: WorkerProcess, output: trio.lowlevel.FdStream) -> str:
    """Wait for the line that says where it listens."""
    line = b""
    with trio.move_on_after(START_SECONDS):
        while b"\n" not in line and len(line) < _MAX_LINE:
            data = await output.receive_some(_MAX_LINE)
            if not data:
                break
            line += data
        match = _LISTENING.match(line.split(b"\n", 1)[0])
        if match is not None:
            return f"ws://{match[1].decode()}:{int(match[2])}/tunnel"
        if line:
            how = f"it said {line[:200]!r}"
        else:
            how = f"it ended with code {await process.wait()}"
        raise WorkerUnreachable(
            f"the embedded worker did not start: {how}. Its own message is above; "
            "try `python -m zks_lwip worker --listen 127.0.0.1:0`."
        )
    raise WorkerUnreachable(
        f"the embedded worker did not listen within {START_SECONDS:g} s. The machine may be "
        "overloaded; try again, or name a worker elsewhere with `worker`."
    )


async def _stop(process: WorkerProcess, seconds: float, *, at_work: bool) -> None:
    """Wait for the end, for ``seconds`` after each: the closed pipe, SIGTERM, SIGKILL.

    :param at_work: it sees the closed pipe, and has something to end.
    """
    for act in ((None,) if at_work else ()) + (process.terminate, process.kill):
        if act is not None and process.returncode is None:
            _log.info("embedded worker: %s", act.__name__)
            act()
        with trio.move_on_after(seconds):
            await process.wait()
            break
