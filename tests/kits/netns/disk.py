"""A small disk for journals, and what fills it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["disk", "fill"]


@contextlib.contextmanager
def disk(directory: Path, *options: str) -> Iterator[Path]:
    """A file system of its own there."""
    directory.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(directory)]
    subprocess.run(argv, check=True, timeout=60)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=60)


def fill(directory: Path) -> None:
    """Leave no room at all."""
    with open(directory / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
