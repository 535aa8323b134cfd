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
from zks_lwip.host._programs import read_program


def test_what_it_says() -> None:
    script = 'echo "$LC_ALL"; echo unseen >&2; printf "\\377\\n"; exit 3'
    assert read_program(["sh", "-c", script]) == (3, "C\n\ufffd\n")
    assert read_program(["sh", "-c", 'read line || echo "$PATH"'])[1].strip().endswith("/sbin")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec yes", "printed more than 1 MiB"),
        ("exec sleep 60", "did not end within 0.3 s"),
        ("exec >&-; exec sleep 60", "did not end within 0.3 s"),
        ("sleep 60 & wait", "did not end within 0.3 s"),
    ],
)
def test_it_is_bounded(script: str, why: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HostError, match=why):
        read_program(["sh", "-c", f"echo $$ >{tmp_path}/pid; {script}"], most=1 << 20, patience=0.3)
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_it_is_not_there() -> None:
    with pytest.raises(HostError, match=r"it cannot be run: No such file or directory"):
        read_program(["/no-such-program", "--x"])
