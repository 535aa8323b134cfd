"""GitHub's workflows are judged by actionlint and zizmor, and agree with what they build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.kits import actionlint

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
USES = re.compile(r"uses: (\S+)@(\S+)(?: # (v\d+\.\d+\.\d+))?$", re.M)

# Waits for nothing, has a script that others can write into, and an action that may change.
WRONG = """\
name: wrong
on: pull_request_target
permissions: {}
jobs:
  job:
    runs-on: ubuntu-24.04
    needs: nothing
    steps:
      - uses: actions/checkout@v4
      - run: echo "${{ github.event.pull_request.title }}"
"""

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="the workflows are not there")


def zizmor() -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("zizmor", path=path)
    assert program is not None, "zizmor belongs to the extra `test`"
    return program


def audit(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [zizmor(), "--offline", "--no-progress", "--color=never", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_zizmor_finds_nothing() -> None:
    done = audit(ROOT / ".github")
    assert done.returncode == 0, done.stdout
    assert "No findings" in done.stdout


def test_zizmor_finds_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "wrong.yml").write_text(WRONG)
    done = audit(tmp_path / ".github")
    assert done.returncode > 1
    for rule in ("dangerous-triggers", "template-injection", "unpinned-uses"):
        assert f"[{rule}]" in done.stdout


@pytest.mark.skipif(
    not actionlint.is_there(), reason="needs actionlint: python -m tests.kits.actionlint"
)
def test_actionlint_finds_only_what_is_wrong(tmp_path: Path) -> None:
    """In one run, since it takes seconds to start: ours, and one that shows that it looks."""
    folder = tmp_path / ".github" / "workflows"
    shutil.copytree(ROOT / ".github" / "workflows", folder)
    (folder / "wrong.yml").write_text(WRONG)
    found = actionlint.findings(tmp_path)
    wrong = [line for line in found if line.startswith(".github/workflows/wrong.yml:")]
    assert [line for line in found if line not in wrong] == []
    assert any("potentially untrusted" in line for line in wrong)
    assert any('needs job "nothing"' in line for line in wrong)


def test_an_action_is_one_commit_with_the_name_of_its_release() -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in WORKFLOWS:
        for action, commit, release in USES.findall(path.read_text(encoding="utf-8")):
            assert re.fullmatch("[0-9a-f]{40}", commit) and release, f"{path.name}: {action}"
            pins.setdefault(action, set()).add((commit, release))
    assert {"actions/checkout", "pypa/cibuildwheel"} <= pins.keys()
    assert [action for action, commits in pins.items() if len(commits) > 1] == []


def test_the_oldest_and_the_newest_python_are_those_that_are_promised() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (listed,) = re.findall(r'python: \["([\d.]+)", "([\d.]+)"\]', ci)
    assert project["project"]["requires-python"] == f">={listed[0]}"
    built = [f"cp{version.replace('.', '')}-*" for version in listed]
    assert project["tool"]["cibuildwheel"]["build"] == built
    assert f"Programming Language :: Python :: {listed[1]}" in project["project"]["classifiers"]


def test_what_changes_the_machine_is_run_by_jobs_of_its_own() -> None:
    """Elsewhere it is skipped; without the variable it would be in the job, too."""
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    files = sorted(path.name for path in (ROOT / "tests" / "hosted").glob("test_*.py"))
    jobs = [job for job in re.split(r"^  (?=\S)", ci, flags=re.M) if "tests/hosted" in job]
    assert sorted(re.findall(r"tests/hosted/(test_\w+\.py)", "".join(jobs))) == files
    for job in jobs:
        assert re.search(r"^      ZKS_HOSTED: 1\b", job, re.M)
        assert "tests/unit" not in job
