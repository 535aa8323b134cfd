"""``python -m tests.bench NAME ARGS...`` runs ``tests/bench/NAME``; no name: lists them.

``compare`` is the one that README's table is from: everything, beside other tunnels.
"""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path


def names() -> list[str]:
    """The benchmarks there are."""
    folder = Path(__file__).parent
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted([*packages, *(p.stem for p in folder.glob("*.py") if p.stem[0] != "_")])


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in names():
        print("usage: python -m tests.bench NAME [--help]\nbenchmarks: " + ", ".join(names()))
        return 0 if argv in (["--help"], ["-h"]) else 2
    # Ended from outside (`timeout`), it still ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = importlib.import_module(f"tests.bench.{argv[0]}").main(argv[1:])
    except KeyboardInterrupt:
        return 130
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
