"""The embedded worker: the Python worker as a child process on loopback.

It is a process of its own because one interpreter lock would otherwise carry both ends of the
tunnel. It shares nothing with this one but two pipes: through the first it reads a random token,
which so appears neither in an argument nor in the environment; the second ends when this process
does, however it dies, and the worker with it.

It takes long to load. So it is begun first, beside the look at the host, and told in the second
pipe what has come of that: the mark of its sockets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from .._util import program
from ..errors import TunnelError, WorkerUnreachable

__all__ = ["EmbeddedWorker", "LoadingWorker", "load_embedded_worker", "open_embedded_worker"]

_log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""Until the child must have said where it listens. Starting an interpreter takes 0.5 s."""
STOP_SECONDS = 2.0
"""Between the end of its work and SIGTERM, and between SIGTERM and SIGKILL."""

_LISTENING = re.compile(rb"listening on (127\.0\.0\.1):(\d{1,5})\s*\Z")
_MAX_LINE = 4096
_SETTINGS = "ZKS_LWIP_"
"""What the variables begin with that are options of commands."""


@dataclass(frozen=True, slots=True)
class EmbeddedWorker:
    """A worker that listens: its URL, its token, and its process."""

    url: str
    token: str = field(repr=False)
    process: trio.Process = field(repr=False)

    async def watch(self) -> None:
        """Read what it prints (or the pipe would fill), until cancelled.

        :raises TunnelError: it has ended.
        """
        process = self.process
        assert process.stdout is not None
        async for data in process.stdout:
            _log.debug("embedded worker: %s", bytes(data).decode("utf-8", "replace").rstrip())
        code = await process.wait()
        raise TunnelError(
            f"the embedded worker ended by itself with code {code}, so nothing can leave the "
            "tunnel any more. Start again; -v shows what it logs."
        )


class LoadingWorker:
    """A worker that loads what it is made of, until :meth:`listen`."""

    def __init__(self, process: trio.Process, lifeline: int, token: str) -> None:
        self.process = process
        self.told = False
        """It has been told to listen."""
        self._lifeline = lifeline
        self._token = token

    async def listen(self, mark: int | None) -> EmbeddedWorker:
        """Have it listen, and return it when it does.

        :param mark: SO_MARK of all its sockets (needs CAP_NET_ADMIN).
        :raises WorkerUnreachable: it does not start, or does not listen within 20 s.
        """
        self.told = True
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said tells more
            os.write(self._lifeline, b"%d\n" % (mark or 0))
        url = await _started(self.process)
        _log.info("embedded worker: process %d at %s", self.process.pid, url)
        return EmbeddedWorker(url, self._token, self.process)


@asynccontextmanager
async def load_embedded_worker(
    *,
    arguments: Sequence[str] = (),
    command: Sequence[str] = (),
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[LoadingWorker]:
    """Run a worker, which does nothing until :meth:`LoadingWorker.listen`, for the length of an
    ``async with``.

    It is gone when the block has been left, at the latest after 4 s, even when cancelled.

    :param arguments: further options of ``zks_lwip worker``.
    :param command: what runs the worker; none: this interpreter and package.
    :param stop_seconds: between the end of its work and SIGTERM, and from there to SIGKILL.
    :raises WorkerUnreachable: it cannot be started.
    """
    token = secrets.token_urlsafe(32)
    process, lifeline = await _spawn(command or [*program("zks_lwip"), "worker"], token, arguments)
    loading = LoadingWorker(process, lifeline, token)
    try:
        yield loading
    finally:
        os.close(lifeline)
        with trio.CancelScope(shield=True):
            await _stop(process, stop_seconds, at_work=loading.told)


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


async def _spawn(
    command: Sequence[str], token: str, arguments: Sequence[str]
) -> tuple[trio.Process, int]:
    """Start the child.

    :returns: the process, and the descriptor that tells it the mark, and whose closing ends it.
    """
    with contextlib.ExitStack() as theirs:
        token_read, token_write = os.pipe()
        theirs.callback(os.close, token_read)
        with os.fdopen(token_write, "wb") as writer:  # far below what a pipe holds: never blocks
            writer.write(token.encode("ascii") + b"\n")
        parent_read, lifeline = os.pipe()
        theirs.callback(os.close, parent_read)
        argv = [
            *command,
            "--config",  # this machine's settings are for workers that are started by users
            os.devnull,
            "--listen",
            "127.0.0.1:0",
            "--token-file",
            f"/dev/fd/{token_read}",
            "--parent-fd",
            str(parent_read),
            *arguments,
        ]
        try:
            process = await trio.lowlevel.open_process(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env={k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)},
                pass_fds=(token_read, parent_read),
                process_group=0,  # Ctrl-C is for us: it must outlive what is being taken down
            )
        except OSError as error:
            os.close(lifeline)
            raise WorkerUnreachable(
                f"the embedded worker could not be started: {sys.executable}: {error.strerror}. "
                "Name a worker elsewhere with `worker`."
            ) from None
        return process, lifeline


async def _started(process: trio.Process) -> str:
    """Wait for the line that says where it listens."""
    assert process.stdout is not None
    line = b""
    with trio.move_on_after(START_SECONDS):
        while b"\n" not in line and len(line) < _MAX_LINE:
            data = await process.stdout.receive_some(_MAX_LINE)
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


async def _stop(process: trio.Process, seconds: float, *, at_work: bool) -> None:
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
    if process.stdout is not None:
        await process.stdout.aclose()
