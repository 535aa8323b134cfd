"""The examples run, and say what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from zks_lwip.cli import main

ROOT = Path(__file__).resolve().parents[2]


SAID = {
    "decide": [
        "tunnel this machine: hello",
        "stream this program: hello",
        "direct this machine: hello",
        r"192\.0\.2\.1:25: Permission denied",
    ],
    "embed_stack": [
        r"192\.0\.2\.1 port 80 says HELLO",
        "2001:db8::7 port 65000 says HELLO",
        r"packets through lwIP: [1-9]\d*",
    ],
    "embed_vpn": [
        r"through 127\.0\.0\.1 which is connected",
        r"HTTP/1\.1 200 OK",
        r"[1-9]\d* bytes up, [1-9]\d* bytes down",
    ],
    "in_memory_network": ["100000 bytes arrived", "with the cable out: all attempts .*"],
    "own_worker": [
        "hello from the far end",
        r"anyone at 127\.0\.0\.1: 1 stream",
        "1 stream, 23 bytes to the client",
    ],
}
"""What each example of the library prints, line by line."""


def test_every_example_of_the_library_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_an_example_fits_one_screen_and_runs(name: str) -> None:
    script = ROOT / "examples" / f"{name}.py"
    assert len(script.read_text().splitlines()) <= 70
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SAID[name]), lines
    for line, expected in zip(lines, SAID[name], strict=True):
        assert re.fullmatch(expected, line)


UNITS = sorted((ROOT / "examples" / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_run_commands_that_exist(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    commands = [line.split("=", 1)[1] for line in lines if re.match(r"ExecSt\w+=.*zks-lwip", line)]
    assert commands
    for command in commands:
        result = CliRunner().invoke(main, [*command.split()[1:], "--help"])
        assert result.exit_code == 0, result.output


def test_only_the_unit_that_is_not_always_on_opens_the_machine_after_a_failure() -> None:
    texts = {unit.stem: unit.read_text() for unit in UNITS}
    assert "\nExecStopPost=" in texts["zks-lwip"] and "\nRestart=" not in texts["zks-lwip"]
    always = texts["zks-lwip-always-on"]
    assert "\nExecStopPost=" not in always and "--always-on" in always
    assert "\nBefore=network-pre.target" in always and "\nRestart=on-failure" in always


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_hardened(unit: Path) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager"]
    done = subprocess.run([*argv, str(unit)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
