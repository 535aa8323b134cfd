"""A terminal (pty(7)) with a command in it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

from tests.kits.netns.child import ROOT


class Terminal:
    """A session of its own with a terminal, in which a command runs."""

    def __init__(self, argv: list[str]) -> None:
        self.fd, inner = pty.openpty()
        self.text = ""
        """What has been shown since the last :meth:`expect`."""
        self.all = ""
        """All that has been shown."""
        environment = {**os.environ, "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv], stdin=inner, stdout=inner, stderr=inner,
            env=environment, cwd=ROOT)  # fmt: skip
        os.close(inner)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> None:
        """Wait for a text to be shown."""
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            more = os.read(self.fd, 1000).decode()
            self.text += more
            self.all += more
        self.text = self.text[found.end() :]

    def in_front(self) -> str:
        """Return the name of the program that the terminal's keys are for."""
        try:
            return Path(f"/proc/{os.tcgetpgrp(self.fd)}/comm").read_text().strip()
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """End the command, and the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
