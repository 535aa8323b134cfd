"""The process that starts the others, and serves no client itself."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from ...errors import ConfigError
from ..addresses import BoundSocket, InheritedSocket, UnixAddress
from ..auth import TokenFile
from ..handover import Handover
from ..listen import check_addresses, open_listeners, tls_context
from ..options import WorkerConfig
from ..stats import WorkerStats
from .child import ASK_STATS, LINE, Orders

__all__ = ["MAX_PROCESSES", "Supervisor"]

_log = logging.getLogger(__name__)

MAX_PROCESSES = 64
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
"""Seconds before a process that died is started again: doubled when it dies again soon."""
_LIVED = 60.0
"""Seconds after which a process that dies is started again as if for the first time."""
_START_SECONDS = 30.0
"""Until a process has to be ready."""
_STATS_SECONDS = 2.0
"""Within which a process has to tell its numbers, or is left out."""
_OURS = ("ZKS_LWIP_", "NOTIFY_SOCKET")
"""What the variables begin with that are for this process alone."""
_KILL_AFTER = 0.5
"""Seconds beyond what the end may take, after which it is forced."""


class _Process:
    """One of the processes, and the socket to it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: trio.Process | None = None
        self.control: trio.SocketStream | None = None
        self.ready = trio.Event()
        self.outdated = False
        """What it reads was to be read again before it could be told so."""
        self.last: WorkerStats | None = None
        """Its numbers as it has told them last."""
        self._asked = trio.Lock()
        self._answers: trio.MemorySendChannel[None]
        self._answers, self._answer = trio.open_memory_channel[None](1)

    async def ask(self) -> bool:
        """Ask for its numbers, for :attr:`last`; False: it does not tell them in time."""
        control = self.control
        if control is None or not self.ready.is_set():
            return False
        with trio.move_on_after(_STATS_SECONDS):
            async with self._asked:
                with suppress(trio.WouldBlock):
                    self._answer.receive_nowait()  # to a question that was given up
                try:
                    await control.send_all(ASK_STATS)
                    await self._answer.receive()
                    return True
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    return False
        return False

    async def listen(self, control: trio.SocketStream) -> None:
        """Take what it says, until it is gone."""
        data = b""
        try:
            while piece := await control.receive_some(1 << 16):
                *lines, data = (data + piece).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    if "ready" in said:
                        self.ready.set()
                        if self.outdated:
                            self.reload()
                    else:
                        self._take(WorkerStats.from_json(said["stats"]))
                if len(data) > LINE:
                    raise ValueError("a line is too long")
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError, KeyError) as error:
            _log.warning("process %d: %s", self.index, error)

    def reload(self) -> None:
        """Have it read tokens and certificate again, now or as soon as it can: a signal that comes
        while it starts would end it."""
        self.outdated = not self.ready.is_set()
        if not self.outdated and self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGHUP)

    def _take(self, stats: WorkerStats) -> None:
        self.last = stats
        with suppress(trio.WouldBlock):  # no caller waits any more
            self._answers.send_nowait(None)


class Supervisor:
    """Runs a worker in several processes until :meth:`stop`.

    :param config: as for one process. What it says of all tokens together is divided among them;
        what it says of one token holds in each, but where the token file itself has limits.
    :param count: how many, 2 to 64.
    :param command: what starts one; ``--supervised FD`` is added.
    :raises ConfigError: as :class:`~zks_lwip.worker.Worker`.
    :raises PrivilegeError: likewise.
    """

    def __init__(self, config: WorkerConfig, count: int, command: Sequence[str]) -> None:
        if sys.platform == "win32":
            raise ConfigError("works where there are unix sockets only.", "processes")
        if not 2 <= count <= MAX_PROCESSES:
            raise ConfigError(f"{count} is out of range: give 1 to {MAX_PROCESSES}.", "processes")
        self._config = config
        self._command = tuple(command)
        tokens = config.token_file is not None
        tls = config.tls_cert is not None
        if config.token_file is not None:  # said once, and before anything begins
            TokenFile(config.token_file)
            if not Path(config.token_file).is_file():
                raise ConfigError("has to be a file: every process reads it.", "token_file")
        if config.tls_cert is not None:
            tls_context(config.tls_cert, config.tls_key)
        check_addresses(config.addresses, tls=tls, tokens=tokens)
        self.listening = open_listeners(config.addresses, tls=tls, tokens=tokens)
        """Where it listens."""
        from .folder import SocketFolder  # not for Windows

        try:
            self._folder = SocketFolder()
        except OSError as error:
            raise ConfigError(
                f"there is no place for the sockets between them: {error.strerror or error}; set "
                "TMPDIR to a directory that may be written.",
                "processes",
            ) from None
        self._doors = [
            BoundSocket(UnixAddress(self._folder.path / str(index), 0o600))
            for index in range(count)
        ]
        self._processes = [_Process(index) for index in range(count)]
        self._stopping = trio.Event()
        #: Set when :meth:`run` has ended.
        self.ended = trio.Event()
        self._ended = WorkerStats()  # what processes have counted that have ended
        self.restarts = 0
        """How often a process was started again."""

    def problem(self) -> str | None:
        """Return why no sessions are taken; None: they are."""
        if self._stopping.is_set():
            return "shutting down"
        if not any(each.ready.is_set() for each in self._processes):
            return "no process is ready"
        return None

    async def stats(self) -> tuple[WorkerStats, int]:
        """Return the numbers of all processes together, and how many of them have told theirs.

        Counters never fall: those of processes that have ended, or are late, stay as they were told
        last.
        """
        answered: set[_Process] = set()

        async def ask(process: _Process) -> None:
            if await process.ask():
                answered.add(process)

        async with trio.open_nursery() as nursery:
            for process in self._processes:
                nursery.start_soon(ask, process)
        total = WorkerStats()
        total.add(self._ended)
        for process in self._processes:
            if process.last is not None:
                total.add(process.last if process in answered else process.last.counters())
        return total, len(answered)

    def stop(self) -> None:
        """Have all of them end in order; a second call: at once."""
        if self._stopping.is_set():
            _log.info("ending at once")
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def reload(self) -> None:
        """Have all of them read tokens and certificate again, and open the access log anew."""
        for each in self._processes:
            each.reload()

    def _signal(self, number: signal.Signals) -> None:
        for each in self._processes:
            if each.process is not None and each.process.returncode is None:
                each.process.send_signal(number)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start them, and keep them running until :meth:`stop`; started when all are ready.

        :raises ConfigError: one of them ends before it is ready, or is not ready in time.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_in_time)
                async with trio.open_nursery() as keepers:
                    for each in self._processes:
                        keepers.start_soon(self._keep, each)
                    await self._wait_ready()
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            self._close_listeners()
            for door in self._doors:
                door.close()
            self._folder.remove()
            self.ended.set()

    async def _wait_ready(self) -> None:
        with trio.move_on_after(_START_SECONDS):
            for each in self._processes:
                while not (each.ready.is_set() or self._stopping.is_set()):
                    await trio.sleep(0.01)
            return
        raise ConfigError(
            f"{len(self._processes)} were not ready within {_START_SECONDS:g} s: give fewer, "
            "if this machine is busy.",
            "processes",
        )

    async def _end_in_time(self) -> None:
        """Once stopped, listen no more, and kill what has not ended when it should have."""
        await self._stopping.wait()
        self._close_listeners()
        await trio.sleep(self._config.drain + _KILL_AFTER)
        self._signal(signal.SIGKILL)

    def _close_listeners(self) -> None:
        for bound in self.listening:
            bound.close()

    async def _keep(self, process: _Process) -> None:
        """Start one process, again and again."""
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            began = trio.current_time()
            code, was_ready = await self._run_once(process)
            if self._stopping.is_set():
                return
            if not was_ready and not self.restarts:
                raise ConfigError(
                    f"process {process.index} of the worker ended with code {code} before it was "
                    "ready: what it said is above."
                )
            if trio.current_time() - began >= _LIVED:
                delay = _FIRST_DELAY
            _log.error(
                "process %d of the worker ended with code %d, and its sessions with it: it is "
                "started again in %.1f s",
                process.index,
                code,
                delay,
            )
            self.restarts += 1
            with trio.move_on_after(delay):
                await self._stopping.wait()
            delay = min(2 * delay, _LAST_DELAY)

    async def _run_once(self, process: _Process) -> tuple[int, bool]:
        """Run one process to its end.

        :returns: its code, and whether it was ready.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as control:
            with theirs:
                started = await self._start(process.index, theirs)
            process.process, process.control = started, control
            if self._stopping.is_set():  # in this very moment
                started.terminate()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(process.listen, control)
                    await self._tell(control, process.index)
                    code = await started.wait()
                    nursery.cancel_scope.cancel()
                return code, process.ready.is_set()
            finally:
                process.control = None
                process.ready = trio.Event()
                if process.last is not None:
                    self._ended.add(process.last.counters())
                    process.last = None
                if started.returncode is None:
                    started.kill()
                    with trio.CancelScope(shield=True):
                        await started.wait()

    async def _start(self, index: int, theirs: socket.socket) -> trio.Process:
        fds = [theirs.fileno(), self._doors[index].socket.fileno()]
        fds += [bound.socket.fileno() for bound in self.listening]
        try:
            return await trio.lowlevel.open_process(
                [*self._command, "--supervised", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={name: v for name, v in os.environ.items() if not name.startswith(_OURS)},
                pass_fds=fds,
                process_group=0,  # Ctrl-C is for us, who pass it on
            )
        except OSError as error:
            raise ConfigError(
                f"a process of the worker cannot be started: {error.strerror}; give fewer.",
                "processes",
            ) from None

    async def _tell(self, control: trio.SocketStream, index: int) -> None:
        """Tell a process what it is."""
        orders = pickle.dumps(self._orders(index))
        try:
            await control.send_all(len(orders).to_bytes(4) + orders)
        except trio.BrokenResourceError:
            _log.debug("process %d ended before it was told anything", index)

    def _orders(self, index: int) -> Orders:
        config, count = self._config, len(self._processes)
        listen = tuple(
            InheritedSocket(each.socket.fileno(), "plain" if each.plain else "", checked=True)
            for each in self.listening
        )
        paths = tuple(self._folder.path / str(number) for number in range(count))
        return Orders(
            replace(
                config,
                listen=listen,
                max_kept=config.max_kept // count,
                max_detached=max(1, config.max_detached // count),
            ),
            Handover(index, paths, self._doors[index].socket.fileno(), config.session_prefix),
        )
