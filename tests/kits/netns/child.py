"""Child processes of the tests: their output is kept, their end is certain, none is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parents[3]
MARK = "ZKS_TEST_SESSION"
SESSION = uuid.uuid4().hex
"""In the environment of every process that the tests start, and so of what those start in turn."""

alive: list[Child] = []
"""Every child that has not been stopped yet; the failure report shows their output."""


class ChildError(AssertionError):
    """A child did not do what the test needs; the message holds its output."""


class Child:
    """A process with its standard output and error collected line by line.

    As a context manager it is stopped (SIGTERM, then SIGKILL after 40 s) at the end.

    Who waits, waits for what has to come: the limits are for a loaded machine, and cost nothing.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        new_group: bool = False,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        environment = {**os.environ, **(env or {}), MARK: SESSION, "PYTHONUNBUFFERED": "1"}
        environment.setdefault("PYTHONFAULTHANDLER", "1")
        self.process = subprocess.Popen(
            self.argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            pass_fds=pass_fds,
            # What Ctrl-Break on Windows can be sent to.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if new_group else 0,
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()
        alive.append(self)

    def _read(self, pipe: IO[bytes], lines: list[str]) -> None:
        with pipe:
            for raw in pipe:
                with self._news:
                    lines.append(raw.decode(errors="replace").rstrip("\r\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """Both streams, standard output first, for messages."""
        out, err = "\n".join(self.stdout[-60:]), "\n".join(self.stderr[-120:])
        return f"--- {self.name} ({' '.join(self.argv)})\n[stdout]\n{out}\n[stderr]\n{err}"

    def wait_for(self, pattern: str, timeout: float = 120, after: int = 0) -> re.Match[str]:
        """Wait until a line of either stream matches ``pattern`` (``re.search``).

        ``after`` skips that many lines of each stream, to wait for something new.
        """
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern)
        with self._news:
            while True:
                for line in [*self.stdout[after:], *self.stderr[after:]]:
                    if match := expression.search(line):
                        return match
                if self.process.poll() is not None and not any(r.is_alive() for r in self._readers):
                    code = self.process.returncode
                    raise ChildError(f"ended ({code}) without {pattern!r}\n{self.output}")
                if (left := deadline - time.monotonic()) <= 0:
                    raise ChildError(f"no {pattern!r} within {timeout} s\n{self.output}")
                self._news.wait(min(left, 0.2))

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(f"still runs after {timeout} s\n{self.output}") from None
        for reader in self._readers:
            reader.join(20)
        if self in alive:
            alive.remove(self)
        return code

    def succeed(self, timeout: float = 120) -> str:
        """Wait for exit code 0; its standard output."""
        code = self.wait(timeout)
        if code != 0:
            raise ChildError(f"exit code {code}\n{self.output}")
        return "\n".join(self.stdout)

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, timeout: float = 40) -> int:
        """SIGTERM and wait; SIGKILL and a failure when that does not help."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except ChildError:
            self.process.kill()
            self.wait()
            raise

    def no_traceback(self) -> None:
        """Fail if a Python traceback, or a crash of the interpreter, was shown."""
        text = "\n".join([*self.stdout, *self.stderr])
        for sign in (
            "Traceback (most recent call last)",
            "Fatal Python error",
            "Exception ignored in",
            "internal error",
            "was never awaited",
            "ResourceWarning",
        ):
            if sign in text:
                raise ChildError(f"{sign!r} was shown\n{self.output}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        elif self in alive:
            self.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time that process ``pid`` has used so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """``pid`` and every process below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for task in list(Path(f"/proc/{parent}/task").iterdir()):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found


def leftovers() -> dict[int, str]:
    """Processes, other than this one, that carry this test session's mark."""
    needle = f"{MARK}={SESSION}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue  # it has just ended, or is another user's
    return found


def until(
    condition: Callable[[], bool],
    timeout: float = 90,
    message: Callable[[], str] = lambda: "it did not come to pass",
) -> None:
    """Wait until ``condition()`` holds; a failure after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)
