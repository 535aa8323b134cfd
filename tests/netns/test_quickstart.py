"""``examples/quickstart.sh`` as a new user runs it, and what it says where something is missing.

The network is out of reach throughout: what it needs is there already.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kits.netns.child import ROOT, Child
from tests.kits.netns.lab import NOBODY, Lab, Namespace

NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "tests"
)


@pytest.fixture(scope="module")
def alone(net: Lab) -> Namespace:
    """A namespace with nothing but a loopback."""
    return net.namespace("alone")


@contextmanager
def clone(net: Lab, factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this checkout as a clone has it, but for lwIP's source and the tests.

    .venv is the tests' own.
    """
    folder = net.directory / factory.mktemp("checkout").name
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    (folder / ".venv").symlink_to(sys.prefix)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def checkout(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with clone(net, tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def kept_checkout(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for several tests: the first of them compiles."""
    with clone(net, tmp_path_factory) as folder:
        yield folder


def quickstart(checkout: Path, namespace: Namespace, **options: object) -> Child:
    argv = [str(checkout / "examples" / "quickstart.sh")]
    return Child("quickstart", namespace.command(argv, **options))  # type: ignore[arg-type]


@pytest.mark.timeout(900)  # it compiles
@pytest.mark.parametrize("user", [NOBODY, None], ids=["nobody", "root"])
def test_fetches_a_page_through_the_tunnel(
    net: Lab, alone: Namespace, kept_checkout: Path, user: int | None
) -> None:
    """From a clean clone, and once more: root finds what the other user has compiled."""
    if user is not None:
        for path in [kept_checkout, *kept_checkout.rglob("*")]:
            os.chown(path, user, user, follow_symlinks=False)
    tun = None if user is None else net.tun_node()
    with quickstart(kept_checkout, alone, user=user, tun=tun) as running:
        shown = running.succeed(timeout=600)
    running.no_traceback()
    assert "Hello from the loopback of" in shown
    assert "GET / HTTP/1.1" in shown
    assert "It works." in shown
    left = {path.name for path in Path("/tmp").iterdir() if path.name.startswith("tmp.")}
    assert not [name for name in left if (Path("/tmp") / name / "page").exists()]


@pytest.fixture
def programs(net: Lab) -> Iterator[Path]:
    """A folder of programs, as PATH: what the scripts begin with, but no compiler."""
    folder = net.directory / "programs"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "id", "apt-get", "curl"):
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    (folder / "python3").symlink_to(sys.executable)
    yield folder
    shutil.rmtree(folder)


def with_programs(programs: Path, checkout: Path) -> list[str]:
    """The quickstart's command line, with ``programs`` for PATH."""
    return ["/usr/bin/env", f"PATH={programs}", str(checkout / "examples" / "quickstart.sh")]


INSTALL = "apt-get install -y --no-install-recommends gcc libc6-dev"


def test_names_the_one_line_to_type(alone: Namespace, checkout: Path, programs: Path) -> None:
    """Neither root nor sudo, and no compiler: nothing is tried, the line is printed."""
    argv = with_programs(programs, checkout)
    with Child("quickstart", alone.command(argv, user=NOBODY)) as running:
        assert running.wait() == 2
    said = "\n".join(running.stderr)
    assert "Missing here: gcc libc6-dev. Type this as root" in said
    assert f"  apt-get update && {INSTALL}" in said


@pytest.mark.parametrize("answer", ["n", "", "y", None])
def test_asks_before_it_uses_sudo(
    net: Lab, alone: Namespace, checkout: Path, programs: Path, answer: str | None
) -> None:
    """With sudo: says what, and asks. Without a terminal to ask at, it prints the line."""
    log = net.file("sudo.log", "", 0o666)
    sudo = programs / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexit 1\n')
    sudo.chmod(0o755)
    argv = alone.command(with_programs(programs, checkout), user=NOBODY)
    if answer is None:
        with Child("quickstart", argv) as running:
            assert running.wait() == 2
    else:
        ours, theirs = pty.openpty()
        with Child("quickstart", argv, stdin=theirs) as running:
            os.close(theirs)
            running.wait_for(f"sudo apt-get update && sudo {INSTALL}")
            os.write(ours, f"{answer}\n".encode())
            assert running.wait() == (1 if answer == "y" else 2)
        os.close(ours)
    if answer == "y":
        update, install = log.read_text().splitlines()
        assert update == "env apt-get -q update"
        assert install.endswith("apt-get -q install -y --no-install-recommends gcc libc6-dev")
    else:
        assert log.read_text() == ""
        assert f"  sudo apt-get update && sudo {INSTALL}" in "\n".join(running.stderr)


def prepared(checkout: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` after examples/prepare.sh in the checkout."""
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; . examples/prepare.sh; {script}"],
        cwd=checkout,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=250,
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


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get")
def test_another_apt_is_waited_for(checkout: Path, tmp_path: Path) -> None:
    """Its lock is held by us, and given back when the script says that it waits."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    options = f"-o Dir::State::lists={tmp_path}/lists -o Dir::Cache={tmp_path}"
    options += " -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=/dev/null"
    script = f". examples/prepare.sh; patiently env apt-get -q {options} update; echo updated"
    with open(tmp_path / "lists/lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        child = Child("apt", ["bash", "-euc", f"cd {checkout}; {script}"])
        child.wait_for("Another program uses apt or dpkg")
        lock.close()
        assert child.succeed().endswith("updated")


@pytest.mark.parametrize(
    "text",
    [
        "E: Unable to locate package nowhere",
        "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: No permission)",
    ],
)
def test_other_errors_of_apt_are_not_waited_for(checkout: Path, text: str) -> None:
    done = prepared(checkout, f"patiently sh -c 'echo \"{text}\" >&2; exit 100'")
    assert done.returncode == 100 and text in done.stderr
    assert "Another program" not in done.stderr


def test_the_command_works_from_any_folder(checkout: Path, tmp_path: Path) -> None:
    """Also by a link on the path, out of a folder whose name has a space."""
    clone = checkout / "a clone"
    (clone / "examples").mkdir(parents=True)
    (clone / "zks_lwip").symlink_to(checkout / "zks_lwip")
    for name in ("prepare.sh", "zks-lwip"):
        shutil.copy(checkout / "examples" / name, clone / "examples")
    environment = clone / ".venv"
    (environment / "bin").mkdir(parents=True)
    for name in ("pyvenv.cfg", "lib"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    done = prepared(clone, "link_command; link_command")
    assert done.returncode == 0, done.stderr
    on_the_path = tmp_path / "zks-lwip"
    on_the_path.symlink_to(environment / "bin" / "zks-lwip")
    for command in (on_the_path, environment / "bin" / "zks-lwip"):
        argv = [command, "run", "--help"]
        shown = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith("Usage: zks-lwip run ")
        assert "python -m zks_lwip" not in shown.stdout
