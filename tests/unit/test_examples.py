"""The examples run, and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_embed_stack_fits_one_screen_and_runs() -> None:
    script = ROOT / "examples" / "embed_stack.py"
    assert len(script.read_text().splitlines()) <= 50
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["192.0.2.1 port 80 says HELLO", "2001:db8::7 port 65000 says HELLO"]
    assert re.fullmatch(r"packets through lwIP: [1-9]\d*", lines[2])
