"""The core and its pump as a program of Windows, where wine is installed to run it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.kits.packets import ACK, APP, FAR, SYN, parse, tcp, udp

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"
KITS = ROOT / "tests" / "kits"
WINE = shutil.which("wine") or shutil.which("wine64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WINE is None, reason="wine is not installed (apt-get install wine)"),
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None,
        reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
    ),
    pytest.mark.skipif(
        not (LWIP / "src").is_dir(), reason="vendor/lwip/src is not there: build first"
    ),
]


def built(folder: Path) -> Path:
    """The program: our core, lwIP, and the rings that are played."""
    with open(LWIP / "lwip.toml", "rb") as file:
        theirs = [LWIP / "src" / name for name in tomllib.load(file)["compile"]]
    ours = [*(NATIVE / "core").glob("*.c"), *(LWIP / "port").rglob("*.c")]
    ours += [NATIVE / "udp" / "frames.c", KITS / "wintun.c", KITS / "wintun_program.c"]
    program = folder / "program.exe"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-O1", "-w"]
    command += ["-std=c11", f"-I{NATIVE}", f"-I{LWIP / 'port'}", f"-I{LWIP / 'src' / 'include'}"]
    command += [*map(str, ours + theirs), "-lws2_32", "-o", str(program)]
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder)}
    environment["ZIG_LOCAL_CACHE_DIR"] = str(folder)
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def test_the_pump_runs(tmp_path: Path) -> None:
    """With Windows' own threads, locks, events and errors, as far as wine has them."""
    syn = tcp((APP[4], 40000), (FAR[4], 80), SYN, 1000)
    datagram = udp((APP[4], 5000), (FAR[4], 53), b"question")
    done = subprocess.run(
        [str(WINE), str(built(tmp_path)), syn.hex(), datagram.hex()],
        env={**os.environ, "WINEPREFIX": str(tmp_path / "prefix"), "WINEDEBUG": "-all"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    first, second, *rest = done.stdout.splitlines()
    answer, back = parse(bytes.fromhex(first)), parse(bytes.fromhex(second))
    assert (answer.flags, answer.ack, answer.ports) == (SYN | ACK, 1001, (80, 40000))
    assert (back.ports, back.payload[8:]) == ((53, 5000), b"question")
    assert rest == ["stopped 0", "gone -5 1", "held 0"]
