"""Sockets of client and worker: non-blocking, marked, and connected without any name look-up.

A mark is what keeps a socket out of the TUN. On Linux it is SO_MARK, which rules of routing and the
firewall see. macOS and Windows have no marks: there a socket with one, whatever its number, is
bound to the interface of the default route (:mod:`.uplinks`), whose routes alone it then uses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

import trio

from ..errors import PrivilegeError
from .darwin import IP_BOUND_IF, IPV6_BOUND_IF
from .uplinks import uplink

__all__ = [
    "HAS_MARKS",
    "IN_PROGRESS",
    "IPV6_UNICAST_IF",
    "IPAddress",
    "IP_UNICAST_IF",
    "KEEPS_OUT",
    "MarkRefused",
    "bind_to_uplink",
    "bind_to_uplink_of_windows",
    "check_mark",
    "close_in_order",
    "connect",
    "end_in_order",
    "end_in_reset",
    "error_text",
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
KEEPS_OUT = HAS_MARKS or sys.platform in ("darwin", "win32")
"""Whether a mark keeps a socket out of the TUN of a captured host."""
_BOUND_IF: Mapping[int, tuple[int, int, int]] = {
    socket.AF_INET: (4, socket.IPPROTO_IP, IP_BOUND_IF),
    socket.AF_INET6: (6, socket.IPPROTO_IPV6, IPV6_BOUND_IF),
}
IP_UNICAST_IF, IPV6_UNICAST_IF = 31, 31
"""Socket options of Windows: the index of the interface whose routes alone a socket uses."""
# The index in network order for IPv4, in the machine's for IPv6.
_UNICAST_IF: Mapping[int, tuple[int, int, int, str]] = {
    socket.AF_INET: (4, socket.IPPROTO_IP, IP_UNICAST_IF, "!I"),
    socket.AF_INET6: (6, socket.IPPROTO_IPV6, IPV6_UNICAST_IF, "=I"),
}
# struct linger {on, 0 seconds}: two shorts on Windows, two ints elsewhere
_LINGER_ZERO = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
_LINGER_OFF = struct.pack("hh" if os.name == "nt" else "ii", 0, 0)


# Without a call of its own, where that exists (Linux, BSD)
_NON_BLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)

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

    :param mark: SO_MARK, or what stands for it; None: no mark.
    :raises MarkRefused: it cannot be marked.
    :raises OSError: there is no such socket, or none is left.
    """
    sock = socket.socket(family, kind | _NON_BLOCKING, proto)
    try:
        if not _NON_BLOCKING:
            sock.setblocking(False)
        if mark is not None:
            _set_mark(sock, mark)
    except BaseException:
        sock.close()
        raise
    return sock


class _Optioned(Protocol):
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...


def bind_to_uplink(sock: _Optioned, family: int) -> None:
    """Have a socket of macOS leave by the interface of the default route alone.

    :param family: AF_INET or AF_INET6.
    :raises OSError: there is no default route (ENETUNREACH), or the interface has just gone.
    """
    version, level, option = _BOUND_IF[family]
    sock.setsockopt(level, option, _uplink_index(version))


def bind_to_uplink_of_windows(sock: _Optioned, family: int) -> None:
    """Have a socket of Windows leave by the interface of the default route alone.

    :param family: AF_INET or AF_INET6.
    :raises OSError: there is no default route (ENETUNREACH), or the interface has just gone.
    """
    version, level, option, form = _UNICAST_IF[family]
    sock.setsockopt(level, option, struct.pack(form, _uplink_index(version)))


def _uplink_index(version: int) -> int:
    index = uplink(version)
    if index is None:
        raise OSError(errno.ENETUNREACH, f"there is no default route of IPv{version}")
    return index


def _set_mark(sock: socket.socket, mark: int) -> None:
    if sys.platform == "darwin":
        bind_to_uplink(sock, sock.family)
        return
    if sys.platform == "win32":
        bind_to_uplink_of_windows(sock, sock.family)
        return
    if _SO_MARK is None:
        raise MarkRefused(errno.EPERM, "this system has no marks of sockets (SO_MARK)")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except PermissionError as error:
        raise MarkRefused(error.errno, error.strerror) from None


def check_mark(mark: int | None) -> None:
    """Check that sockets can be given a mark (SO_MARK); None: none is wanted.

    :raises PrivilegeError: they cannot.
    """
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
        raise OSError(code, error_text(code))


def error_text(code: int) -> str:
    """Return what a socket's error says to people, as "Connection refused"."""
    if sys.platform == "win32":  # strerror() knows none of Winsock's
        import ctypes

        return ctypes.FormatError(code).strip().rstrip(".")
    return os.strerror(code)


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
