"""Draws README's picture: ``python .github/picture.py`` writes ``picture.svg`` beside itself."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 860, 250
TOP, TALL = 62, 58
"""The upper row of boxes, and how tall a box is."""
BELOW = 166

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif }
text { fill: #1f2328; text-anchor: middle }
.small { font-size: 11px; fill: #59636e }
.frame { fill: none; stroke: #8c959f; stroke-dasharray: 4 3 }
.box { fill: #f6f8fa; stroke: #8c959f }
.ours { fill: #ddf4ff; stroke: #0969da }
.flow { fill: none; stroke: #0969da; stroke-width: 1.5 }
.flow { marker-end: url(#end); marker-start: url(#start) }
.tip { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .box { fill: #212830; stroke: #656c76 }
.ours { fill: #0c2d6b; stroke: #4493f8 } .flow { stroke: #4493f8 } .tip { fill: #4493f8 }
}
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of text, centred at ``x``."""
    shape = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{shape}>{escape(words)}</text>'


def box(x: float, y: float, width: float, kind: str, title: str, below: str) -> str:
    """A part, with its name and what it is."""
    middle = x + width / 2
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{TALL}" rx="6"/>'
        + text(middle, y + 25, title)
        + text(middle, y + 43, below, "small")
    )


def frame(x: float, width: float, height: float, title: str) -> str:
    """What belongs to one machine."""
    return (
        f'<rect class="frame" x="{x:g}" y="34" width="{width:g}" height="{height:g}" rx="8"/>'
        + text(x + width / 2, 24, title, "small")
    )


def flow(path: str) -> str:
    """Bytes, both ways."""
    return f'<path class="flow" d="{path}"/>'


def tip(name: str, shape: str, at: int) -> str:
    """One end of an arrow."""
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="{at}" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path class="tip" d="{shape}"/></marker>'
    )


def picture() -> str:
    """The whole picture."""
    row = TOP + TALL / 2
    parts = [
        frame(8, 476, 204, "your machine"),
        frame(622, 106, 120, "a server of yours"),
        box(20, TOP, 90, "box", "program", "unconfigured"),
        box(140, TOP, 76, "box", "TUN", "packets"),
        box(246, TOP, 96, "ours", "lwIP", "TCP, UDP: C"),
        box(372, TOP, 100, "ours", "trio", "streams: Python"),
        box(634, TOP, 82, "ours", "worker", "trio"),
        box(760, TOP, 92, "box", "internet", "TCP, UDP, ping"),
        box(246, BELOW, 226, "ours", "DNS", "every port 53: hosts, lists, cache"),
        box(634, BELOW, 218, "box", "resolvers", "over HTTPS or TLS"),
        flow(f"M112 {row:g}H138"),
        flow(f"M218 {row:g}H244"),
        flow(f"M344 {row:g}H370"),
        flow(f"M474 {row:g}H632"),
        text(553, row - 9, "one WebSocket"),
        text(553, row + 18, "all connections in it", "small"),
        flow(f"M718 {row:g}H758"),
        flow(f"M294 {TOP + TALL + 2}V{BELOW - 2}"),
        flow(f"M474 {BELOW + TALL / 2:g}H632"),
        text(553, BELOW + TALL / 2 - 9, "HTTP/2"),
        flow(f"M422 {BELOW - 2}V{TOP + TALL + 2}"),
        text(358, (TOP + TALL + BELOW) / 2 + 4, "or by the worker", "small"),
    ]
    drawn = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">\n'
        "<title>From a program through TUN, lwIP, trio and one WebSocket to the worker</title>\n"
        f"<style>{STYLE}</style>\n"
        f"<defs>{tip('end', 'M0 0L8 4L0 8z', 7)}{tip('start', 'M8 0L0 4L8 8z', 1)}</defs>\n"
        f"{drawn}\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
