"""All our C, and all that is compiled of lwIP, for the systems that this machine is not."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None,
        reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
    ),
    pytest.mark.skipif(
        not (LWIP / "src").is_dir(), reason="vendor/lwip/src is not there: build first"
    ),
]

TARGETS = ["x86_64-windows-gnu", "aarch64-windows-gnu", "x86_64-macos", "aarch64-macos"]
TARGETS += ["aarch64-linux-musl"]


def compile_all(target: str, folder: Path) -> dict[str, str]:
    """Compile every file for ``target``; what the compiler said of those that failed."""
    with open(LWIP / "lwip.toml", "rb") as file:
        theirs = [LWIP / "src" / name for name in tomllib.load(file)["compile"]]
    ours = [*NATIVE.rglob("*.c"), *(LWIP / "port").rglob("*.c")]
    assert ours and theirs
    includes = [f"-I{NATIVE}", f"-I{LWIP / 'port'}", "-isystem", str(LWIP / "src" / "include")]
    cache = str(folder / "cache")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}

    def one(path: Path) -> tuple[str, str]:
        strict = ["-Wall", "-Wextra", "-Werror"] if path in ours else ["-w"]
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-c", "-std=c11"]
        command += ["-D_DEFAULT_SOURCE", *strict, *includes, str(path)]
        command += ["-o", str(folder / f"{path.parent.name}-{path.stem}.o")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return path.name, "" if done.returncode == 0 else done.stderr[-1500:]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(pool.map(one, ours + theirs))
    return {name: text for name, text in results.items() if text}


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_for(target: str, tmp_path: Path) -> None:
    failed = compile_all(target, tmp_path)
    assert not failed, "\n".join(
        f"--- {name} for {target}\n{text}" for name, text in failed.items()
    )
