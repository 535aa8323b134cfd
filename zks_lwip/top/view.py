"""One frame of the screen, by rich: as much as its width and height hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..daemon.states import State
from .model import SORTS, Model, Row, clean, drops

__all__ = ["amount", "frame", "next_sort", "plain_only", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "._-=+*#@"
_COLORS = {
    State.CONNECTED.value: "bold green",
    State.PAUSED.value: "bold yellow",
    State.LOST.value: "bold red",
    State.DEAD_OPEN.value: "bold red",
    State.DEAD_CLOSED.value: "bold red",
}
_UNITS = ("", "K", "M", "G", "T")
_KEYS = "q quit  s sort  r reverse  / filter  ↑↓ select  x close  space hold"
_PLAIN_KEYS = "q quit  s sort  r reverse  / filter  j k select  x close  space hold"
_HIT_COUNTERS = ("cache_hits", "repeated", "static", "hosts")


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    least: int
    """The narrowest screen that has it."""


_COLUMNS = (
    _Column("PROGRAM", 12, 70),
    _Column("PID", 7, 80),
    _Column("PROTO", 5, 50),
    _Column("TARGET", 0, 0),
    _Column("RATE", 8, 30),
    _Column("DOWN", 8, 60),
    _Column("UP", 8, 64),
    _Column("AGE", 6, 44),
    _Column("STATE", 10, 100),
)


def amount(value: float) -> str:
    """Return a number of bytes in at most five characters: ``17``, ``4.2K``, ``380M``."""
    number = 0
    while value >= 999.5 and number < len(_UNITS) - 1:
        value, number = value / 1000, number + 1
    return (
        f"{value:.0f}{_UNITS[number]}"
        if not number or value >= 99.5
        else (f"{value:.1f}{_UNITS[number]}")
    )


def _age(seconds: float) -> str:
    whole = int(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole / size:.1f}{unit}"
    return f"{whole}s"


def sparkline(values: Iterable[float], width: int, *, plain: bool = False) -> str:
    """Return the last values as bars, the highest of them a full one; empty for no width.

    :param plain: with characters of ASCII.
    """
    bars = _PLAIN_BARS if plain else _BARS
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    if top <= 0:
        return bars[0] * len(shown)
    return "".join(bars[min(len(bars) - 1, int(value / top * len(bars)))] for value in shown)


def frame(
    model: Model, width: int, height: int, *, plain: bool = False, still: bool = False
) -> RenderableType:
    """Return a frame that fits into ``width`` columns and ``height`` lines.

    :param plain: only characters of ASCII are drawn, but for what others have named.
    :param still: no keys are read: the frame ends with its last flow.
    """
    head = _head(model, width, plain)
    foot = [] if still else _foot(model, plain)
    room = max(0, height - len(head) - len(foot))
    table = [_table(model, width, room, still)] if room > 1 else []
    lines: list[RenderableType] = [*head, *table, *foot]
    return Group(*(lines if table else lines[: max(1, height)]))


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _head(model: Model, width: int, plain: bool) -> list[RenderableType]:
    status = model.status
    state = str(status.get("state", "?"))
    line = _line(state, _COLORS.get(state, "bold"))
    if status.get("tunnel") is None:
        line.append(f"  {clean(str(status.get('problem', '')))}", "default")
        return [line]
    worker = "the embedded worker" if status["embedded"] else clean(str(status["worker"]))
    line.append(f"  {status['interface']} {'->' if plain else '→'} {worker}", "default")
    trips = [each["round_trip"] for each in status["sessions"] if each["round_trip"]]
    if trips:
        line.append(f"  {min(trips) * 1e3:.0f} ms", "cyan")
    line.append(f"  for {_age(status['state_seconds'])}", "default")
    lines: list[RenderableType] = [line]
    if status["problem"]:
        lines.append(_line(clean(str(status["problem"])), "red"))
    for name, values, style in (("down", model.down, "green"), ("up", model.up, "magenta")):
        now = values[-1] if values else 0.0
        total = status["traffic"][f"bytes_{name}"] + status["traffic"][f"datagram_bytes_{name}"]
        text = f"{name:<4} {amount(now) + 'B/s':>8} "
        tail = f" {amount(total)}B"
        bars = sparkline(values, width - len(text) - len(tail), plain=plain)
        row = _line(text)
        row.append(bars, style)
        row.append(tail)
        lines.append(row)
    lines.append(_dns(model))
    found = drops(status)
    if found:
        told = "  ".join(f"{name} {count}" for name, count in found.items())
        lines.append(_line(f"drops  {told}", "yellow"))
    return lines


def _dns(model: Model) -> Text:
    dns = model.status["stats"].get("dns", {})
    asked = dns.get("udp", 0) + dns.get("tcp", 0) + dns.get("repeated", 0)
    hits = sum(dns.get(name, 0) for name in _HIT_COUNTERS)
    part = f"{hits / asked * 100:.0f} %" if asked else "–"
    line = _line(f"DNS  {model.queries:.1f}/s  hits {part}")
    if model.slowest:
        slow = "  ".join(f"{clean(str(n))} {s * 1e3:.0f} ms" for n, s in model.slowest)
        line.append(f"  slowest {slow}")
    return line


def _foot(model: Model, plain: bool) -> list[RenderableType]:
    if model.typing:
        return [_line(f"filter: {model.filter}_", "reverse")]
    if model.message:
        return [_line(clean(model.message), "bold yellow")]
    order = f"{model.sort}{' reversed' if model.reverse else ''}"
    filtered = f"  filter {clean(model.filter)!r}" if model.filter else ""
    return [_line(f"by {order}{filtered}  {_PLAIN_KEYS if plain else _KEYS}", "dim")]


def _table(model: Model, width: int, room: int, still: bool) -> Table:
    """Return the flows that ``room`` lines hold, the selected one among them."""
    rows = model.shown()
    fit = room - 1
    model.selected = max(0, min(model.selected, len(rows) - 1))
    first = max(0, min(model.selected - fit // 2, len(rows) - fit))
    columns = [column for column in _COLUMNS if width >= column.least]
    table = Table(
        box=None, padding=(0, 1, 0, 0), expand=True, header_style="reverse", pad_edge=False
    )
    for column in columns:
        hidden = len(rows) - fit + model.left_out
        title = column.title
        if title == "TARGET":
            more = ", more" if hidden > 0 else " flow" if len(rows) == 1 else " flows"
            title = f"TARGET ({len(rows)}{more})"
            table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis", min_width=4)
        else:
            right = title in ("PID", "RATE", "DOWN", "UP", "AGE")
            table.add_column(
                title,
                width=column.width,
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if right else "left",
            )
    for number, row in enumerate(rows[first : first + fit], first):
        style = "reverse" if number == model.selected else _style(row)
        table.add_row(*(_cell(row, column.title) for column in columns), style=style)
    for _ in range(0 if still else fit - len(rows)):
        table.add_row()  # so that the last line is at the bottom
    return table


def _style(row: Row) -> str:
    if row.state == "connecting":
        return "yellow"
    return "" if row.rate else "dim"


def _cell(row: Row, title: str) -> Text:
    texts: dict[str, str] = {
        "PROGRAM": row.program,
        "PID": "" if row.pid is None else str(row.pid),
        "PROTO": row.protocol,
        "TARGET": row.target,
        "RATE": f"{amount(row.rate)}/s" if row.rate else "",
        "DOWN": amount(row.down),
        "UP": amount(row.up),
        "AGE": _age(row.seconds),
        "STATE": row.state if row.via == "tunnel" else f"{row.state} {row.via}",
    }
    return Text(texts[title])


def next_sort(sort: str) -> str:
    """Return what is sorted by after the next press of the key."""
    return SORTS[(SORTS.index(sort) + 1) % len(SORTS)]


def plain_only(encoding: str | None) -> bool:
    """Return whether an output cannot draw more than ASCII."""
    try:
        _BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
