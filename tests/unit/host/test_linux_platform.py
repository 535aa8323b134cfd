"""What captures a Linux host is loaded before privileges are given away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys
from zks_lwip.host.linux import platform
from zks_lwip.host.plan.config import HostConfig
from zks_lwip.host.plan.make import make_plan
from tests.unit.host.test_plan import LAPTOP

platform.applied(make_plan(HostConfig(), LAPTOP))
before = set(sys.modules)
from zks_lwip.host.linux import monitor
print(*sys.modules.keys() - before)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def test_what_follows_the_host_is_loaded_with_what_captures_it() -> None:
    """``connect --user``: that user may not be able to read Python's files."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
