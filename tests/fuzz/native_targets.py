"""Fuzz targets in C: built with clang's libFuzzer, AddressSanitizer and UBSan, and run.

A build is the project's C and lwIP's, each file behind ``native/prelude.h``, with ``native/env.c``
in place of the allocator and the clock, and the target's own files. Objects are kept in
``build/fuzz`` by a hash of all that goes into them.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.planted import ROOT, Bug

__all__ = ["NATIVE", "Outcome", "build", "merge", "run"]

BUILT = ROOT / "build" / "fuzz"
OWN = ROOT / "tests" / "fuzz" / "native"
SOURCES = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"

# What env.c replaces.
_LEFT_OUT = {"mem.c", "platform.c"}
_COMMON = ["-std=c11", "-D_DEFAULT_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer"]
_SANITIZERS = "address,undefined"
_LONGEST = 700  # bytes of an input
_ONE_INPUT = 25  # seconds: what takes longer hangs


@dataclass(frozen=True)
class Target:
    """The C files of a fuzz target: its own, and the project's (``core``: all of that room)."""

    own: Sequence[str]
    core: bool = False
    others: Sequence[str] = ()


NATIVE = {
    "packets": Target(
        ("packets.c", "peers.c", "owner.c", "output.c", "model.c", "wire.c", "env.c"),
        core=True,
        others=("udp/frames.c",),
    ),
    "datagrams": Target(
        ("datagrams.c", "env.c"),
        others=("udp/frames.c", "udp/hosts.c", "udp/send.c", "udp/receive.c"),
    ),
    "mask": Target(("mask.c", "env.c"), others=("websocket/mask.c",)),
    "mux": Target(
        ("mux.c", "mux_peer.c", "env.c"),
        others=("mux/mux.c", "mux/mux_in.c", "mux/mux_out.c", "mux/mux_sockets.c"),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What a run has done and found."""

    executions: int
    seconds: int
    covered: int
    coverable: int
    finding: str | None
    """What broke, in a few lines; None: nothing."""
    artifact: Path | None
    """The input that shows it."""


def _sources(target: Target, bug: Bug | None) -> list[tuple[Path, bytes, list[str]]]:
    """Every file with its text and flags of its own."""
    flags = ["-include", str(OWN / "prelude.h"), "-fno-strict-aliasing", "-w"]
    project = [SOURCES / name for name in target.others]
    files = []
    if target.core:
        core = sorted((SOURCES / "core").glob("*.c"))
        project += [path for path in core if path.name not in _LEFT_OUT]
        pinned = tomllib.loads((LWIP / "lwip.toml").read_text())["compile"]
        files += [(LWIP / "src" / name, flags) for name in pinned]
    files += [(path, flags) for path in project]
    files += [(OWN / name, ["-Wall", "-Wextra", "-Werror"]) for name in target.own]
    result = []
    for path, own in files:
        text = path.read_bytes()
        if bug is not None and path == ROOT / bug.path:
            text = bug.planted().encode()
        result.append((path, text, own))
    return result


def _headers() -> bytes:
    folders = (OWN, SOURCES, LWIP / "port", LWIP / "src" / "include")
    paths = sorted(path for folder in folders for path in folder.rglob("*.h"))
    return b"".join(path.read_bytes() for path in paths)


def _compiler(fuzzer: bool, system: str | None) -> list[str]:
    if system is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", system]
    name = "clang" if fuzzer else "gcc"
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return [found]


def build(
    name: str, bug: Bug | None = None, *, fuzzer: bool = True, system: str | None = None
) -> Path:
    """The program that runs target ``name``, with ``bug`` planted.

    Without ``fuzzer`` a plain one that runs the inputs it is given, for valgrind. For another
    ``system`` (``aarch64-linux-musl``) it is plain, too, and made by ziglang, of the extra `cross`.

    :raises FileNotFoundError: there is no clang (or gcc).
    :raises subprocess.CalledProcessError: it does not compile; the message is on standard error.
    """
    fuzzer = fuzzer and system is None
    target = NATIVE[name]
    compiler = _compiler(fuzzer, system)
    flags, linking = list(_COMMON), []
    own = list(target.own)
    if fuzzer:
        flags += [f"-fsanitize=fuzzer-no-link,{_SANITIZERS}", "-fno-sanitize-recover=all"]
        linking = [f"-fsanitize=fuzzer,{_SANITIZERS}"]
    else:
        own.append("standalone.c")
    if system is not None:
        flags.append("-fno-sanitize=undefined")  # whose runtime would be built, too
    flags += [f"-I{SOURCES}", f"-I{LWIP / 'port'}", "-isystem", str(LWIP / "src" / "include")]
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    common = version + _headers() + "\0".join([*flags, system or ""]).encode()
    objects = BUILT / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(BUILT / "zig")}
    environment["ZIG_LOCAL_CACHE_DIR"] = environment["ZIG_GLOBAL_CACHE_DIR"]

    def compile_one(source: tuple[Path, bytes, list[str]]) -> Path:
        path, text, extra = source
        digest = hashlib.sha256(common + "\0".join(extra).encode() + text).hexdigest()[:20]
        made = objects / f"{path.stem}-{digest}.o"
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=objects) as folder:
                copy = Path(folder) / path.name
                copy.write_bytes(text)
                fresh = copy.with_suffix(".o")
                include = ["-iquote", str(path.parent)]
                subprocess.run(
                    [*compiler, *flags, *include, *extra, "-c", str(copy), "-o", str(fresh)],
                    check=True,
                    env=environment,
                )
                os.replace(fresh, made)
        return made

    sources = _sources(Target(own, target.core, target.others), bug)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        parts = list(pool.map(compile_one, sources))
    digest = hashlib.sha256("\0".join(x.name for x in parts).encode()).hexdigest()[:20]
    program = BUILT / f"{name}-{digest}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        command = [*compiler, *linking, *map(str, parts), "-o", str(fresh)]
        subprocess.run(command, check=True, env=environment)
        os.replace(fresh, program)
    return program


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def _finding(text: str) -> str | None:
    """The lines of libFuzzer's output that say what broke, and where in the project's code."""
    signs = re.compile(r"^fuzz: broken|assertion failed|runtime error|ERROR: |SUMMARY: ")
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if signs.search(line)), None)
    if first is None:
        return None
    place = re.compile(r"#\d+ .*(zks_lwip/native|vendor/lwip|tests/fuzz|/objects/)")
    told = [line for line in lines[first:] if signs.search(line) or place.search(line)]
    return "\n".join(told[:14])


def run(
    program: Path,
    inputs: Iterable[Path],
    *,
    seconds: int | None,
    executions: int | None = None,
    keep: Path | None = None,
    seed: int = 0,
) -> Outcome:
    """Run ``inputs`` (files or folders), then new ones for ``seconds``, or until there were
    ``executions`` in all.

    ``seconds`` None: no new ones. ``keep`` is a folder for inputs that reach what none has reached
    before. ``seed`` 0 takes a new one each time.
    """
    findings = BUILT / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        given = list(inputs)
        if any(path.is_dir() for path in given):  # libFuzzer takes folders or files
            folder = keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            given.insert(0, folder)
        argv = [str(program), f"-timeout={_ONE_INPUT}", "-rss_limit_mb=3000"]
        argv += [f"-artifact_prefix={findings}/", "-print_final_stats=1", f"-seed={seed}"]
        argv += [f"-max_len={_LONGEST}", "-len_control=20"]
        if seconds:
            argv += [f"-max_total_time={seconds}", f"-runs={executions or -1}"]
        else:
            argv += ["-runs=0"]
        argv += map(str, given)
        done = subprocess.run(
            argv, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    text = done.stderr
    covered = re.findall(r"cov: (\d+)", text)
    counters = re.search(r"\((\d+) inline 8-bit counters\)", text)
    executed = re.findall(r"^#(\d+)\s", text, re.M)
    final = re.search(r"stat::number_of_executed_units: (\d+)", text)
    elapsed = re.search(r"Done \d+ runs in (\d+) second", text)
    artifact = re.search(r"Test unit written to (\S+)", text)
    finding = _finding(text)
    if done.returncode != 0 and finding is None:
        finding = text[-2000:]
    return Outcome(
        executions=int(final[1]) if final else int(executed[-1]) if executed else 0,
        seconds=int(elapsed[1]) if elapsed else 0,
        covered=int(covered[-1]) if covered else 0,
        coverable=int(counters[1]) if counters else 0,
        finding=finding if done.returncode != 0 else None,
        artifact=Path(artifact[1]) if artifact else None,
    )


def merge(program: Path, into: Path, folders: Sequence[Path]) -> None:
    """Copy to ``into`` the smallest inputs that reach each branch that any of ``folders`` does."""
    argv = [str(program), "-merge=1", "-use_counters=0", f"-max_len={_LONGEST}", str(into)]
    subprocess.run(
        [*argv, *map(str, folders)], env=_environment(), stderr=subprocess.DEVNULL, check=True
    )
