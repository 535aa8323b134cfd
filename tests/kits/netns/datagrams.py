"""UDP load at a steady rate, and its count at the other end (``datagrams.c``)."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kits.netns.child import Child
from tests.kits.netns.lab import Namespace

__all__ = ["Load", "load"]

_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _program() -> str:
    """Compile it, once a process."""
    source = Path(__file__).with_name("datagrams.c")
    made = tempfile.TemporaryDirectory(prefix="zks-datagrams-")
    _kept.append(made)
    program = Path(made.name) / "datagrams"
    compiler = shutil.which("gcc") or "cc"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        [compiler, *flags, "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return str(program)


@dataclass(frozen=True)
class Load:
    """What was sent and what arrived."""

    sent: int
    received: int
    seconds: float

    @property
    def rate(self) -> float:
        """Datagrams a second that were really sent."""
        return self.sent / self.seconds


def load(
    host: Namespace,
    far: Namespace,
    address: str,
    port: int,
    *,
    down: bool,
    rate: float,
    seconds: float,
    size: int = 1200,
    flows: int = 1,
) -> Load:
    """Send datagrams from ``host`` to ``far``, which has the address; or ``down``, back."""
    steady = [address, str(port), f"{rate:.0f}", f"{seconds:g}", str(size), str(flows)]
    if down:
        waits, begins = (far, ["answer", *steady]), (host, ["ask", address, str(port), str(flows)])
    else:
        waits, begins = (far, ["receive", address, str(port)]), (host, ["send", *steady])
    with Child(waits[1][0], waits[0].command([_program(), *waits[1]])) as first:
        first.wait_for("ready")
        with Child(begins[1][0], begins[0].command([_program(), *begins[1]])) as second:
            text = second.succeed(seconds + 30) + first.succeed(seconds + 30)
    sent = re.search(r"sent (\d+) in ([\d.]+)", text)
    received = re.search(r"received (\d+)", text)
    assert sent and received, text
    extra = 0 if down else flows  # what opened the associations
    return Load(int(sent[1]), int(received[1]) - extra, float(sent[2]))
