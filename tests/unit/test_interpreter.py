"""Processes of ours take no code from the directory that we happen to be in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_STARTS = {
    "embedded worker": (
        "import trio\n"
        "from zks_lwip.vpn.embedded_worker import open_embedded_worker\n"
        "async def main():\n"
        "    async with open_embedded_worker() as worker:\n"
        "        print('up', worker.url)\n"
        "trio.run(main)\n"
    ),
    "resolver's helper": (
        "from zks_lwip.host.linux.resolver_helper import ResolverHelper\n"
        "helper = ResolverHelper([])\n"
        "print('up')\n"
        "helper.close()\n"
    ),
}


@pytest.mark.parametrize("what", _STARTS)
def test_no_module_of_the_working_directory_is_run(tmp_path: Path, what: str) -> None:
    if what != "embedded worker" and sys.platform != "linux":
        pytest.skip("works on Linux only")
    planted = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n"
    for name in ("json", "runpy", "trio", "zks_lwip"):
        (tmp_path / f"{name}.py").write_text(planted, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    # The parent is started as its console script is: without the working directory.
    done = subprocess.run(
        [sys.executable, "-P", "-c", _STARTS[what]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not (tmp_path / "ran").exists(), "a module of the working directory was run"
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("up")
