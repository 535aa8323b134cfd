"""Slow and long links, emulated (``tests/kits/netns/emulator.c``): bulk, and echoes beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.bench.compare.figures import Figure, quantile
from tests.bench.compare.measures import Figures, Settings, Step
from tests.bench.compare.site import Running, Site

__all__ = ["LINKS", "LOSSY", "links"]


def _link(rate: float, delay: float, queue: int, loss: float = 0.0) -> dict[str, float]:
    """Every setting: none stays as the link before had it."""
    return {"rate": rate, "delay": delay, "queue": queue, "loss": loss}


LINKS = {
    "1 Gbit/s, 10 ms": _link(1e9, 0.005, 4 << 20),
    "1 Gbit/s, 100 ms": _link(1e9, 0.05, 16 << 20),
    "50 Mbit/s, 40 ms": _link(50e6, 0.02, 1 << 19),
}
"""By rate and round trip; the queue is of some 30 to 130 ms."""
LOSSY = {
    "100 Mbit/s, 50 ms, 0.1 % lost": _link(100e6, 0.025, 1 << 20, loss=0.001),
    "1 Gbit/s, 10 ms, 0.01 % lost": _link(1e9, 0.005, 4 << 20, loss=0.0001),
}
"""For ``loss``, which is measured where it is asked for: there chance decides more."""
_TRIPS = 50
"""Round trips of bulk, at least: of the first dozen a connection makes little."""
_SLOW = 100e6
"""Bits a second: below, the queue is what is looked at, and else how much is carried."""


@dataclass(frozen=True, slots=True)
class _Over:
    """A link, and what the steps over it are called."""

    group: str
    name: str
    shape: dict[str, float]

    def figure(self, name: str, unit: str, *, digits: int, better: bool = False) -> Figure:
        return Figure(self.group, f"{self.name}: {name}", unit, better, digits)

    def step(
        self, name: str, work: Callable[..., Figures], *arguments: object, fresh: bool = False
    ) -> Step:
        whole = f"{self.name} {name}"
        measure = partial(work, self, *arguments)
        return Step(self.group, whole, measure, fresh=fresh, link=self.shape)


def _bulk(
    over: _Over, way: str, streams: int, seconds: float, site: Site, running: Running
) -> Figures:
    (line,) = site.load(running.host, "bulk", way, streams, seconds)
    size, took = map(float, line.split())
    figure = over.figure(f"{way} {streams}", "Mbit/s", digits=0, better=True)
    yield figure, size * 8 / took / 1e6


def _idle(over: _Over, seconds: float, site: Site, running: Running) -> Figures:
    times = [float(x) / 1000 for x in site.load(running.host, "ping", 20_000, seconds)]
    yield over.figure("echo, median", "ms", digits=2), statistics.median(times)


def _loaded(over: _Over, seconds: float, site: Site, running: Running) -> Figures:
    with site.start_load(running.host, "bulk", "up", 4, seconds + 3) as bulk:
        time.sleep(2)
        times = [float(x) / 1000 for x in site.load(running.host, "ping", 20_000, seconds)]
        bulk.succeed(60)
    name = "echo under bulk up"
    yield over.figure(f"{name}, median", "ms", digits=0), statistics.median(times)
    yield over.figure(f"{name}, p99", "ms", digits=0), quantile(times, 0.99)


def links(group: str, shapes: dict[str, dict[str, float]], settings: Settings) -> Iterator[Step]:
    """Yield the steps; their contenders are up on hosts with links."""
    for name, shape in shapes.items():
        over = _Over(group, name, shape)
        seconds = max(settings.link_seconds, _TRIPS * 2 * shape["delay"])
        # Fresh: what was learned of one link is wrong on the next.
        if shape["rate"] < _SLOW:
            yield over.step("echo", _loaded, seconds, fresh=True)
            continue
        yield over.step("echo", _idle, settings.seconds, fresh=True)
        for streams in (1, 8):
            for way in ("up", "down"):
                yield over.step(f"{way} {streams}", _bulk, way, streams, seconds)
