"""The soak (:mod:`tests.soak`) under the benchmarks' name."""

from __future__ import annotations

from tests.soak import __main__ as soak

__all__ = ["main"]


def main(argv: list[str]) -> int:
    return soak.main(argv, "python -m tests.bench soak")
