"""Programs that are asked, whatever they answer."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("these programs are Linux's", allow_module_level=True)

from zks_lwip.errors import HostError
from zks_lwip.host.programs import read_program, run_program
from zks_lwip.net.descriptors import is_scarcity


def test_what_it_says() -> None:
    script = 'echo "$LC_ALL"; echo unseen >&2; printf "\\377\\n"; exit 3'
    assert read_program(["sh", "-c", script]) == (3, "C\n\ufffd\n")
    assert read_program(["sh", "-c", 'read line || echo "$PATH"'])[1].strip().endswith("/sbin")


@pytest.mark.parametrize(
    ("script", "patience", "why"),
    [
        ("exec yes", 30.0, "printed more than 1 MiB"),
        ("exec sleep 60", 2.0, "did not end within 2.0 s"),
        ("exec >&-; exec sleep 60", 2.0, "did not end within 2.0 s"),
        ("sleep 60 & wait", 2.0, "did not end within 2.0 s"),
    ],
)
def test_it_is_bounded(script: str, patience: float, why: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HostError, match=why):
        read_program(
            ["sh", "-c", f"echo $$ >{tmp_path}/pid; {script}"], most=1 << 20, patience=patience
        )
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("said", "scarce"),
    [
        ("Unable to initialize Netlink socket: Too many open files in system", True),
        ("Could not process rule: Cannot allocate memory", True),
        ("Could not process rule: No such file or directory", False),
        ("", False),
    ],
)
def test_what_it_lacks_is_told_apart(said: str, scarce: bool) -> None:
    """What can wait for descriptors and memory does, also where nft has none."""
    with pytest.raises(HostError) as caught:
        run_program(["sh", "-c", 'echo "$0" >&2; exit 1', said])
    assert is_scarcity(caught.value) == scarce


def test_it_is_not_there() -> None:
    with pytest.raises(HostError, match=r"it cannot be run: No such file or directory"):
        read_program(["/no-such-program", "--x"])
