"""Results as an SVG: bars for each figure, one for each contender. Needs matplotlib."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.compare.figures import Figure, Results

__all__ = ["check_plot", "draw", "panels"]

_COLUMNS = 12
"""Clusters of bars in a row of panels; one that has more has a row for itself."""
_WIDE = 8.0
"""Times the median bar: where less is better and one is longer, the scale is logarithmic."""
_LABEL = 14
"""Characters of a line below a cluster."""


def check_plot() -> None:
    """Check that it can be drawn, before anything is measured.

    :raises SystemExit: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit(
            "--plot needs matplotlib: install it (pip install '.[bench]'), or leave it out"
        ) from None


def panels(results: Results) -> Iterator[list[list[Figure]]]:
    """Yield rows of panels: the figures of a group that have a unit share one."""
    by_unit: dict[tuple[str, str, bool], list[Figure]] = {}
    for figure in results.values:
        if len(results.values[figure]) > 1:  # one bar is no comparison
            key = figure.group, figure.unit, figure.higher_is_better
            by_unit.setdefault(key, []).append(figure)
    row: list[list[Figure]] = []
    for figures in by_unit.values():
        if row and sum(map(len, row)) + len(figures) > _COLUMNS:
            yield row
            row = []
        row.append(figures)
    if row:
        yield row


def draw(results: Results, path: Path, title: str) -> None:
    """Write the plot.

    Each panel has a scale of its own, from 0 or logarithmic; a whisker is the range of the rounds.
    What is better, higher or lower, stands over it. What only one contender does is left to the
    table.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a fifth of the size
    matplotlib.rcParams["svg.hashsalt"] = "zks"  # the same values give the same file
    from matplotlib import pyplot

    rows = list(panels(results)) or [[[]]]
    picture = pyplot.figure(figsize=(13, 2.7 * len(rows) + 0.8), facecolor="white")
    grid = picture.add_gridspec(len(rows), 1)
    for place, row in zip(grid, rows, strict=True):
        widths = [len(figures) + 1 for figures in row]
        inner = place.subgridspec(1, len(row), width_ratios=widths)
        for cell, figures in zip(inner, row, strict=True):
            if figures:
                _panel(results, figures, picture.add_subplot(cell))
    colours = pyplot.get_cmap("tab10")
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=colours(number % 10))
        for number in range(len(results.contenders))
    ]
    picture.suptitle(title, fontsize=10)
    picture.tight_layout(rect=(0, 0, 1, 1 - 0.55 / picture.get_figheight()))
    picture.legend(
        handles,
        results.contenders,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.3 / picture.get_figheight()),
        ncols=len(results.contenders) or 1,
        fontsize=9,
        frameon=False,
    )
    picture.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(picture)
    # matplotlib ends lines with spaces.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(map(str.rstrip, text.split("\n"))), encoding="utf-8")


def _panel(results: Results, figures: Sequence[Figure], axis: object) -> None:
    """Draw a cluster of bars for each figure."""
    from matplotlib import pyplot
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    colours = pyplot.get_cmap("tab10")
    width = 0.86 / len(results.contenders)
    for number, name in enumerate(results.contenders):
        there = [at for at, figure in enumerate(figures) if name in results.values[figure]]
        values = [results.values[figures[at]][name] for at in there]
        medians = [results.median(figures[at], name) or 0.0 for at in there]
        below = [middle - min(all_) for middle, all_ in zip(medians, values, strict=True)]
        above = [max(all_) - middle for middle, all_ in zip(medians, values, strict=True)]
        places = [at - 0.43 + (number + 0.5) * width for at in there]
        colour = colours(number % 10)
        axis.bar(
            places,
            medians,
            width,
            yerr=[below, above],
            color=colour,
            error_kw={"elinewidth": 0.6, "ecolor": "#444444"},
        )
    labels = [textwrap.fill(figure.name, _LABEL) for figure in figures]
    axis.set_xticks(range(len(figures)), labels, fontsize=7)
    axis.set_xlim(-0.6, len(figures) - 0.4)
    every = [one for figure in figures for one in results.values[figure].values()]
    medians = sorted(statistics.median(values) for values in every)
    wide = not figures[0].higher_is_better and medians[-1] > _WIDE * statistics.median(medians)
    if wide and medians[0] > 0:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    better = "more" if figures[0].higher_is_better else "less"
    axis.set_title(f"{figures[0].group}, {figures[0].unit} ({better} is better)", fontsize=8.5)
