"""What a client measures: a VPN, or a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..net.histogram import Histogram
from ..protocol import Code
from .families import build_info, counters, gauge, histogram, labelled

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["ClientSource", "RunningClient"]

_GAUGES = frozenset(
    "associations blocked_names cache_entries channels channels_resuming flows flows_held "
    "flows_time_wait in_flight memory streams unacknowledged waiting".split()
)


class RunningClient(Protocol):
    """What :class:`zks_lwip.vpn.Vpn` and :class:`zks_lwip.vpn.RunningProxy` have."""

    @property
    def up(self) -> bool:
        """Whether the worker can be reached at this moment."""

    @property
    def problem(self) -> str:
        """Why not."""

    def counters(self) -> dict[str, Any]:
        """Return counters and gauges of each part."""

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker."""

    def sessions(self) -> list[dict[str, Any]]:
        """Return what is known of each session."""


class ClientSource:
    """Measures a client: see :class:`~zks_lwip.metrics.MetricsSource`.

    :param running: returns what is measured; None: it is still being started.
    """

    def __init__(self, running: Callable[[], RunningClient | None]) -> None:
        self._running = running

    def problem(self) -> str | None:
        """Return why nothing would reach the worker; None: it would."""
        running = self._running()
        if running is None:
            return "starting"
        return None if running.up else running.problem or "the worker is away"

    async def families(self) -> Iterable[Metric]:
        """Return all metrics."""
        return tuple(self._families())

    def _families(self) -> Iterator[Metric]:
        running = self._running()
        yield build_info()
        up = running is not None and running.up
        yield gauge("up", "Whether the worker can be reached (1) or not (0).", up)
        if running is None:
            return
        yield from _of_workers(running.workers(), running.sessions())
        stats = running.counters()
        yield gauge("tasks", "Tasks of trio.", stats["tasks"])
        for part, values in stats.items():
            if not isinstance(values, dict):
                continue
            yield from counters(
                part,
                values,
                gauges=_GAUGES,
                reasons={"drop_": "dropped_packets", "rejected ": "rejected"},
            )
            refused = values.get("refused")
            if isinstance(refused, dict):
                what = f"TCP connections that the worker refused, by reason ({part})."
                yield labelled(f"{part}_refused", what, "reason", _by_code(refused))
        latency = getattr(running, "dns_latency", None)
        if isinstance(latency, Histogram):
            what = "Seconds until DNS queries that no cache answers had an answer."
            yield histogram("dns_latency_seconds", what, latency)


def _of_workers(workers: list[dict[str, Any]], sessions: list[dict[str, Any]]) -> Iterator[Metric]:
    yield labelled(
        "worker_in_use",
        "Whether new connections go to a worker.",
        "worker",
        {each["worker"]: each["in_use"] for each in workers},
        counter=False,
    )
    yield labelled(
        "worker_well",
        "Whether nothing is wrong with a worker, as far as is known.",
        "worker",
        {each["worker"]: not each["problem"] for each in workers},
        counter=False,
    )
    yield labelled(
        "worker_connect_seconds",
        "Seconds that it takes to connect to a worker.",
        "worker",
        {each["worker"]: t for each in workers if (t := each["connect_seconds"]) is not None},
        counter=False,
    )
    trips: dict[str, float] = {}
    for each in sessions:
        if each["round_trip"]:
            trips[each["worker"]] = max(trips.get(each["worker"], 0.0), each["round_trip"])
    yield labelled(
        "round_trip_seconds",
        "The longest round trip of a session with a worker, in seconds.",
        "worker",
        trips,
        counter=False,
    )


def _by_code(refused: dict[Any, int]) -> dict[str, float]:
    known = {int(code): code.name.lower() for code in Code}
    named: dict[str, float] = {}
    for code, count in refused.items():  # a worker may send any number: one label for the rest
        name = known.get(int(code), "other")
        named[name] = named.get(name, 0) + count
    return named
