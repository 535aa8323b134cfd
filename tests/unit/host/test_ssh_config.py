"""Which files of OpenSSH's configuration are copied for a user namespace."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

from zks_lwip.host.rootless.ssh_config import (
    MAX_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    ConfigFile,
    included_files,
)

# Of the files that a test makes all belong to us, and what is copied are those of another.
OTHER = 4242


def files(root: Path, owner: int | None = None, caller: int = OTHER) -> dict[str, ConfigFile]:
    owner = os.getuid() if owner is None else owner
    found = included_files(root, home=root / "home", owner=owner, caller=caller)
    return {file.path.removeprefix(f"{root}/"): file for file in found}


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_included_files_and_no_others(tmp_path: Path) -> None:
    """As Debian and Fedora have it: a folder, links out of it, an include in what is included."""
    system = tmp_path / "etc/ssh/ssh_config"
    write(system, f"# Include /nowhere\nInclude {tmp_path}/etc/ssh/ssh_config.d/*.conf\nHost *\n")
    folder = tmp_path / "etc/ssh/ssh_config.d"
    write(tmp_path / "etc/crypto/openssh.txt", "Ciphers x\n")
    write(folder / "50-redhat.conf", f"Match final\n  include {tmp_path}/etc/crypto/openssh.txt\n")
    write(tmp_path / "usr/lib/systemd/20-proxy.conf", "Host unix/*\n", 0o664)
    (folder / "20-proxy.conf").symlink_to("../../../usr/lib/systemd/20-proxy.conf")
    write(folder / "not-a-match", "Host z\n")
    (folder / "broken.conf").symlink_to("nowhere")
    found = files(tmp_path)
    assert set(found) == {
        "etc/ssh/ssh_config.d/50-redhat.conf",
        "etc/crypto/openssh.txt",
        "usr/lib/systemd/20-proxy.conf",
    }
    assert found["etc/crypto/openssh.txt"].content == b"Ciphers x\n"
    assert found["usr/lib/systemd/20-proxy.conf"].mode == 0o664, "what ssh refuses, it refuses here"
    assert files(tmp_path, owner=OTHER + 1) == {}, "of a third user: ssh refuses it outside, too"


@pytest.mark.parametrize(
    "line",
    [
        "Include more.conf",
        "  INCLUDE=more.conf",
        'include "more.conf" # why',
        "Include none.conf more.*",
        "Include %u*.conf mor[e].conf",
        "Include ${ZKS_TEST_PART}.conf",
        "Include %%h/more.conf mo%h.conf",
    ],
)
def test_the_forms_of_include(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKS_TEST_PART", "more")
    write(tmp_path / "etc/ssh/ssh_config", f"Host *\n{line}\nInclude 'open\n")
    write(tmp_path / "etc/ssh/more.conf", "User x\n")
    assert set(files(tmp_path)) == {"etc/ssh/more.conf"}


def test_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that another user manages: ~/.ssh/config is a link to another's file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "store/config", "Include hosts ~/.ssh/keys.d/* %d/third\n")
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "home/.ssh/config").symlink_to(tmp_path / "store/config")
    for name in (".ssh/hosts", ".ssh/keys.d/a", "third"):
        write(tmp_path / "home" / name, "User x\n")
    expected = {"store/config", "home/.ssh/hosts", "home/.ssh/keys.d/a", "home/third"}
    assert set(files(tmp_path)) == expected


def test_nothing_is_needed_for_ones_own(tmp_path: Path) -> None:
    write(tmp_path / "etc/ssh/ssh_config", "Include more.conf\n")
    write(tmp_path / "etc/ssh/more.conf", "User x\n")
    assert files(tmp_path, caller=os.getuid()) == {}


def test_what_is_odd_neither_hangs_nor_grows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A FIFO, a folder, a file that includes itself, NUL bytes, one too large, too many."""
    folder = tmp_path / "etc/ssh/d"
    write(tmp_path / "etc/ssh/ssh_config", "Include d/*\nInclude many/*\n")
    write(folder / "self", "Include d/self\nInclude d/*\n")
    write(folder / "nul", "User x\0y\n")
    write(folder / "large", "#" * (MAX_FILE_BYTES + 1))
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    assert set(files(tmp_path)) == {"etc/ssh/d/self"}
    assert "large is too large" in caplog.text
    for number in range(MAX_FILES + 50):
        write(tmp_path / f"etc/ssh/many/{number:04}", "User x\n")
    assert len(files(tmp_path)) < MAX_FILES
    assert caplog.text.count("more OpenSSH configuration") == 1


def test_bytes_are_bounded(tmp_path: Path) -> None:
    write(tmp_path / "etc/ssh/ssh_config", "Include many/*\n")
    size = MAX_FILE_BYTES
    for number in range(20):
        write(tmp_path / f"etc/ssh/many/{number}", "#" * size)
    total = sum(len(file.content) for file in files(tmp_path).values())
    assert total <= MAX_BYTES + size


def test_one_that_we_may_not_read_is_left_alone(tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may read everything")
    write(tmp_path / "etc/ssh/ssh_config", "Include more.conf\n")
    write(tmp_path / "etc/ssh/more.conf", "User x\n", 0)
    assert files(tmp_path) == {}
