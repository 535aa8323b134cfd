"""Packages of npm for tests: what a folder's lock file names, into a folder below ``build``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_FILES = ("package.json", "package-lock.json")


def install(wanted: Path, root: Path, is_there: Callable[[], bool]) -> bool:
    """Install by ``npm ci``, unless it has been done; whether what is wanted is there.

    :param wanted: the folder of ``package.json`` and its lock file.
    :param root: where ``node_modules`` is to be.
    :param is_there: whether the program that matters can be run.
    """
    texts = [(wanted / name).read_text() for name in _FILES]
    if is_there() and texts == [
        path.read_text() if (path := root / name).exists() else "" for name in _FILES
    ]:
        return True
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not here", file=sys.stderr)
        return False
    root.mkdir(parents=True, exist_ok=True)
    for name, text in zip(_FILES, texts, strict=True):
        (root / name).write_text(text)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    if done.returncode or not is_there():
        (root / _FILES[1]).unlink()
        print(f"npm ci: {done.stderr.strip()}", file=sys.stderr)
        return False
    return True
