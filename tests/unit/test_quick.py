"""The loop of everyday work, ``tests/run.sh --quick``: its parts, and what it says is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "run.sh"
PYTHON = """#!/bin/sh
case "$*" in
"-c import "*) ;;
*build_lwip.py*) echo built ;;
"-m ruff "*) echo style ;;
"-m mypy"*) echo types ;;
"-m pytest "*) shift 2; echo "tests $*" ;;
*) exit 9 ;;
esac
"""

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="bash is missing")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A tree with the script and one package, and programs that only say what they would do."""
    for name in ("tests/run.sh", "examples/prepare.sh"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(RUN.parents[1] / name, tmp_path / name)
    (tmp_path / "tests/unit/dns").mkdir(parents=True)
    (tmp_path / "tests/unit/stack").mkdir()
    (tmp_path / "tests/unit/test_config.py").touch()
    for folder in ("zks_lwip/native/core", "vendor/lwip/port"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "some.h").touch()
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name, text in (("python", PYTHON), ("clang-format", "#!/bin/sh\necho style of C\n")):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    return tmp_path


def quick(project: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / "tests/run.sh", "--quick", *parts], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("parts", "chosen"),
    [
        ((), "-n 2 tests/unit"),
        (("dns",), "tests/unit/dns"),
        (("config", "dns"), "tests/unit/test_config.py tests/unit/dns"),
        (("tests/run.sh::test_one", "dns"), "tests/run.sh::test_one tests/unit/dns"),
    ],
)
def test_parts(project: Path, parts: tuple[str, ...], chosen: str) -> None:
    done = quick(project, *parts)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("==")]
    assert lines == [
        "style",
        "style",
        "style of C",
        "types",
        "types",  # as on Windows
        "types",  # as on macOS
        "built",
        f"tests -q -m not slow {chosen}",
    ]


def test_a_part_that_is_not_there(project: Path) -> None:
    done = quick(project, "dsn")
    assert done.returncode == 2
    assert "dsn" in done.stderr and "dns/" in done.stderr


def test_a_tree_that_is_not_prepared(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    done = quick(project)
    assert done.returncode == 2
    assert "not prepared" in done.stderr and not done.stdout


def test_a_failure_is_reported_after_all_has_run(project: Path) -> None:
    python = project / ".venv/bin/python"
    python.write_text(PYTHON.replace("echo types", "exit 1"), encoding="utf-8")
    done = quick(project, "dns")
    assert done.returncode == 1 and "tests -q" in done.stdout
