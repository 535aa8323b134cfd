"""Programs in C beside this file, compiled when a test first wants them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["compiled"]

_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def compiled(name: str, *flags: str) -> Path:
    """Compile ``name``, a file here, once a process; return the program.

    :param flags: for the compiler, besides those that are for all.
    """
    source = Path(__file__).with_name(name)
    made = tempfile.TemporaryDirectory(prefix=f"zks-{source.stem}-")
    _kept.append(made)
    program = Path(made.name) / source.stem
    done = subprocess.run(
        [
            *(shutil.which("gcc") or "cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"),
            *flags,
            *("-o", str(program), str(source)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return program
