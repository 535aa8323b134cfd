"""Locks on files of Windows, by ctypes: ``msvcrt.locking`` has none that several may hold."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from ctypes import c_int32, c_uint32, c_void_p, pointer
from typing import Any

from ...net.windows import WindowsCallError, last_error

__all__ = [
    "ERROR_LOCK_VIOLATION",
    "LOCKED_AT",
    "LOCKFILE_EXCLUSIVE_LOCK",
    "LOCKFILE_FAIL_IMMEDIATELY",
    "FileLock",
    "Overlapped",
]

LOCKFILE_FAIL_IMMEDIATELY, LOCKFILE_EXCLUSIVE_LOCK = 1, 2
ERROR_LOCK_VIOLATION = 33
LOCKED_AT = 1 << 30
"""The byte that is locked, far behind all contents: what is locked, others cannot read."""


class Overlapped(ctypes.Structure):
    """``OVERLAPPED``."""

    _fields_ = (
        ("Internal", c_void_p),
        ("InternalHigh", c_void_p),
        ("Offset", c_uint32),
        ("OffsetHigh", c_uint32),
        ("hEvent", c_void_p),
    )


class FileLock:
    """Functions of ``kernel32.dll``.

    :param error: returns the error of the function that has failed.
    """

    def __init__(self, kernel: Any, error: Callable[..., WindowsCallError] = last_error) -> None:
        self._kernel, self._error = kernel, error

    def take(self, handle: int, *, wait: bool, shared: bool) -> None:
        """Lock a file, open for reading or writing, until its handle is closed.

        :param wait: until it is free.
        :param shared: others may lock it so, too.
        :raises BlockingIOError: it is locked, by whatever handle.
        :raises WindowsCallError: it cannot be locked.
        """
        how = 0 if shared else LOCKFILE_EXCLUSIVE_LOCK
        how |= 0 if wait else LOCKFILE_FAIL_IMMEDIATELY
        take = self._kernel["LockFileEx"]
        take.restype = c_int32
        take.argtypes = [c_void_p, c_uint32, c_uint32, c_uint32, c_uint32, c_void_p]
        if not take(handle, how, 0, 1, 0, pointer(Overlapped(Offset=LOCKED_AT))):
            error = self._error()
            if error.code == ERROR_LOCK_VIOLATION:
                raise BlockingIOError(errno.EAGAIN, error.strerror) from error
            raise error
