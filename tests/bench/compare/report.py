"""Results as a Markdown table and as JSON, which can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.bench.compare.figures import STEAL_LIMIT, Figure, Results

__all__ = ["add_json", "as_json", "markdown"]

_FAILED = "failed"


def markdown(results: Results, reference: str | None, about: Mapping[str, str]) -> str:
    """Return the table, what it was made on, and what failed.

    :param reference: the contender that the others' ratios refer to; None: no ratios.
    :param about: lines to say before, by what they are.
    """
    lines = [f"{key}: {value}  " for key, value in about.items()]
    lines.append("median ± half of the range; " + _legend(reference) + "  ")
    if results.steal > STEAL_LIMIT:
        lines.append(
            f"\\* measured while other machines took up to {results.steal:.0%} of this one's CPU  "
        )
    lines.append("")
    rows = [["", *results.contenders], *_rows(results, reference)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0:
            rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
            lines.append("|" + "|".join(rules) + "|")
    if results.failures:
        lines.append("")
        told = _told(results)
        lines += [f"- {contender}: {message} ({steps})" for contender, message, steps in told]
    return "\n".join(lines) + "\n"


def _told(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield each contender, what went wrong with it, and in which steps."""
    steps: dict[tuple[str, str], list[str]] = {}
    for (step, contender), message in results.failures.items():
        steps.setdefault((contender, message), []).append(step)
    for (contender, message), names in steps.items():
        yield contender, message, ", ".join(names)


def _legend(reference: str | None) -> str:
    if reference is None:
        return "no ratios"
    return f"in brackets how many times as good as {reference}"


def _rows(results: Results, reference: str | None) -> Iterator[list[str]]:
    group = ""
    groups = list(dict.fromkeys(figure.group for figure in results.values))
    for figure in sorted(results.values, key=lambda figure: groups.index(figure.group)):
        if figure.group != group:
            group = figure.group
            yield [f"**{group}**", *("" for _ in results.contenders)]
        yield [
            str(figure),
            *(_cell(results, figure, name, reference) for name in results.contenders),
        ]


def _cell(results: Results, figure: Figure, contender: str, reference: str | None) -> str:
    value = results.median(figure, contender)
    if value is None:
        prefix = figure.group
        if prefix == "CPU":  # comes with the throughput
            prefix = f"throughput {figure.name.rpartition(', ')[0]}"
        steps = {step for step, name in results.failures if name == contender}
        return _FAILED if any(step.startswith(prefix) for step in steps) else "–"
    text = f"{value:,.{figure.digits}f}"
    if (figure, contender) in results.marked:
        text += "*"
    if len(results.values[figure][contender]) > 1:
        text += f" ±{results.spread(figure, contender):.0%}"
    if reference is not None and contender != reference:
        times = results.ratio(figure, contender, reference)
        text += "" if times is None else f" ({_times(times)})"
    return text


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.2g}×"


def as_json(results: Results, reference: str | None, about: Mapping[str, str]) -> dict[str, Any]:
    """Return everything, every single value included, for ``json.dumps``."""
    figures = []
    for figure, by_contender in results.values.items():
        contenders = {
            name: {
                "values": values,
                "median": results.median(figure, name),
                "spread": results.spread(figure, name),
                "ratio": None if reference is None else results.ratio(figure, name, reference),
                "steal": (figure, name) in results.marked,
            }
            for name, values in by_contender.items()
        }
        figures.append(
            {
                "group": figure.group,
                "name": figure.name,
                "unit": figure.unit,
                "higher_is_better": figure.higher_is_better,
                "digits": figure.digits,
                "contenders": contenders,
            }
        )
    failures = [
        {"step": step, "contender": contender, "message": message}
        for (step, contender), message in results.failures.items()
    ]
    return {
        "about": dict(about),
        "contenders": results.contenders,
        "reference": reference,
        "largest_steal": results.steal,
        "figures": figures,
        "failures": failures,
    }


def add_json(results: Results, told: Mapping[str, Any]) -> None:
    """Add what :func:`as_json` gave for another piece of the sitting.

    :raises KeyError: it is something else.
    """
    results.contenders += [name for name in told["contenders"] if name not in results.contenders]
    results.steal = max(results.steal, told["largest_steal"])
    for one in told["figures"]:
        names = ("group", "name", "unit", "higher_is_better", "digits")
        figure = Figure(**{name: one[name] for name in names})
        for contender, values in one["contenders"].items():
            for value in values["values"]:
                results.add(figure, contender, value)
            if values["steal"]:
                results.marked.add((figure, contender))
    for failure in told["failures"]:
        results.fail(failure["step"], failure["contender"], failure["message"])
