"""The service manager is told, where there is one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from zks_lwip.daemon.systemd import notify

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is on Linux")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(short_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    path = f"@zks-test-{short_path.name}" if abstract else str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path[1:] if abstract else path)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1", "STATUS=connected")
        assert manager.recv(100) == b"READY=1\nSTATUS=connected"


def test_a_service_manager_that_is_away_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "no-socket"))
    notify("READY=1")
    assert "NOTIFY_SOCKET" in caplog.text
    caplog.clear()
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
    assert caplog.text == ""
