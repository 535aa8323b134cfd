"""Reach a network namespace that only sockets keep alive, through one that a process holds."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["open_namespace_of_socket"]

_PIDFD_GETFD = 438
_SIOCGSKNS = 0x894C
"""Opens a socket's namespace; a TUN's descriptor takes it, too."""


def open_namespace_of_socket(inode: int) -> int | None:
    """Return a descriptor of the network namespace with that inode, for the caller to close.

    Looked for through the sockets and TUNs of all processes, some microseconds each. One that is
    in no process, as it is on its way in a message, is not found.

    :returns: None: none is found, or Linux is older than 5.6.
    """
    device = os.stat("/proc/self/ns/net").st_dev
    for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
        try:
            process = os.pidfd_open(pid)
        except OSError:
            continue  # it has ended
        try:
            for fd in _sockets(pid):
                namespace = _namespace(process, fd)
                if namespace is None:
                    continue
                status = os.fstat(namespace)
                if (status.st_dev, status.st_ino) == (device, inode):
                    return namespace
                os.close(namespace)
        finally:
            os.close(process)
    return None


def _sockets(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return  # it has ended
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue  # it was closed
        if target.startswith("socket:[") or target.endswith("/net/tun"):
            yield int(name)


def _namespace(process: int, fd: int) -> int | None:
    """Return a descriptor of the namespace of another process's socket; None: there is none."""
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, fd, 0)
    if copy < 0:
        return None  # it was closed, or that process may not be touched
    try:
        return fcntl.ioctl(copy, _SIOCGSKNS)
    except OSError:
        return None  # of a namespace that is being taken down, or no socket any more
    finally:
        os.close(copy)
