"""Plans of every system: what they are made for, and files of the commands that they stand for."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from zks_lwip.host.plan.plan import Plan

GOLDEN = Path(__file__).parents[1] / "unit" / "host" / "golden"


def networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


def check_golden(plan: Plan, name: str) -> None:
    """Compare with the file of that name; with ``ZKS_GOLDEN=write``, write it."""
    text = "".join(f"{line}\n" for line in [*(f"# {note}" for note in plan.notes), *plan.render()])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ZKS_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
