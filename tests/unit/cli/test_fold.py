"""Lines that are wider than a terminal."""

from __future__ import annotations

import pytest

from zks_lwip.cli.fold import folded


@pytest.mark.parametrize("width", [16, 20, 40, 79, 80])
def test_lines_are_folded_between_words(width: int) -> None:
    line = "resolver: programs ask 192.0.2.1; a-long-name-with-hyphens, port 53 is captured"
    lines = folded(line, width)
    assert all(len(part) <= width for part in lines)
    assert all(part.startswith("  ") for part in lines[1:])
    if width >= 40:
        assert " ".join(part.strip() for part in lines) == line


def test_what_fits_stays_as_it_is() -> None:
    assert folded("", 80) == [""]
    assert folded("  [#] ip  link", 14) == ["  [#] ip  link"]
