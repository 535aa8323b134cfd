"""Sockets of a command's network namespace, for the process outside (Linux).

A socket belongs to the namespace it was made in, whichever process uses it. A process cannot enter
a user namespace while it has threads, and could not leave it again: so a forked child does, makes
what it is asked for and hands it out. It holds no other descriptor, and is closed to ptrace(2).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct

import trio

from ..._lwip import ffi, lib
from ...errors import HostError
from .errors import explain
from .spawn import Rootless

__all__ = ["NamespaceSockets"]

_REQUEST = struct.Struct("=ii")
_ANSWER = struct.Struct("=i")


class NamespaceSockets:
    """Makes sockets in the namespace of ``command``; as a context manager its end closes it.

    What it has made lives on. To be made in the main thread, while there is no other.

    :raises HostError: the namespaces cannot be entered.
    """

    def __init__(self, command: Rootless) -> None:
        report = ffi.new("struct zks_nsrun_report *")
        pid, control = ffi.new("int *"), ffi.new("int *")
        code = lib.zks_nsrun_sockets(command.pid, command.user_namespace, report, pid, control)
        if code != 0:
            raise HostError(f"cannot start a process for published ports: {os.strerror(-code)}")
        if report.step != lib.ZKS_NSRUN_DONE:
            raise explain(report.step, report.error, os.fsdecode(ffi.string(report.detail)))
        self.pid: int = pid[0]
        self._control = socket.socket(fileno=control[0])
        self._control.setblocking(False)
        self._lock = trio.Lock()
        self._owed = 0  # answers that have not come yet

    async def open(self, family: int, kind: int) -> socket.socket:
        """Return a new non-blocking socket of the namespace.

        :param family: AF_INET or AF_INET6.
        :param kind: SOCK_STREAM or SOCK_DGRAM.
        :raises OSError: there is no such socket, or none is left.
        :raises HostError: the process that makes them has ended.
        """
        async with self._lock:
            try:
                self._control.send(_REQUEST.pack(family, kind))
                self._owed += 1
                while True:
                    await trio.lowlevel.wait_readable(self._control)
                    data, fds, flags, _ = socket.recv_fds(
                        self._control, _ANSWER.size, 1, socket.MSG_CMSG_CLOEXEC
                    )
                    self._owed -= 1
                    if self._owed == 0:
                        break
                    for fd in fds:  # that of a caller who was cancelled
                        os.close(fd)
            except (BrokenPipeError, ConnectionResetError):
                data, fds, flags = b"", [], 0
        if len(data) != _ANSWER.size:
            raise HostError(
                f"the process {self.pid}, which makes the sockets of published ports, has ended"
            )
        (code,) = _ANSWER.unpack(data)
        if code:
            raise OSError(code, os.strerror(code))
        if not fds:  # MSG_CTRUNC: it could not be given a number here
            assert flags & socket.MSG_CTRUNC
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """End the process; twice is harmless."""
        if self._control.fileno() < 0:
            return
        self._control.close()
        os.kill(self.pid, signal.SIGKILL)  # ours until it is waited for
        os.waitpid(self.pid, 0)

    def __enter__(self) -> NamespaceSockets:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
