"""What has been measured: values of each contender, their medians, spread and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["STEAL_LIMIT", "Figure", "Results", "quantile", "ratio", "spread"]

STEAL_LIMIT = 0.01
"""Share of the CPU's time that others may take (steal) before a value is marked."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    group: str
    """The measure that it belongs to."""
    name: str
    unit: str
    higher_is_better: bool = False
    digits: int = 2
    """After the point, in the table."""

    def __str__(self) -> str:
        return f"{self.name}, {self.unit}"


def spread(values: Sequence[float]) -> float:
    """Return half of the range of the values, as a share of their median; 0 for one value."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def ratio(figure: Figure, value: float, reference: float) -> float | None:
    """Return how many times as good a value is as a reference: above 1 is better.

    :returns: None where one of the two is 0.
    """
    if not value or not reference:
        return None
    return value / reference if figure.higher_is_better else reference / value


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed (the nearest rank).

    :raises ValueError: there are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Results:
    """All values of a sitting, in the order in which they came."""

    contenders: list[str]
    values: dict[Figure, dict[str, list[float]]] = field(default_factory=dict)
    marked: set[tuple[Figure, str]] = field(default_factory=set)
    """Those that were measured while others took the CPU."""
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """By step and contender: what went wrong first."""
    steal: float = 0.0
    """The largest share of the CPU's time that others took during a step."""

    def add(self, figure: Figure, contender: str, value: float, steal: float = 0.0) -> None:
        """Note a value.

        :param steal: share of the CPU's time that others took meanwhile.
        """
        self.values.setdefault(figure, {}).setdefault(contender, []).append(value)
        self.steal = max(self.steal, steal)
        if steal > STEAL_LIMIT:
            self.marked.add((figure, contender))

    def fail(self, step: str, contender: str, message: str) -> None:
        """Note that a contender did not do a step; the first reason is kept."""
        self.failures.setdefault((step, contender), message)

    def median(self, figure: Figure, contender: str) -> float | None:
        """Return the median of a contender's values, None where there are none."""
        values = self.values.get(figure, {}).get(contender)
        return statistics.median(values) if values else None

    def spread(self, figure: Figure, contender: str) -> float:
        """Return :func:`spread` of a contender's values."""
        return spread(self.values[figure][contender])

    def ratio(self, figure: Figure, contender: str, reference: str) -> float | None:
        """Return how many times as good a contender's median is as that of another."""
        value, other = self.median(figure, contender), self.median(figure, reference)
        return None if value is None or other is None else ratio(figure, value, other)
