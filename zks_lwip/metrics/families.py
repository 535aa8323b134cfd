"""Metrics from counters, by their names: ``bytes_up`` is bytes with the direction up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .._version import __version__
from ..net.histogram import Histogram

__all__ = ["build_info", "counters", "gauge", "histogram", "labelled"]

_DIRECTIONS = ("up", "down", "in", "out")


def build_info() -> Metric:
    """Return which version this is."""
    family = GaugeMetricFamily("zks_lwip_build_info", "The version that runs.", labels=["version"])
    family.add_metric([__version__], 1)
    return family


def gauge(name: str, what: str, value: float) -> Metric:
    """Return a number that goes up and down."""
    return GaugeMetricFamily(f"zks_lwip_{name}", what, value=value)


def labelled(
    name: str, what: str, label: str, values: Mapping[str, float], *, counter: bool = True
) -> Metric:
    """Return one number for each value of a label."""
    kind = CounterMetricFamily if counter else GaugeMetricFamily
    family = kind(f"zks_lwip_{name}", what, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def histogram(name: str, what: str, values: Histogram, *, changes: bool = False) -> Metric:
    """Return how often there was which value.

    :param changes: it tells of what is there now, and so may fall.
    """
    total, buckets = 0, []
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        total += count
        buckets.append((bound, total))
    if changes:
        return GaugeHistogramMetricFamily(
            f"zks_lwip_{name}", what, buckets=buckets, gsum_value=values.sum
        )
    return HistogramMetricFamily(f"zks_lwip_{name}", what, buckets=buckets, sum_value=values.sum)


def counters(
    part: str,
    values: Mapping[str, Any],
    *,
    gauges: Collection[str] = (),
    reasons: Mapping[str, str] | None = None,
) -> Iterator[Metric]:
    """Yield metrics of all numbers that a part has counted.

    :param part: what names begin with.
    :param gauges: the names of those that go up and down.
    :param reasons: of names that begin with a key, which have the rest of it as their reason, the
        name of the metric.
    """
    by_reason: dict[str, dict[str, float]] = {}
    by_direction: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        stem, _, last = name.rpartition("_")
        prefix = next((each for each in reasons or {} if name.startswith(each)), None)
        if reasons is not None and prefix is not None:
            reason = name.removeprefix(prefix).strip().replace(" ", "_")
            by_reason.setdefault(reasons[prefix], {})[reason] = value
        elif name in gauges:
            yield gauge(f"{part}_{name}", f"{_words(name)} now ({part}).", value)
        elif stem and last in _DIRECTIONS:
            by_direction.setdefault(stem, {})[last] = value
        else:
            what = f"{_words(name)} since the start ({part})."
            yield CounterMetricFamily(f"zks_lwip_{part}_{name}", what, value=value)
    for name, found in by_direction.items():
        yield labelled(f"{part}_{name}", f"{_words(name)} ({part}).", "direction", found)
    for name, found in by_reason.items():
        yield labelled(f"{part}_{name}", f"{_words(name)}, by reason ({part}).", "reason", found)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
