"""What ``run`` answers for this machine's own name."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

from zks_lwip.vpn.command import own_names


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost  # this machine is elsewhere\n127.0.1.1 desk Desk2\n")
    return path


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("Laptop", ["laptop=198.18.0.1", "laptop="]),
        ("desk2", []),
        ("static", []),
        ("laptop.example", []),
        ("a b", []),
    ],
)
def test_a_name_that_nobody_else_answers(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, name: str, answered: list[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    found = [str(item) for item in own_names({"static"}, hosts=hosts)]
    assert len(found) == len(answered)
    assert all(one.startswith(start) for one, start in zip(found, answered, strict=True))


def test_without_a_hosts_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    assert len(own_names(set(), hosts=tmp_path / "none")) == 2
