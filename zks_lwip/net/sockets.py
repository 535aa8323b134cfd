"""Sockets of client and worker: non-blocking, marked, and connected without any name look-up."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import trio

from ..errors import PrivilegeError

__all__ = [
    "HAS_MARKS",
    "IN_PROGRESS",
    "IPAddress",
    "MarkRefused",
    "check_mark",
    "close_in_order",
    "connect",
    "end_in_order",
    "end_in_reset",
    "family_of",
    "open_connection",
    "open_socket",
    "reset",
    "sockaddr",
]

IPAddress = IPv4Address | IPv6Address

_SO_MARK: int | None = getattr(socket, "SO_MARK", None)
HAS_MARKS = _SO_MARK is not None
"""Whether this system has marks of sockets (SO_MARK, Linux only)."""
# struct linger {on, 0 seconds}: two shorts on Windows, two ints elsewhere
_LINGER_ZERO = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
_LINGER_OFF = struct.pack("hh" if os.name == "nt" else "ii", 0, 0)


IN_PROGRESS = frozenset(
    (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", -1))
)
"""What ``connect_ex`` of a non-blocking socket returns when it is not known yet."""


class MarkRefused(PermissionError):
    """A socket cannot be given a mark, here or without CAP_NET_ADMIN."""


def sockaddr(address: IPAddress, port: int) -> tuple[str, int]:
    """Return what the socket module wants; a literal, so nothing is looked up."""
    return (str(address), port)


def family_of(address: IPAddress | str) -> socket.AddressFamily:
    """Return AF_INET or AF_INET6.

    :param address: an address, or one in text.
    """
    if isinstance(address, str):
        return socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def open_socket(family: int, kind: int, mark: int | None, proto: int = 0) -> socket.socket:
    """Return a non-blocking socket, which no program inherits, marked before anything can leave.

    :param mark: SO_MARK; None: no mark.
    :raises MarkRefused: it cannot be marked.
    :raises OSError: there is no such socket, or none is left.
    """
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        if mark is not None:
            _set_mark(sock, mark)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_mark(sock: socket.socket, mark: int) -> None:
    if _SO_MARK is None:
        raise MarkRefused(errno.EPERM, "this system has no marks of sockets (SO_MARK)")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except PermissionError as error:
        raise MarkRefused(error.errno, error.strerror) from None


def check_mark(mark: int | None) -> None:
    """Raise :class:`~zks_lwip.errors.PrivilegeError` unless sockets can be given this mark."""
    if mark is None:
        return
    if not HAS_MARKS:
        raise PrivilegeError("`mark`: this system has no socket marks (SO_MARK, Linux only)")
    try:
        open_socket(socket.AF_INET, socket.SOCK_DGRAM, mark).close()
    except MarkRefused:
        raise PrivilegeError(
            "`mark`: the system refuses socket marks; run as root or with CAP_NET_ADMIN"
        ) from None


async def open_connection(address: str, port: int, mark: int | None) -> trio.SocketStream:
    """Connect TCP to an address, by a marked socket with TCP_NODELAY.

    :param address: an address in text; of a link-local one with its zone.
    :raises OSError: it does not connect.
    """
    connection = trio.socket.from_stdlib_socket(
        open_socket(family_of(address), socket.SOCK_STREAM, mark)
    )
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)


async def connect(
    sock: socket.socket, address: tuple[str, int] | tuple[str, int, int, int]
) -> None:
    """Connect a non-blocking socket; the caller closes it.

    :raises OSError: it does not connect.
    """
    code = sock.connect_ex(address)
    if code in IN_PROGRESS:
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, errno.errorcode.get(code, str(code)))


def end_in_reset(sock: socket.socket | trio.socket.SocketType) -> None:
    """Let the end of this process, however it comes, be a reset for the peer.

    The kernel closes what a killed process had open, and would end an upload that was cut as if it
    was whole. Holds until :func:`end_in_order`.

    :raises OSError: the connection has been reset already.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def end_in_order(sock: socket.socket) -> None:
    """Let the kernel deliver what is unsent, and then FIN.

    For a socket that has been given all that there is to send.

    :raises OSError: the connection has been reset already.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)


def close_in_order(sock: socket.socket) -> None:
    """Close with FIN, behind what is unsent."""
    try:
        end_in_order(sock)
    except OSError:  # already reset by the peer: closing is all that is left
        pass
    finally:
        sock.close()


def reset(sock: socket.socket) -> None:
    """Close with RST: what is unsent is discarded, and the peer sees an abort, not an end."""
    try:
        end_in_reset(sock)
    except OSError:  # already reset by the peer: closing is all that is left
        sock.close()
        return
    sock.close()
