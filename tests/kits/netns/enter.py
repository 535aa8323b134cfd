"""Enter network namespaces: threads of the tests, and commands that they start (``enter.c``)."""

from __future__ import annotations

import ctypes
import os

from tests.kits.netns.compiled import compiled

__all__ = ["program", "set_net"]

_CLONE_NEWNET = 0x40000000


def program() -> str:
    """Return the program that becomes a command in a namespace; ``enter.c`` tells its options.

    (It is in C: it comes before nearly every command, and Python takes ten times as long to start.)
    """
    return str(compiled("enter.c"))


def set_net(path: str) -> None:
    """Move the calling thread into the network namespace at ``path``.

    :raises OSError: there is no such namespace, or it may not be entered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns {path}: {os.strerror(number)}")
    finally:
        os.close(fd)
