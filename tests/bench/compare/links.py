"""Slow and long links, emulated (``tests/kits/netns/emulator.c``): bulk, and echoes beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

from tests.bench.compare.figures import Figure, quantile
from tests.bench.compare.measures import Figures, Settings, Step
from tests.bench.compare.site import Running, Site

__all__ = ["LINKS", "links"]

LINKS: dict[str, dict[str, float]] = {
    "1 Gbit/s, 10 ms": {"rate": 1e9, "delay": 0.005, "queue": 4 << 20},
    "1 Gbit/s, 100 ms": {"rate": 1e9, "delay": 0.05, "queue": 16 << 20},
    "50 Mbit/s, 40 ms": {"rate": 50e6, "delay": 0.02, "queue": 1 << 19},
    "100 Mbit/s, 50 ms, 0.1 % lost": {
        "rate": 100e6,
        "delay": 0.025,
        "loss": 0.001,
        "queue": 1 << 20,
    },
}
"""By rate and round trip; the queue is of some 30 to 130 ms."""


def _bulk(link: str, way: str, seconds: float, site: Site, running: Running) -> Figures:
    assert running.link is not None
    running.link.set(**LINKS[link])
    (line,) = site.load(running.host, "bulk", way, 1, seconds)
    size, took = map(float, line.split())
    figure = Figure("links", f"{link}: {way} 1", "Mbit/s", higher_is_better=True, digits=0)
    yield figure, size * 8 / took / 1e6


def _echo(link: str, seconds: float, site: Site, running: Running) -> Figures:
    assert running.link is not None
    running.link.set(**LINKS[link])
    with site.start_load(running.host, "bulk", "up", 4, seconds + 3) as bulk:
        time.sleep(2)
        times = [float(x) / 1000 for x in site.load(running.host, "ping", 20_000, seconds)]
        bulk.succeed(180)
    name = f"{link}: echo under bulk up"
    yield Figure("links", f"{name}, median", "ms", digits=0), statistics.median(times)
    yield Figure("links", f"{name}, p99", "ms", digits=0), quantile(times, 0.99)


def links(settings: Settings) -> Iterator[Step]:
    """Yield the steps; their contenders are up on hosts with links."""
    for link in LINKS:
        seconds = max(settings.seconds, 5.0)
        for way in ("up", "down"):
            yield Step("links", f"{link} {way}", partial(_bulk, link, way, seconds))
        yield Step("links", f"{link} echo", partial(_echo, link, settings.seconds))
