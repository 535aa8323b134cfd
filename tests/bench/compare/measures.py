"""What is measured, in steps: each gives some figures of one contender that is up."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tests.bench.compare.figures import Figure, quantile
from tests.bench.compare.site import Running, Site
from tests.kits.netns.child import Child

__all__ = ["MEASURES", "Settings", "Step", "highest", "parts"]

Figures = Iterable[tuple[Figure, float]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is done for one value."""

    seconds: float = 1.0
    """Of bulk, of pings, of connections and of DNS."""
    flows: int = 20_000
    """Connections that are open at a time, where descriptors suffice."""
    descriptors: int = 1_000_000
    """For connections, of each process."""

    @property
    def processes(self) -> int:
        """How many it takes to have that many flows open."""
        return -(-self.flows // self.descriptors)

    streams: tuple[int, ...] = (1, 8, 64)
    ways: tuple[str, ...] = ("up", "down", "both")
    udp_seconds: float = 0.5
    """Of datagrams at one rate."""
    link_seconds: float = 2.0
    """Of bulk over an emulated link; over a long one it is more."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is measured in one go."""

    group: str
    name: str
    work: Callable[[Site, Running], Figures]
    udp: bool = False
    """Needs datagrams."""
    fresh: bool = False
    """Needs a contender that has done nothing yet."""
    once: bool = False
    """Gives the same in every round, and takes long: it is done in the first alone."""
    processes: int = 1
    """Of the contender's server, where it can have several; those that it needs to be fresh."""
    link: Mapping[str, float] | None = None
    """What the contender's link is set to, before it comes up; None: there is none."""

    @property
    def measure(self) -> str:
        """What the command line calls the group."""
        return self.group.lower()

    def __str__(self) -> str:
        return f"{self.group} {self.name}"


def _throughput(
    way: str, streams: int, seconds: float, site: Site, running: Running
) -> Iterator[tuple[Figure, float]]:
    before = running.cpu()
    (line,) = site.load(running.host, "bulk", way, streams, seconds)
    after = running.cpu()
    size, took = map(float, line.split())
    name = f"{way} {streams}"
    yield Figure("throughput", name, "Gbit/s", higher_is_better=True), size * 8 / took / 1e9
    for role, used in after.items():
        yield Figure("CPU", f"{name}, {role}", "s/GB"), (used - before[role]) / (size / 1e9)


def throughput(settings: Settings) -> Iterator[Step]:
    for way in settings.ways:
        for streams in settings.streams:
            work = partial(_throughput, way, streams, settings.seconds)
            yield Step("throughput", f"{way} {streams}", work)


def _idle(seconds: float, site: Site, running: Running) -> Figures:
    times = [float(line) for line in site.load(running.host, "ping", 20_000, seconds)]
    yield Figure("latency", "idle, median", "µs", digits=0), statistics.median(times)
    yield Figure("latency", "idle, p99", "µs", digits=0), quantile(times, 0.99)


def _loaded(way: str, seconds: float, site: Site, running: Running) -> Figures:
    with site.start_load(running.host, "bulk", way, 4, seconds + 2) as bulk:
        time.sleep(1)
        times = [float(line) for line in site.load(running.host, "ping", 20_000, seconds)]
        bulk.succeed(120)
    milliseconds = [value / 1000 for value in times]
    name = f"under bulk {way}"
    yield Figure("latency", f"{name}, median", "ms"), statistics.median(milliseconds)
    yield Figure("latency", f"{name}, p99", "ms"), quantile(milliseconds, 0.99)


def latency(settings: Settings) -> Iterator[Step]:
    yield Step("latency", "idle", partial(_idle, settings.seconds))
    for way in ("up", "down"):
        yield Step("latency", f"under bulk {way}", partial(_loaded, way, settings.seconds))


def _connections(at_once: int, seconds: float, site: Site, running: Running) -> Figures:
    before = running.cpu()
    (line,) = site.load(running.host, "connect", at_once, 30_000, seconds)
    after = running.cpu()
    count, took = map(float, line.split())
    name = f"{at_once} at a time"
    yield Figure("connections", name, "a second", higher_is_better=True, digits=0), count / took
    for role, used in after.items():
        each = (used - before[role]) / count * 1e6
        yield Figure("connections", f"{name}, CPU of {role}", "µs each", digits=0), each


def connections(settings: Settings) -> Iterator[Step]:
    for at_once in (1, 32):
        work = partial(_connections, at_once, settings.seconds)
        yield Step("connections", f"{at_once} at a time", work)


def _pings(hold: Child, count: int) -> list[float]:
    """Have ``load hold`` ping on random flows: microseconds."""
    assert hold.process.stdin is not None
    hold.process.stdin.write(f"{count}\n".encode())
    hold.process.stdin.flush()
    hold.wait_for("^done$", 60)
    return [float(line) for line in list(hold.stdout) if line[:1].isdigit()]


def _flows(settings: Settings, site: Site, running: Running) -> Figures:
    """Memory of flows, and what a packet of a random one costs where there are few and many."""
    few, pings, processes = 10, 3000, settings.processes
    each_process = settings.descriptors // running.contender.descriptors
    served = each_process * (processes if running.contender.spreads else 1)
    count = min(settings.flows, served)
    yield Figure("flows", "open", "flows", higher_is_better=True, digits=0), count
    cost: dict[tuple[str, int], float] = {}
    trip: dict[int, float] = {}
    memory = running.memory()
    for flows in (few, count):
        with ExitStack() as stack:
            holds = [
                stack.enter_context(
                    site.start_load(running.host, "hold", part, stdin=subprocess.PIPE)
                )
                for part in parts(flows, processes)
            ]
            for hold in holds:
                hold.wait_for("^open$", 120)
            time.sleep(1)
            if flows == few:
                memory = running.memory()
            else:
                for role, now in running.memory().items():
                    each = (now - memory[role]) / count
                    name = f"memory of each, {role}"
                    yield Figure("flows", name, "bytes", digits=0), each
            before = running.cpu()
            times = [each for hold in holds for each in _pings(hold, pings // processes)]
            trip[flows] = statistics.median(times)
            for role, used in running.cpu().items():
                cost[role, flows] = (used - before[role]) / len(times)
            for hold in holds:
                hold.process.kill()
                hold.wait()
    name = f"round trip, of all against {few}"
    yield Figure("flows", name, "times"), trip[count] / trip[few]
    for role in running.processes:
        if cost[role, few]:
            name = f"CPU of a round trip, of all against {few}, {role}"
            yield Figure("flows", name, "times"), cost[role, count] / cost[role, few]


def parts(count: int, into: int) -> list[int]:
    """Return a number in so many parts that differ by one at most."""
    return [(count + number) // into for number in range(into)]


def flows(settings: Settings) -> Iterator[Step]:
    yield Step(
        "flows",
        "many",
        partial(_flows, settings),
        fresh=True,
        once=True,
        processes=settings.processes,
    )


UDP_RATES = tuple(
    1000 * rate for rate in (5, 10, 20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 200, 250, 300)
)
UDP_LOSS = 0.001
"""Share of datagrams that counts as none lost."""


def _udp(way: str, seconds: float, site: Site, running: Running) -> Figures:
    """Find the highest rate at which no datagrams are lost, and that the load can send."""

    def carried(rate: int) -> float | None:
        (line,) = site.load(running.host, "udp", way, rate, seconds)
        sent, received = map(int, line.split())
        enough = sent >= 0.95 * rate * seconds and received >= (1 - UDP_LOSS) * sent
        return received / seconds if enough else None

    figure = Figure("UDP", f"{way}, without loss", "datagrams/s", higher_is_better=True, digits=0)
    yield figure, highest(UDP_RATES, carried)


def highest(rates: Sequence[int], carried: Callable[[int], float | None]) -> float:
    """Return what is carried at the highest rate at which all is, 0.0 where none is.

    The rates are halved; one that fails is tried once more.

    :param carried: tries a rate; None: it fails.
    """
    best, low, high = 0.0, 0, len(rates)
    while low < high:
        middle = (low + high) // 2
        found = carried(rates[middle])
        if found is None:
            found = carried(rates[middle])
        if found is None:
            high = middle
        else:
            best, low = found, middle + 1
    return best


def udp(settings: Settings) -> Iterator[Step]:
    for way in ("up", "down"):
        yield Step("UDP", way, partial(_udp, way, settings.udp_seconds), udp=True)


def _dns(at_once: int, seconds: float, site: Site, running: Running) -> Figures:
    times = [float(line) for line in site.load(running.host, "dns", at_once, seconds)]
    name = f"{at_once} at a time"
    yield (
        Figure("DNS", f"{name}", "answers/s", higher_is_better=True, digits=0),
        len(times) / seconds,
    )
    yield Figure("DNS", f"{name}, median", "µs", digits=0), statistics.median(times)


def dns(settings: Settings) -> Iterator[Step]:
    for at_once in (1, 32):
        yield Step("DNS", f"{at_once}", partial(_dns, at_once, settings.seconds), udp=True)


MEASURES: dict[str, Callable[[Settings], Iterator[Step]]] = {
    "throughput": throughput,
    "latency": latency,
    "connections": connections,
    "flows": flows,
    "udp": udp,
    "dns": dns,
}
"""Those whose contenders are up on a link of the kernel's, in the order of the table."""
