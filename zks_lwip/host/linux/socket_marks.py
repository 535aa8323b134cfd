"""The mark of a socket of this network namespace, known by its addresses (sock_diag(7))."""

from __future__ import annotations

import ipaddress
import socket
import struct

__all__ = ["SocketMarks"]

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST = 4, 20, 1
_ANY_STATE, _NO_COOKIE = 0xFFFFFFFF, 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_MESSAGE = 72  # bytes of struct inet_diag_msg
_MARK = 15  # INET_DIAG_MARK; shown to CAP_NET_ADMIN alone


class SocketMarks:
    """Asks the kernel for marks of sockets in its maker's network namespace; microseconds each."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._netlink = socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)

    def close(self) -> None:
        """Close the socket to the kernel."""
        self._netlink.close()

    def mark_of(self, source: tuple[str, int], destination: tuple[str, int]) -> int:
        """Return the SO_MARK of a TCP socket.

        :param source: address and port of its own end.
        :param destination: those of its peer.
        :returns: 0 if it has none, or if there is no such socket.
        """
        own, other = (ipaddress.ip_address(end[0]) for end in (source, destination))
        family = socket.AF_INET if own.version == 4 else socket.AF_INET6
        request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
        request += struct.pack("!HH16s16s", source[1], destination[1], own.packed, other.packed)
        request += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
        head = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
        try:
            self._netlink.sendto(head + request, (0, 0))
            answer = self._netlink.recv(4096)  # it is there when the request has been sent
        except OSError:
            return 0
        if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
            return 0  # there is no such socket
        offset = _HEADER.size + _MESSAGE
        while offset + 4 <= len(answer):
            length, kind = struct.unpack_from("=HH", answer, offset)
            if kind == _MARK and length == 8:
                return int(struct.unpack_from("=I", answer, offset + 4)[0])
            offset += max(4, (length + 3) & ~3)
        return 0
