"""Puts a table into a page of Markdown, between two marks."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BEGIN", "END", "check", "shown", "write"]

BEGIN = "<!-- figures: written by tests.bench compare --readme -->\n"
END = "<!-- end of figures -->\n"


def _parts(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    found, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN.strip()} and {END.strip()}")
    return before, found, after


def shown(text: str) -> str:
    """Return what stands between the marks.

    :raises ValueError: they are not there.
    """
    return _parts(text)[1].strip("\n") + "\n"


def check(path: Path) -> None:
    """Check that a page has the marks, before anything is measured.

    :raises SystemExit: it has not.
    """
    try:
        shown(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"--readme {path}: {error}") from None


def write(path: Path, table: str) -> None:
    """Replace what stands between the marks of a page.

    :raises ValueError: they are not there.
    """
    before, _, after = _parts(path.read_text(encoding="utf-8"))
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
