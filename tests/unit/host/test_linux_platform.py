"""Linux: what is loaded before privileges are given away, and what is said without them."""

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


REFUSAL = """
import encodings.ascii  # now: the other user may not be able to read Python's files
import os
from zks_lwip.errors import PrivilegeError
from zks_lwip.host.linux import platform, privileges

if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
for command in ("connect", "recover"):
    try:
        platform.check_privileges(command)
    except PrivilegeError as error:
        print(error)
"""


def test_only_connect_without_privilege_is_told_of_run() -> None:
    command = [sys.executable, "-c", REFUSAL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    connect, recover = done.stdout.splitlines()
    assert connect.startswith("connect needs root") and "`zks-lwip run -- COMMAND`" in connect
    assert recover.startswith("recover needs root") and "`zks-lwip run" not in recover
