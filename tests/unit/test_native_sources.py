"""Our C is free of warnings, whichever compiler reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"
FILES = sorted(NATIVE.glob("*.c")) + sorted((LWIP / "port").glob("*.c"))
STRICT = ["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-fsyntax-only"]


def include_arguments() -> list[str]:
    return [
        f"-I{NATIVE}",
        f"-I{LWIP / 'port'}",
        "-isystem",  # lwIP's own headers are not ours to clean
        str(LWIP / "src" / "include"),
        f"-I{sysconfig.get_path('include')}",
    ]


@pytest.mark.skipif(os.name == "nt", reason="these are options of gcc and clang")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compiles_without_warnings(path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    done = subprocess.run(
        [compiler, *STRICT, *include_arguments(), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_there_is_something_to_compile() -> None:
    assert len(FILES) > 0
