"""Where the sockets between the processes of one worker are: a directory of its user's alone.

A supervisor that is killed cannot remove its directory: the next one does. A lock (flock(2)) on
each says that its supervisor lives, whatever number that has, and goes with it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SocketFolder"]

_log = logging.getLogger(__name__)

_PREFIX = "zks-lwip-worker-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class SocketFolder:
    """A new directory that holds sockets and nothing else; those of the dead are removed.

    :ivar path: where it is.
    :param parent: the directory that it is made in.
    :raises OSError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        for path in parent.glob(f"{_PREFIX}*"):
            _remove_dead(path)
        fd: int | None = None
        while fd is None:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # for us alone (0700)
            fd = _locked(self.path)
        self._fd = fd

    def remove(self) -> None:
        """Remove it, and the sockets in it; harmless a second time."""
        if self._fd >= 0:
            _remove(self.path, self._fd)
            os.close(self._fd)
            self._fd = -1


def _locked(path: Path) -> int | None:
    """Open and lock a new directory; None: until then it looked like one of the dead, and is gone.

    :returns: what holds the lock while it is open. Programs that are started do not inherit it.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists():  # its name is random: no other one has it
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _remove_dead(path: Path) -> None:
    """Remove a directory if it is one of ours whose supervisor has ended."""
    try:
        with _opened(path) as fd:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
                return
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            _remove(path, fd)
    except OSError as error:  # a link, a file, another user's; or another one was faster
        _log.debug("%s is left: %s", path, error)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _remove(path: Path, fd: int) -> None:
    """Remove the sockets of an open directory, and it itself if nothing else is in it."""
    try:
        for name in os.listdir(fd):
            if stat.S_ISSOCK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
        os.rmdir(path)
    except OSError as error:
        _log.debug("%s was not removed: %s", path, error)
