"""Lines for a terminal that is narrower than they are."""

from __future__ import annotations

import textwrap

__all__ = ["folded"]

_LEAST = 16


def folded(line: str, width: int, indent: int = 2) -> list[str]:
    """Return the line in lines of at most ``width`` characters, broken between words."""
    return textwrap.wrap(
        line,
        max(width, _LEAST),
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    ) or [""]
