"""A wheel of this checkout, made of the very objects that the other tests run.

It is built in a copy with what ``build_lwip.py`` keeps: only what has changed is compiled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".*", "dist", "*.egg-info", "__pycache__", "*.so", "node_modules", "tests"
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that has to succeed; return its output."""
    done = subprocess.run(
        [str(x) for x in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _left_out(folder: str, names: list[str]) -> set[str]:
    if Path(folder) == ROOT / "build":
        return {name for name in names if name != "native"}
    return set(NOT_COPIED(folder, names))


def build_wheel(folder: Path) -> Path:
    """Return the wheel, as setuptools makes it, below the empty ``folder``."""
    tree = folder / "zks_lwip"
    shutil.copytree(ROOT, tree, ignore=_left_out)
    run(sys.executable, "setup.py", "-q", "bdist_wheel", cwd=tree)
    (made,) = (tree / "dist").iterdir()
    return made
