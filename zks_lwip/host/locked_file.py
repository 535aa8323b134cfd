"""Files that one process holds, and others see that it does: what differs between the systems."""

from __future__ import annotations

import os
import sys

__all__ = ["FLAGS", "REPLACES", "lock", "write_at"]

FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""For every :func:`os.open`: not for other programs, no symbolic link, bytes as they are."""
REPLACES = sys.platform != "win32"
"""Whether a file that is open can be replaced by another of its name."""

if sys.platform == "win32":
    import ctypes
    import msvcrt

    from .windows.file_lock import FileLock

    def lock(fd: int, *, wait: bool = False, shared: bool = False) -> None:
        """Lock a file until it is closed.

        :param wait: until it is free.
        :param shared: others may lock it so, too.
        :raises BlockingIOError: another process holds it.
        """
        kernel = ctypes.CDLL("kernel32.dll", use_last_error=True)
        FileLock(kernel).take(msvcrt.get_osfhandle(fd), wait=wait, shared=shared)

    def write_at(fd: int, data: bytes, offset: int) -> int:
        """Write bytes there; return how many were written."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)

else:
    import fcntl

    def lock(fd: int, *, wait: bool = False, shared: bool = False) -> None:
        """Lock a file until it is closed.

        :param wait: until it is free.
        :param shared: others may lock it so, too.
        :raises BlockingIOError: another process holds it.
        """
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)

    def write_at(fd: int, data: bytes, offset: int) -> int:
        """Write bytes there; return how many were written."""
        return os.pwrite(fd, data, offset)
