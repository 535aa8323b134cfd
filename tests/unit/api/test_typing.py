"""A user's project is checked strictly against the package's types, by mypy and by pyright."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path

import pytest

import zks_lwip

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("typed_user.py")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(argv: list[str], folder: Path, **environment: str) -> str:
    """Run a checker; return what it prints, an error also where it finds one."""
    done = subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the program and the examples, and one line that is wrong in another file."""
    for path in (PROGRAM, *EXAMPLES):
        shutil.copy(path, tmp_path)
    wrong = "from zks_lwip import VpnConfig\nVpnConfig(mtu='1500')\n"
    (tmp_path / "wrong.py").write_text(wrong)
    return tmp_path


def test_the_marker_is_there_and_packaged() -> None:
    assert (Path(zks_lwip.__file__).parent / "py.typed").exists()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "py.typed" in tomllib.loads(text)["tool"]["setuptools"]["package-data"]["zks_lwip"]


def test_mypy_is_content(project: Path) -> None:
    # Installed packages are not judged: neither is this one.
    options = ["mypy", "--strict", "--follow-imports=silent", f"--cache-dir={project / 'kept'}"]
    names = [path.name for path in (PROGRAM, *EXAMPLES)]
    run([*options, *names], project, MYPYPATH=str(ROOT))
    with pytest.raises(AssertionError, match="arg-type"):
        run([*options, "wrong.py"], project, MYPYPATH=str(ROOT))


def has_pyright() -> bool:
    """Whether pyright is installed; it fetches its other half from npm when it is first called."""
    if util.find_spec("pyright") is None:
        return False
    argv = [sys.executable, "-m", "pyright", "--version"]
    try:
        return subprocess.run(argv, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def test_pyright_is_content(project: Path) -> None:
    if not has_pyright():
        pytest.skip("needs pyright, and npm's registry once")

    def check(names: list[str]) -> None:
        config = {
            "typeCheckingMode": "strict",
            "extraPaths": [str(ROOT)],
            "include": names,
            "pythonVersion": "3.11",
        }
        (project / "pyrightconfig.json").write_text(json.dumps(config))
        run(["pyright", "--pythonpath", sys.executable, "-p", "."], project)

    check([path.name for path in (PROGRAM, *EXAMPLES)])
    with pytest.raises(AssertionError, match="reportArgumentType"):
        check(["wrong.py"])
