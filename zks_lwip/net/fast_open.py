"""TCP Fast Open (RFC 7413), as Linux has it: the first bytes leave with the SYN.

The kernel does that where an earlier connection to the same address has brought a cookie, and where
sysctl ``net.ipv4.tcp_fastopen`` allows it: bit 1 to clients (as it is by default), bit 2 to servers
(it is not). Elsewhere everything is as without. A SYN may come twice, and so may what is in it.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Protocol

__all__ = ["accept_early_data", "is_deferred", "send_early"]

_LINUX = sys.platform == "linux"
_FASTOPEN, _FASTOPEN_CONNECT = 23, 30  # linux/tcp.h; the second since Linux 4.11
_QUEUE = 256
"""Connections with early data whose handshake is not over; others go on as without."""
_TCP_INFO = 11  # tcpi_state is its first byte
_SYN_SENT = 2


class _TcpSocket(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


def accept_early_data(listener: _TcpSocket) -> None:
    """Have a TCP listener take what comes with SYNs, where the system allows it."""
    if _LINUX:
        with suppress(OSError):  # a kernel without it
            listener.setsockopt(socket.IPPROTO_TCP, _FASTOPEN, _QUEUE)


def send_early(sock: _TcpSocket) -> None:
    """Before ``connect``: have what is sent first leave with the SYN, where there is a cookie.

    ``connect`` then returns before anything has left: see :func:`is_deferred`. Where there is no
    cookie it asks for one, and is as usual.
    """
    if _LINUX:
        with suppress(OSError):  # a kernel without it
            sock.setsockopt(socket.IPPROTO_TCP, _FASTOPEN_CONNECT, 1)


def is_deferred(sock: _TcpSocket) -> bool:
    """Return whether ``connect`` has returned, and nothing has been answered yet."""
    if not _LINUX:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _SYN_SENT
    except OSError:
        return False
