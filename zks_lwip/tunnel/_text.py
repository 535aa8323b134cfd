"""Text of a peer's, made fit for a log or a terminal."""

from __future__ import annotations

__all__ = ["one_line"]

_MOST = 200


def one_line(text: str) -> str:
    """At most 200 printable characters: others (line ends, escapes, marks of direction) are "?"."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _MOST else shown[: _MOST - 1] + "…"
