"""Windows' news of interfaces, addresses and routes, for :mod:`zks_lwip.host.monitor`.

Windows calls a function in a thread of its own; it writes a byte into a socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
from collections.abc import Iterator
from ctypes import c_int32, c_void_p

import trio

from .iphelper import IpHelper

__all__ = ["LOOK_SECONDS", "news"]

LOOK_SECONDS = 15.0
"""Until another look where there are no news: nothing tells that our filters were removed."""

_OF = ("NotifyIpInterfaceChange", "NotifyUnicastIpAddressChange", "NotifyRouteChange2")
_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int32)


@contextlib.contextmanager
def news(helper: IpHelper) -> Iterator[trio.socket.SocketType]:
    """A socket that becomes readable with each change; closed by who reads it.

    :raises OSError: that cannot be followed.
    """
    reader, writer = socket.socketpair()
    with contextlib.closing(writer):
        for one in (reader, writer):
            one.setblocking(False)

        def tell(context: int | None, row: int | None, kind: int) -> None:
            with contextlib.suppress(OSError):  # full: there is news to be read; closed: the end
                writer.send(b"n")

        callback = _CALLBACK(tell)
        handles: list[c_void_p] = []
        try:
            for name in _OF:
                handles.append(helper.notify(name, callback))
            yield trio.socket.from_stdlib_socket(reader)
        finally:
            for handle in handles:
                helper.end_notify(handle)
            reader.close()
