"""What a worker measures, in one process or in several."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ..worker.stats import TokenStats, WorkerStats
from .families import build_info, gauge, histogram, labelled

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["WorkerSource"]


class WorkerSource:
    """Measures a worker: see :class:`~zks_lwip.metrics.MetricsSource`.

    :param stats: returns its numbers, and those of how many processes they are.
    :param problem: returns why it takes no sessions; None: it does.
    """

    def __init__(
        self,
        stats: Callable[[], Awaitable[tuple[WorkerStats, int]]],
        problem: Callable[[], str | None],
    ) -> None:
        self._stats = stats
        self._problem = problem

    def problem(self) -> str | None:
        """Return why it takes no sessions; None: it does."""
        return self._problem()

    async def families(self) -> Iterable[Metric]:
        """Return all metrics."""
        return tuple(_families(*await self._stats()))


def _families(stats: WorkerStats, processes: int) -> Iterator[Metric]:
    yield build_info()
    yield gauge("worker_processes", "Processes of the worker that answer.", processes)
    for name, what, counter in _TOKENS:
        values = {token.name: float(getattr(token, name)) for token in stats.tokens}
        yield labelled(f"worker_{name}", what, "token", values, counter=counter)
    for name, what in _DIRECTED:
        yield _directed(f"worker_{name}", what, name, stats.tokens)
    yield gauge(
        "worker_handshakes", "Connections that have not shown a token yet.", stats.handshakes
    )
    yield labelled(
        "worker_sessions_begun",
        "Sessions that were opened, and how often one was resumed.",
        "how",
        {"opened": stats.sessions_opened, "resumed": stats.sessions_resumed},
    )
    refused = {why.replace(" ", "_"): float(count) for why, count in stats.refused.items()}
    what = "Requests that did not become sessions, by reason."
    yield labelled("worker_refused", what, "reason", refused)
    what = "Lines of the access log that were lost."
    yield labelled("worker_access_log", what, "what", {"lost": stats.access_log_lost})
    what = "Seconds that DNS queries of clients took at the worker."
    yield histogram("worker_dns_latency_seconds", what, stats.dns)
    what = "Round trips of the sessions that there are, in seconds."
    yield histogram("worker_round_trip_seconds", what, stats.round_trips, changes=True)
    if stats.certificate_expires is not None:
        what = "When the certificate ends, in seconds since 1970."
        yield gauge("worker_certificate_expiry_seconds", what, stats.certificate_expires)


_TOKENS = (
    ("sessions", "Sessions that are held, by the name of their token.", False),
    ("detached", "Sessions whose client is away.", False),
    ("streams", "TCP connections.", False),
    ("kept", "Bytes that are kept for clients that may come back.", False),
    ("streams_opened", "TCP connections that were asked for.", True),
    ("datagrams_dropped", "UDP datagrams that were dropped.", True),
    ("dns_refused", "DNS queries that were too many at once.", True),
)
_DIRECTED = (
    ("bytes", "Payload of TCP in bytes; up is from the client."),
    ("datagrams", "UDP datagrams; up is from the client."),
)


def _directed(metric: str, what: str, name: str, tokens: Iterable[TokenStats]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"zks_lwip_{metric}", what, labels=["token", "direction"])
    for token in tokens:
        for direction in ("up", "down"):
            family.add_metric([token.name, direction], getattr(token, f"{name}_{direction}"))
    return family
