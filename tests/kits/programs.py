"""unbound, dnsdist, dnsperf, nginx and others for the tests, without installing them: ``python -m
tests.kits.programs``.

Installing these packages starts daemons on ports 53 and 80. So what is not installed already is
downloaded by ``apt-get download`` (no root is needed) and unpacked into ``build/test-programs``,
with the libraries that the system lacks; the programs are then run from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

PROGRAMS = {
    "unbound": "unbound",
    "dnsdist": "dnsdist",
    "dnsperf": "dnsperf",
    "nginx": "nginx",
    "prometheus": "prometheus",
}
SCRIPTS = {"fail2ban": "fail2ban-regex"}
"""Packages whose program is a script for the system's own Python; and the program."""
ROOT = Path(__file__).resolve().parents[2] / "build" / "test-programs"
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@cache
def find(program: str) -> tuple[str, dict[str, str]] | None:
    """Return path and environment to run `program` with; None if it is not to be had."""
    installed = shutil.which(program, path=_SEARCH)
    if installed is not None:
        return installed, _environment()
    if fetch(PROGRAMS[program], ROOT, lambda: _unpacked(program) is not None):
        return _unpacked(program)
    return None


def unpacked(package: str) -> Path | None:
    """Return where one of ``SCRIPTS`` is unpacked; None if it is not to be had."""
    program = ROOT / "usr/bin" / SCRIPTS[package]
    return ROOT if fetch(package, ROOT, program.is_file) else None


def _environment() -> dict[str, str]:
    """Ours, without a sanitizer's libraries: they are for our own C, and LuaJIT breaks on them."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _unpacked(program: str) -> tuple[str, dict[str, str]] | None:
    for folder in ("usr/sbin", "usr/bin"):
        path = ROOT / folder / program
        if path.is_file():
            libraries = {str(one.parent) for one in (ROOT / "usr/lib").rglob("*.so*")}
            return str(path), _environment() | {
                "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))
            }
    return None


def fetch(package: str, root: Path, is_there: Callable[[], bool]) -> bool:
    """Download `package` and the libraries that are missing, and unpack them below `root`, unless
    that has been done; whether what is wanted of it is there.

    Where another process does it at this moment, its end is waited for.
    """
    if is_there():
        return True
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return False
    import fcntl  # not on Windows, where there is no apt-get either

    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return is_there() or (_download(package, root) and is_there())


def _download(package: str, root: Path) -> bool:
    wanted = [package, *_missing_libraries(package)]
    with tempfile.TemporaryDirectory() as folder:
        command = ["apt-get", "-q", "download", *wanted]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            print(f"{package} cannot be downloaded: {done.stderr.strip()}", file=sys.stderr)
            return False
        # The program's own package comes last: what has been unpacked is whole.
        archives = sorted(
            Path(folder).glob("*.deb"), key=lambda path: path.name.startswith(package)
        )
        for archive in archives:
            subprocess.run(["dpkg", "-x", archive, root], check=True, timeout=60)
    return True


def _missing_libraries(package: str) -> list[str]:
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")]
    options += ["--no-replaces", "--no-enhances", "--no-pre-depends"]
    listed = subprocess.run(
        ["apt-cache", "depends", "--recurse", *options, package],
        capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    names = {line for line in listed.splitlines() if line[:1].isalpha() and line.startswith("lib")}
    status = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    here = {line.split()[0] for line in status.splitlines() if line.endswith(" installed")}
    return sorted(names - here)


def main() -> int:
    """Bring all of them; those that cannot be had are named."""
    missing = [program for program in PROGRAMS if find(program) is None]
    missing += [package for package in SCRIPTS if unpacked(package) is None]
    if missing:
        print(f"Not to be had, so that some tests are skipped: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
