"""``python -m tests.kits.actionlint``: bring actionlint; if it cannot be had, that is said."""

from __future__ import annotations

from tests.kits.actionlint import fetch

if not fetch():
    print("Not to be had, so that a test is skipped: actionlint")
