"""That the fuzz targets run on their corpus, and find bugs that are put into the code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from tests.fuzz.planted import PLANTED, ROOT

NATIVE = {"packets", "datagrams", "mask", "mux"}
TARGETS = [*sorted(NATIVE), "frames"]


def fuzz(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.fuzz", target, *options]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280)


def need_clang(target: str) -> None:
    if target not in NATIVE:
        return
    if os.name == "nt" or shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    command = ["clang", "--print-file-name=libclang_rt.fuzzer-x86_64.a"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("clang's runtime libraries are not installed (Debian: libclang-rt-14-dev)")


def bugs(targets: Sequence[str]) -> list[str]:
    return [name for name, bug in PLANTED.items() if bug.target in targets]


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_bug_fits_the_code(name: str) -> None:
    bug = PLANTED[name]
    assert bug.planted() != (ROOT / bug.path).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_breaks_nothing(target: str) -> None:
    need_clang(target)
    done = fuzz(target, "--seconds", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    executions = int(done.stdout.split()[1])
    assert executions >= len(list((ROOT / "tests" / "fuzz" / "corpus" / target).iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(600)  # it builds, too
@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_bug_is_found(name: str) -> None:
    """In seconds, where there is nothing else to do; the seed makes it the same each time."""
    target = PLANTED[name].target
    need_clang(target)
    fuzz(target, "--planted", name, "--seconds", "0")  # the time to build does not count
    started = time.monotonic()
    done = fuzz(target, "--planted", name, "--seed", "1", "--seconds", "240")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "shown by: " in done.stdout
    print(f"{name}: found in {time.monotonic() - started:.1f} s\n{done.stdout}")
