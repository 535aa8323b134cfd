"""Our C, and lwIP's, at work on other systems than this one, under an emulator where one is.

The programs are the fuzz targets without a fuzzer, which check what they see against models of it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.native_targets import build
from tests.fuzz.planted import PLANTED, ROOT

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
SYSTEM = "aarch64-linux-musl"
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
EMULATOR = next((found for name in EMULATORS if (found := shutil.which(name))), None)

pytestmark = [
    pytest.mark.skipif(EMULATOR is None, reason="qemu-user is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(900),  # at first ziglang compiles the system's C library
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None,
        reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
    ),
    pytest.mark.skipif(
        not (ROOT / "vendor" / "lwip" / "src").is_dir(),
        reason="vendor/lwip/src is not there: build first",
    ),
]


def emulated(program: Path, corpus: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it in ``folder``, where it may leave a core."""
    assert EMULATOR is not None
    command = [EMULATOR, str(program), str(corpus)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("target", ["mask", "mux", "packets"])
def test_the_corpus_breaks_nothing_on_aarch64(target: str, tmp_path: Path) -> None:
    done = emulated(build(target, system=SYSTEM), CORPUS / target, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list((CORPUS / target).iterdir()))} inputs" in done.stdout


def test_a_planted_bug_is_seen_there(tmp_path: Path) -> None:
    """Or the checks are asleep."""
    program = build("mux", PLANTED["mux-credit"], system=SYSTEM)
    done = emulated(program, CORPUS / "mux", tmp_path)
    assert done.returncode != 0
    assert "fuzz: broken" in done.stderr
