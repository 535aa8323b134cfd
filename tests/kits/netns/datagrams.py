"""UDP load at a steady rate, and its count at the other end (``datagrams.c``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.kits.netns.child import Child
from tests.kits.netns.compiled import compiled
from tests.kits.netns.lab import Namespace

__all__ = ["Load", "load"]


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
    program = str(compiled("datagrams.c"))
    with Child(waits[1][0], waits[0].command([program, *waits[1]])) as first:
        first.wait_for("ready")
        with Child(begins[1][0], begins[0].command([program, *begins[1]])) as second:
            text = second.succeed(seconds + 30) + first.succeed(seconds + 30)
    sent = re.search(r"sent (\d+) in ([\d.]+)", text)
    received = re.search(r"received (\d+)", text)
    assert sent and received, text
    extra = 0 if down else flows  # what opened the associations
    return Load(int(sent[1]), int(received[1]) - extra, float(sent[2]))
