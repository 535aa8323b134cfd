"""Where cgroup v2 is, and what is said of a cgroup that is not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("cgroups are Linux's", allow_module_level=True)

from zks_lwip.errors import HostError
from zks_lwip.host.linux.cgroup import (
    add_process,
    find_cgroups,
    is_populated,
    make_cgroup,
    processes,
    remove_cgroup,
)

LINE = "30 23 0:26 / {path} rw,nosuid shared:9 - {kind} {kind} rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        (LINE.format(path="/sys/fs/cgroup", kind="cgroup2"), "/sys/fs/cgroup"),
        (
            LINE.format(path="/sys/fs/cgroup/systemd", kind="cgroup")
            + LINE.format(path="/sys/fs/cgroup/unified", kind="cgroup2"),
            "/sys/fs/cgroup/unified",
        ),
        (LINE.format(path="/mnt/cgroup2", kind="cgroup2"), None),
        (LINE.format(path="/sys/fs/cgroup", kind="tmpfs"), None),
        ("garbage\n - \n - cgroup2 x\n", None),
    ],
)
def test_where_it_is(tmp_path: Path, mounts: str, found: str | None) -> None:
    (tmp_path / "mountinfo").write_text(mounts)
    assert find_cgroups(tmp_path / "mountinfo") == found


def test_what_is_not_there(tmp_path: Path) -> None:
    assert find_cgroups(tmp_path / "mountinfo") is None
    path = str(tmp_path / "none")
    remove_cgroup(path)
    assert processes(path) == [] and not is_populated(path)
    with pytest.raises(HostError, match="cannot make the cgroup .* cgroup v2"):
        make_cgroup(str(tmp_path / "no" / "where"))
    with pytest.raises(HostError, match="cannot make the cgroup"):
        make_cgroup(path)  # a folder, but no cgroup


def test_a_process_that_cannot_be_moved() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(HostError, match="process 7 cannot be moved: No space left"):
            add_process(fd, 7)
    finally:
        os.close(fd)
