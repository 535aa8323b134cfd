"""Cgroups (v2), see cgroups(7): find where they are, make one, move processes, remove it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from ...errors import HostError

__all__ = [
    "add_process",
    "find_cgroups",
    "is_populated",
    "make_cgroup",
    "processes",
    "remove_cgroup",
]

_ROOT = "/sys/fs/cgroup"
_PROCESSES, _EVENTS = "cgroup.procs", "cgroup.events"
_MAX_SECONDS = 2.0
"""For processes that fork while they are moved."""


def find_cgroups(mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return where cgroup v2 is mounted, at /sys/fs/cgroup or directly below; None: nowhere.

    :param mounts: as proc_pid_mountinfo(5) has it.
    """
    found = []
    try:
        text = mounts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        path = fields.split(" ")[4:5]
        if kind.startswith("cgroup2 ") and path:
            found.append(path[0])
    # (The last one mounted at a place is the one that is seen.)
    return next(
        (each for each in found if each == _ROOT or os.path.dirname(each) == _ROOT),
        None,
    )


def make_cgroup(path: str) -> int:
    """Make a cgroup, and see that it holds no process.

    :returns: a descriptor of its list of processes, to write ids into: who opens it counts, not who
        writes. The caller closes it.
    :raises HostError: it cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        _evict(path)
        return os.open(os.path.join(path, _PROCESSES), os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"cannot make the cgroup {path}: {error.strerror}; `allow_exclude` needs cgroup v2 "
            "that root may write (in a container, often not)"
        ) from error


def remove_cgroup(path: str) -> None:
    """Remove a cgroup, if it is there; its processes go on in the root of the hierarchy.

    :raises HostError: it cannot be removed.
    """
    end = time.monotonic() + _MAX_SECONDS
    while True:
        try:
            _evict(path)
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise HostError(f"cannot remove the cgroup {path}: {error.strerror}") from error
            time.sleep(0.01)  # a process that was about to fork, or to end


def add_process(fd: int, pid: int) -> None:
    """Move a process, with all its threads, into the cgroup.

    :param fd: of :func:`make_cgroup`.
    :raises HostError: it has ended, or may not be moved.
    """
    try:
        os.write(fd, str(pid).encode())
    except OSError as error:
        raise HostError(f"process {pid} cannot be moved: {error.strerror}") from error


def is_populated(path: str) -> bool:
    """Return whether the cgroup holds a process."""
    try:
        text = Path(path, _EVENTS).read_text(encoding="ascii")
    except OSError:
        return False
    return "populated 1" in text.splitlines()


def processes(path: str) -> list[int]:
    """Return the ids of the cgroup's processes; none where there is no cgroup.

    A process of another pid namespace, which has no id here, is 0.
    """
    try:
        return list(map(int, Path(path, _PROCESSES).read_text(encoding="ascii").split()))
    except OSError:
        return []


def _evict(path: str) -> None:
    """Move all processes to the root of the hierarchy."""
    root = os.path.join(os.path.dirname(path), _PROCESSES)
    for pid in Path(path, _PROCESSES).read_text(encoding="ascii").split():
        try:
            Path(root).write_text(pid, encoding="ascii")
        except ProcessLookupError:
            continue  # it has ended
