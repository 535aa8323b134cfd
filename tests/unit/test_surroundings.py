"""What the tests are started in does not reach them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("signals and descriptors are those of POSIX", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

ODD = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
os.umask(0o077)
os.close(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
SHOW = """
import json, os, signal, subprocess, sys
if sys.argv[1] == "ordinary":
    from tests.kits.surroundings import make_ordinary
    make_ordinary()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
closed = [fd for fd in range(3) if not os.path.exists(f"/proc/self/fd/{fd}")]
mask = os.umask(0)
print(json.dumps({
    "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16), "umask": mask,
    "closed": closed, "names": sorted(os.environ), "zone": os.environ.get("TZ"),
    "code": subprocess.run(["sh", "-c", "exit 3"]).returncode,
}))
"""
NAMES = ["https_proxy", "HTTPS_PROXY", "NO_PROXY", "GIT_DIR", "SSH_CONNECTION", "NOTIFY_SOCKET"]


def show(how: str) -> dict[str, object]:
    environment = {**os.environ, **dict.fromkeys(NAMES, "x"), "TZ": "Asia/Kathmandu"}
    argv = [sys.executable, "-c", ODD, sys.executable, "-c", SHOW, how]
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    seen = json.loads(done.stdout)
    assert isinstance(seen, dict)
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_what_is_odd_is_taken_away() -> None:
    odd, ordinary = show("as it is"), show("ordinary")
    assert odd["code"] == 0 and odd["umask"] == 0o077 and odd["blocked"] and odd["closed"] == [0]
    python = 1 << 12 | 1 << 24  # SIGPIPE (13) and SIGXFSZ (25): Python's own
    # (Some of glibc's own, 32 and 33, cannot be taken back.)
    assert int(str(ordinary["ignored"])) & ~(0b11 << 31) == python
    assert (ordinary["code"], ordinary["umask"], ordinary["zone"]) == (3, 0o022, "UTC")
    assert ordinary["blocked"] == 0 and ordinary["closed"] == []
    assert set(NAMES) <= set(map(str, list(odd["names"])))  # type: ignore[call-overload]
    assert not set(NAMES) & set(map(str, list(ordinary["names"])))  # type: ignore[call-overload]
