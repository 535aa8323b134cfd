"""How long things took, in a few numbers: counts between fixed bounds, as Prometheus has them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

__all__ = ["LATENCIES", "Histogram"]

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from an answer of the same machine to one that a resolver had to be asked twice for."""


class Histogram:
    """Counts values by the first bound that they do not exceed.

    :param bounds: ascending; what exceeds the last is counted behind it.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = LATENCIES) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """How many values there were up to each bound and above the one before it."""
        self.sum = 0.0
        """Of all values."""

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, other: Histogram) -> None:
        """Add what another one with the same bounds has counted.

        :raises ValueError: the bounds differ.
        """
        if self.bounds != other.bounds:
            raise ValueError("histograms of different bounds cannot be added")
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        self.sum += other.sum

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Histogram:
        """Return the histogram of which :meth:`to_json` has told."""
        histogram = cls(values["bounds"])
        histogram.counts = list(values["counts"])
        histogram.sum = values["sum"]
        return histogram
