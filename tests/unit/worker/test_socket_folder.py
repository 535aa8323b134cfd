"""Where the sockets between processes are: what a killed supervisor leaves is removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it needs unix sockets")

SUPERVISOR = """
from zks_lwip.worker import WorkerConfig
from zks_lwip.worker.processes import Supervisor
supervisor = Supervisor(WorkerConfig(port=0), 2, ["x"])
print("made", flush=True)
import time; time.sleep(600)
"""


def ours(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir()}


def start(parent: Path) -> subprocess.Popen[bytes]:
    """A supervisor that has made its directory in another one."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR],
        env=os.environ | {"TMPDIR": str(parent)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"made\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_next_one_removes_what_a_killed_one_has_left(short_path: Path) -> None:
    first = start(short_path)
    left = ours(short_path)
    assert len(left) == 1
    second = start(short_path)
    try:
        both = ours(short_path)
        assert left < both and len(both) == 2  # the first one lives
        end(first)
        third = start(short_path)
        try:
            now = ours(short_path)
            assert not left & now and both - left < now and len(now) == 2
        finally:
            end(third)
    finally:
        end(second)
        end(first)


def test_what_is_not_its_own_is_left(short_path: Path) -> None:
    from zks_lwip.worker.processes.folder import SocketFolder

    def dead(name: str, mode: int = 0o700) -> Path:
        path = short_path / f"zks-lwip-worker-{name}"
        path.mkdir()
        path.chmod(mode)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path / "0"))
        return path

    mine, elsewhere = dead("mine"), short_path / "elsewhere"
    open_to_others = dead("open", 0o755)
    with_a_file = dead("file")
    (with_a_file / "notes").write_text("by hand")
    elsewhere.mkdir(0o700)
    (elsewhere / "0").write_text("")
    link, file = short_path / "zks-lwip-worker-link", short_path / "zks-lwip-worker-x"
    link.symlink_to(elsewhere)
    file.write_text("")
    folder = SocketFolder(short_path)
    assert not mine.exists()
    assert (open_to_others / "0").exists() and (with_a_file / "notes").exists()
    assert link.is_symlink() and (elsewhere / "0").exists() and file.exists()
    again = SocketFolder(short_path)
    assert folder.path.is_dir() and again.path != folder.path
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder.path / "0"))
    for each in (folder, again):
        each.remove()
        each.remove()
        assert not each.path.exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes other users' files"
)
def test_another_users_is_left(short_path: Path) -> None:
    from zks_lwip.worker.processes.folder import SocketFolder

    path = short_path / "zks-lwip-worker-other"
    path.mkdir(0o700)
    os.chown(path, 65534, 65534)
    SocketFolder(short_path).remove()
    assert path.is_dir()
