"""The process of the embedded worker, which can be begun before trio is loaded.

It takes as long to load as the client does, so that both load at a time. Until it is told to listen
it has nothing to end, and :meth:`WorkerProcess.close` ends it where nothing has taken it over
(:mod:`.embedded_worker`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from .._util import program
from ..errors import WorkerUnreachable

__all__ = ["WorkerProcess", "begin_worker", "worker_arguments"]

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
_SETTINGS = "ZKS_LWIP_"
"""What the variables begin with that are options of commands."""
_CLOSE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""


class WorkerProcess:
    """A worker that loads what it is made of, and what is known of its process.

    Leaving it as a context manager closes it.

    :param lifeline: a pipe that it reads, and whose closing ends it.
    :param output: a pipe that it writes.
    :param token: what it takes from its clients.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], lifeline: int, output: int, token: str
    ) -> None:
        self.token = token
        self._process = process
        self._lifeline = lifeline
        self._output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None: it runs."""
        return self._process.poll()

    def take_output(self) -> int:
        """Return the descriptor of its output, which is the caller's to close from now on."""
        output, self._output = self._output, -1
        return output

    def tell(self, line: bytes) -> None:
        """Write a line into its lifeline; nothing happens if it has ended, its output tells why."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lifeline, line)

    def cut_lifeline(self) -> None:
        """Close the lifeline; twice is harmless."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end in trio, and return its exit code."""
        import trio  # here: it is begun without

        if (code := self._process.poll()) is not None:
            return code
        return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    def close(self) -> None:
        """End it, and wait for that, at most some seconds; twice is harmless.

        Does nothing but let go where :func:`~.embedded_worker.load_embedded_worker` has ended it.
        """
        self.cut_lifeline()
        if self._output >= 0:
            os.close(self.take_output())
        for act in (self.terminate, self.kill):
            act()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE_SECONDS)
                return

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def worker_arguments(
    *, loopback: bool, user: str | None, for_others: bool = False
) -> tuple[str, ...]:
    """Return the options of an embedded worker.

    :param loopback: an address in the tunnel stands for this machine's 127.0.0.1.
    :param user: whom it becomes.
    :param for_others: other machines use the tunnel, too: it is no way past this machine's firewall
        for them, and refuses its addresses.
    """
    networks = (*_PRIVATE, "127.0.0.1/32") if loopback else _PRIVATE
    arguments = [argument for network in networks for argument in ("--allow", network)]
    if not for_others:
        # It acts for programs of this machine, which reach its addresses without it as well (or,
        # from another namespace, its loopback by `host_loopback`).
        arguments.append("--allow-own")
    if user is not None:
        arguments += ["--user", user]
    return tuple(arguments)


def begin_worker(arguments: Sequence[str], *, command: Sequence[str] = ()) -> WorkerProcess:
    """Start a worker, which does nothing until it is told the mark of its sockets.

    :param arguments: further options of ``zks_lwip worker``.
    :param command: what runs the worker; none: this interpreter and package.
    :raises WorkerUnreachable: it cannot be started.
    """
    token = secrets.token_urlsafe(32)
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        token_read, token_write = os.pipe()
        theirs.callback(os.close, token_read)
        with os.fdopen(token_write, "wb") as writer:  # far below what a pipe holds: never blocks
            writer.write(token.encode("ascii") + b"\n")
        parent_read, lifeline = os.pipe()
        theirs.callback(os.close, parent_read)
        ours.callback(os.close, lifeline)
        output, stdout = os.pipe()
        theirs.callback(os.close, stdout)
        ours.callback(os.close, output)
        argv = [
            *(command or (*program("zks_lwip"), "worker")),
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
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                env={k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)},
                pass_fds=(token_read, parent_read),
                process_group=0,  # Ctrl-C is for us: it must outlive what is being taken down
            )
        except OSError as error:
            raise WorkerUnreachable(
                f"the embedded worker could not be started: {sys.executable}: {error.strerror}. "
                "Name a worker elsewhere with `worker`."
            ) from None
        ours.pop_all()
        return WorkerProcess(process, lifeline, output, token)
