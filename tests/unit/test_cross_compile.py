"""All our C, and all that is compiled of lwIP, for the systems that this machine is not."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"
ZIGLANG = importlib.util.find_spec("ziglang")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        ZIGLANG is None,
        reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
    ),
    pytest.mark.skipif(
        not (LWIP / "src").is_dir(), reason="vendor/lwip/src is not there: build first"
    ),
]

TARGETS = [
    f"{machine}-{system}"
    for system in ("linux-gnu", "linux-musl", "macos", "windows-gnu")
    for machine in ("aarch64", "x86_64")
]
# (Without a Python before each.)
ZIG = [str(Path(ZIGLANG.origin).with_name("zig"))] if ZIGLANG and ZIGLANG.origin else []
STRICT = ["-Wall", "-Wextra", "-Werror"]


def groups(target: str) -> list[tuple[list[Path], list[str]]]:
    """Every file, in groups that one process compiles, and the options of each."""
    with open(LWIP / "lwip.toml", "rb") as file:
        theirs = [LWIP / "src" / name for name in tomllib.load(file)["compile"]]
    ours = sorted([*NATIVE.rglob("*.c"), *(LWIP / "port").rglob("*.c")])
    assert ours and theirs
    # ziglang makes one object of several files, which it cannot for Windows.
    count = max(len(ours), len(theirs)) if "windows" in target else 2
    made = [
        (paths[i::count], options)
        for paths, options in ((ours, STRICT), (theirs, ["-w"]))
        for i in range(count)
    ]
    return [(paths, options) for paths, options in made if paths]


def compile_group(target: str, paths: list[Path], options: list[str], folder: Path) -> str:
    """Compile files for ``target``; return what the compiler said if one has failed."""
    includes = [f"-I{NATIVE}", f"-I{LWIP / 'port'}", "-isystem", str(LWIP / "src" / "include")]
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder)}
    environment["ZIG_LOCAL_CACHE_DIR"] = str(folder)
    command = [*ZIG, "cc", "-target", target, "-c", "-std=c11", "-fno-sanitize=undefined"]
    command += ["-D_DEFAULT_SOURCE", *options, *includes, *map(str, paths)]
    into = tempfile.mkdtemp(dir=folder)
    done = subprocess.run(command, env=environment, cwd=into, capture_output=True, text=True)
    assert done.returncode != 0 or list(Path(into).iterdir())
    return "" if done.returncode == 0 else done.stderr[-5000:]


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_for(target: str, tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_group, target, *group, tmp_path) for group in groups(target)]
        failed = [text for job in jobs if (text := job.result())]
    assert not failed, "\n".join([f"for {target}:", *failed])


def test_a_warning_in_any_of_several_files_is_seen(tmp_path: Path) -> None:
    """Or one process for several would be a mistake."""
    files = [tmp_path / f"{name}.c" for name in ("first", "second", "third")]
    for path in files:
        path.write_text(f"int {path.stem}(int one) {{ return one; }}\n")
    files[2].write_text("int third(int one) { int unused = 1; return one; }\n")
    assert "third.c:1" in compile_group(TARGETS[0], files, STRICT, tmp_path)
    assert compile_group(TARGETS[0], files[:2], STRICT, tmp_path) == ""
