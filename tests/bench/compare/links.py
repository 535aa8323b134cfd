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


def _link(rate: float, delay: float, queue: int, loss: float = 0.0) -> dict[str, float]:
    """Every setting: none stays as the link before had it."""
    return {"rate": rate, "delay": delay, "queue": queue, "loss": loss}


LINKS = {
    "1 Gbit/s, 10 ms": _link(1e9, 0.005, 4 << 20),
    "1 Gbit/s, 100 ms": _link(1e9, 0.05, 16 << 20),
    "50 Mbit/s, 40 ms": _link(50e6, 0.02, 1 << 19),
    "100 Mbit/s, 50 ms, 0.1 % lost": _link(100e6, 0.025, 1 << 20, loss=0.001),
}
"""By rate and round trip; the queue is of some 30 to 130 ms."""
_SLOW = 100e6
"""Bits a second: below, the queue is what is looked at, else how much is carried."""


def _bulk(
    link: str, way: str, streams: int, seconds: float, site: Site, running: Running
) -> Figures:
    assert running.link is not None
    running.link.set(**LINKS[link])
    (line,) = site.load(running.host, "bulk", way, streams, seconds)
    size, took = map(float, line.split())
    figure = Figure("links", f"{link}: {way} {streams}", "Mbit/s", higher_is_better=True, digits=0)
    yield figure, size * 8 / took / 1e6


def _idle(link: str, seconds: float, site: Site, running: Running) -> Figures:
    assert running.link is not None
    running.link.set(**LINKS[link])
    times = [float(x) / 1000 for x in site.load(running.host, "ping", 20_000, seconds)]
    yield Figure("links", f"{link}: echo, median", "ms"), statistics.median(times)


def _loaded(link: str, seconds: float, site: Site, running: Running) -> Figures:
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
    for link, shape in LINKS.items():
        if shape["rate"] < _SLOW:
            yield Step("links", f"{link} echo", partial(_loaded, link, settings.link_seconds))
            continue
        if not shape["loss"]:
            yield Step("links", f"{link} echo", partial(_idle, link, settings.seconds))
        for streams in (1,) if shape["loss"] else (1, 8):
            for way in ("up", "down"):
                work = partial(_bulk, link, way, streams, settings.link_seconds)
                yield Step("links", f"{link} {way} {streams}", work)
