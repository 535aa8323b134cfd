"""``examples/quickstart.sh`` as a new user runs it, and what it says where something is missing.

The network is out of reach throughout: what it needs is there already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.child import ROOT, Child
from tests.netns.lab import NOBODY, Lab, Namespace

NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")


@pytest.fixture(scope="module")
def alone(net: Lab) -> Namespace:
    """A namespace with nothing but a loopback."""
    return net.namespace("alone")


@pytest.fixture
def checkout(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this checkout as a clone has it, but for lwIP's source; .venv is the tests' own."""
    folder = net.directory / tmp_path_factory.mktemp("checkout").name
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    (folder / ".venv").symlink_to(sys.prefix)
    yield folder
    shutil.rmtree(folder)


def quickstart(checkout: Path, namespace: Namespace, **options: object) -> Child:
    argv = [str(checkout / "examples" / "quickstart.sh")]
    return Child("quickstart", namespace.command(argv, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("user", [None, NOBODY], ids=["root", "nobody"])
def test_fetches_a_page_through_the_tunnel(
    net: Lab, alone: Namespace, checkout: Path, user: int | None
) -> None:
    if user is not None:
        for path in [checkout, *checkout.rglob("*")]:
            os.chown(path, user, user, follow_symlinks=False)
    tun = None if user is None else net.tun_node()
    with quickstart(checkout, alone, user=user, tun=tun) as running:
        shown = running.succeed(timeout=170)
    running.no_traceback()
    assert "Hello from the loopback of" in shown
    assert "GET / HTTP/1.1" in shown
    assert "It works." in shown
    left = {path.name for path in Path("/tmp").iterdir() if path.name.startswith("tmp.")}
    assert not [name for name in left if (Path("/tmp") / name / "page").exists()]


def test_names_the_one_line_to_type(net: Lab, alone: Namespace, checkout: Path) -> None:
    """Neither root nor sudo, and no compiler: nothing is tried, the line is printed."""
    programs = net.directory / "programs"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "id", "apt-get", "curl", "python3"):
        found = shutil.which(name)
        if found is not None:
            (programs / name).symlink_to(found)
    (programs / "python3").unlink()
    (programs / "python3").symlink_to(sys.executable)
    argv = ["/usr/bin/env", f"PATH={programs}", str(checkout / "examples" / "quickstart.sh")]
    with Child("quickstart", alone.command(argv, user=NOBODY)) as running:
        assert running.wait(30) == 2
    said = "\n".join(running.stderr)
    assert "Missing here:" in said and "gcc libc6-dev" in said
    assert "apt-get install -y --no-install-recommends gcc libc6-dev" in said
    shutil.rmtree(programs)


def prepared(checkout: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` after examples/prepare.sh in the checkout."""
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; . examples/prepare.sh; {script}"],
        cwd=checkout,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("state", ["no pip", "no python", "dangling"])
def test_half_made_environment_is_made_again(checkout: Path, state: str) -> None:
    environment = checkout / ".venv"
    environment.unlink()
    (environment / "bin").mkdir(parents=True)
    (environment / "leftover").touch()
    if state == "no pip":
        (environment / "pyvenv.cfg").write_text(
            f"home = {Path(sys.executable).resolve().parent}\n"
            "include-system-site-packages = false\n"
        )
        (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    elif state == "dangling":
        (environment / "bin" / "python").symlink_to("/nowhere/python")
    # Nothing is asked for, so that nothing is downloaded.
    shutil.copy(checkout / "pyproject.toml", checkout / "kept.toml")
    (checkout / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\n[project]\ndependencies = []\n"
    )
    done = prepared(checkout, "choose_python; make_venv; .venv/bin/python -m pip --version")
    assert done.returncode == 0, done.stderr
    assert "Making .venv" in done.stdout
    assert not (environment / "leftover").exists()


def test_whole_environment_is_kept(checkout: Path) -> None:
    done = prepared(checkout, "choose_python; make_venv; readlink .venv")
    assert done.returncode == 0, done.stderr
    assert "Making .venv" not in done.stdout
    assert done.stdout.splitlines()[-1] == sys.prefix
