"""A terminal of some size with a command in it, and what is to be seen on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pyte

from tests.kits.netns.child import ROOT


class Screen:
    """A session of its own in a terminal of ``columns`` × ``lines``."""

    def __init__(self, argv: list[str], columns: int, lines: int) -> None:
        self.fd, inner = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """All that was written."""
        self._set_size(columns, lines)
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            cwd=ROOT,
        )
        os.close(inner)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.fd, text.encode())

    @property
    def lines(self) -> list[str]:
        """What is to be seen, without spaces at the ends of lines."""
        return [line.rstrip() for line in self._screen.display]

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until what is to be seen fulfils a condition; return it."""
        deadline = time.monotonic() + 60
        while not condition(self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            self._read(0.1)
        return self.lines

    def see(self, *texts: str) -> list[str]:
        """Wait until all of these texts are to be seen."""
        return self.until(lambda lines: all(any(t in line for line in lines) for t in texts))

    def _read(self, seconds: float) -> bool:
        """Take what was written; return whether there may be more."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False  # the last process has ended
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait(self) -> int:
        """Wait for the command's end; return its exit code."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None or (self.raw and self._read(0)):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            if not self._read(0.1):
                break
        return self.process.wait(10)

    def close(self) -> None:
        """End the command, and the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
