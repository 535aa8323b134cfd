"""The worker's own sockets: non-blocking, marked, and connected without any name look-up."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

import trio

from ..errors import PrivilegeError
from .policy import IPAddress

__all__ = [
    "check_mark",
    "close_in_order",
    "connect",
    "end_in_order",
    "end_in_reset",
    "family_of",
    "open_socket",
    "reset",
    "sockaddr",
]

_SO_MARK = getattr(socket, "SO_MARK", None)
# struct linger {on, 0 seconds}: two shorts on Windows, two ints elsewhere
_LINGER_ZERO = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
_LINGER_OFF = struct.pack("hh" if os.name == "nt" else "ii", 0, 0)


def sockaddr(address: IPAddress, port: int) -> tuple[str, int]:
    """What the socket module wants; a literal, so nothing is looked up."""
    return (str(address), port)


def family_of(address: IPAddress) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def open_socket(family: int, kind: int, mark: int | None, proto: int = 0) -> socket.socket:
    """A non-blocking socket with SO_MARK set before anything can leave by it. Raises OSError."""
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        if mark is not None and _SO_MARK is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except BaseException:
        sock.close()
        raise
    return sock


def check_mark(mark: int | None) -> None:
    """Raise :class:`~zks_lwip.errors.PrivilegeError` unless sockets can be given this mark."""
    if mark is None:
        return
    if _SO_MARK is None:
        raise PrivilegeError("--mark: this system has no socket marks (SO_MARK, Linux only)")
    try:
        open_socket(socket.AF_INET, socket.SOCK_DGRAM, mark).close()
    except PermissionError:
        raise PrivilegeError(
            "--mark: the system refuses socket marks; run as root or with CAP_NET_ADMIN"
        ) from None


async def connect(
    sock: socket.socket, address: tuple[str, int] | tuple[str, int, int, int]
) -> None:
    """Connect a non-blocking socket. Raises OSError; the caller closes the socket."""
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", -1)):
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, errno.errorcode.get(code, str(code)))


def end_in_reset(sock: socket.socket) -> None:
    """Let the end of this process, however it comes, be a reset for the far end. Raises OSError.

    The kernel closes what a killed process had open, and would end an upload that was cut as if it
    was whole. Holds until :func:`end_in_order`.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def end_in_order(sock: socket.socket) -> None:
    """Let the kernel deliver what is unsent, and then FIN. Raises OSError.

    For a socket that has been given all that there is to send.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)


def close_in_order(sock: socket.socket) -> None:
    """Close with FIN, behind what is unsent."""
    try:
        end_in_order(sock)
    except OSError:  # already reset by the far end: closing is all that is left
        pass
    finally:
        sock.close()


def reset(sock: socket.socket) -> None:
    """Close with RST: what is unsent is discarded, and the far end sees an abort, not an end."""
    try:
        end_in_reset(sock)
    except OSError:  # already reset by the far end: closing is all that is left
        sock.close()
        return
    sock.close()
