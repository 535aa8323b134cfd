"""Results as an SVG: a row of bars for each figure, one for each contender. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from tests.bench.compare.figures import Results

__all__ = ["check_plot", "draw"]

_COLUMNS = 4


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


def draw(results: Results, path: Path, title: str) -> None:
    """Write the plot.

    Each figure has a scale of its own that begins at 0; a whisker is the range of the rounds. What
    is better, higher or lower, stands over it.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a fifth of the size
    matplotlib.rcParams["svg.hashsalt"] = "zks"  # the same values give the same file
    from matplotlib import pyplot

    figures = list(results.values)
    rows = -(-len(figures) // _COLUMNS) or 1
    picture, axes = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.2 * rows + 0.6))
    colours = pyplot.get_cmap("tab10")
    flat = list(axes.flat)
    for figure, axis in zip(figures, flat, strict=False):
        shown = [name for name in results.contenders if name in results.values[figure]]
        medians = [results.median(figure, name) or 0.0 for name in shown]
        ranges = [results.values[figure][name] for name in shown]
        below = [middle - min(values) for middle, values in zip(medians, ranges, strict=True)]
        above = [max(values) - middle for middle, values in zip(medians, ranges, strict=True)]
        bars = [colours(results.contenders.index(name) % 10) for name in shown]
        axis.barh(shown, medians, xerr=[below, above], color=bars, height=0.7)
        axis.invert_yaxis()
        axis.set_xlim(left=0)
        better = "more" if figure.higher_is_better else "less"
        axis.set_title(f"{figure.group}: {figure.name}", fontsize=9)
        axis.set_xlabel(f"{figure.unit} ({better} is better)", fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in flat[len(figures) :]:
        axis.remove()
    picture.suptitle(title, fontsize=10)
    picture.tight_layout()
    picture.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(picture)
