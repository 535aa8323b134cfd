"""The benchmarks (``python -m tests.bench``) work: a moment of each, whatever it finds."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import names
from tests.kits import dns_daemons
from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON
from tests.kits.workerd import find_workerd

pytestmark = pytest.mark.slow

MOMENTS = {
    "dns": "--part loopback --count 100",
    "latency": "--count 50 --no-load",
    "outage": "--rounds 1 --trips 20",
    "resume": "--seconds 1 --rounds 1 --streams 1 --only down",
    "sessions": "--sessions 10 --streams 2",
    "throughput": "--seconds 1 --streams 2 --only up --delay 5 --rate 100",
    "udp": "--seconds 0.2 --flows 1 --only up --most 1000 --queries 20",
    "workerd": "--size 2 --rounds 1",
}
ELSEWHERE = {"compare", "session", "soak"}
"""Those that have tests of their own."""


def test_all_are_tried() -> None:
    assert {*MOMENTS, *ELSEWHERE} == {*names()}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_of_each(name: str) -> None:
    if name == "dns" and (reason := dns_daemons.missing()):
        pytest.skip(reason)
    if name == "workerd" and find_workerd() is None:
        pytest.skip("needs workerd: python -m tests.kits.workerd")
    argv = [*PYTHON, "-m", "tests.bench", name, *MOMENTS[name].split()]
    with Child(name, argv) as child:
        told = child.succeed(250)
    tables = [line.split("|")[1:-1] for line in told.splitlines() if line.startswith("| ")]
    figures = [cell for row in tables for cell in row[1:] if cell.strip()[:1].isdigit()]
    assert len(tables) > 1 and len(figures) >= len(tables) - 1, told
