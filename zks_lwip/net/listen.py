"""Listening for TCP: where, and the socket."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

from ..errors import ConfigError, PrivilegeError
from .names import join_host_port, parse_address_port
from .sockets import family_of, open_socket

__all__ = ["is_loopback", "listen", "parse_listen"]

_BACKLOG = 1024


def parse_listen(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT`` or ``[IPV6]:PORT``; ``localhost`` is 127.0.0.1.

    :returns: address and port; 0 is any free one.
    :raises ConfigError: it is neither.
    """
    host, colon, rest = text.partition(":")
    written = f"127.0.0.1:{rest}" if colon and host == "localhost" else text
    try:
        address, port = parse_address_port(written, least=0)
        return str(address), port
    except ValueError as error:
        raise ConfigError(
            f"{text}: {error}; give for example 127.0.0.1:8787 or [::1]:8787", "listen"
        ) from None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address, which is given in text."""
    return ipaddress.ip_address(host).is_loopback


def listen(
    host: str, port: int, *, ipv6_only: bool = False
) -> tuple[socket.socket, tuple[str, int]]:
    """Listen at an address, with a non-blocking socket; no name is looked up.

    :param host: an address in text; ``::`` is all addresses, those of IPv4 too.
    :param port: 0 is any free one.
    :param ipv6_only: ``::`` is all addresses of IPv6 alone.
    :returns: the socket, and the address and port that it has.
    :raises ConfigError: the address is not this machine's, or is in use.
    :raises PrivilegeError: the port needs privilege.
    """
    family = family_of(host)
    try:
        sock = open_socket(family, socket.SOCK_STREAM, None)
    except OSError as error:  # IPv6 was left out of the kernel, say
        raise ConfigError(
            f"cannot listen on {join_host_port(host, port)}: {error.strerror}; give `listen` an "
            "address of another kind"
        ) from None
    try:
        if sys.platform == "win32":  # where SO_REUSEADDR lets another program take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = ipv6_only or host != "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        message = f"cannot listen on {join_host_port(host, port)}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            message += "; ports below 1024 need privilege: give `listen` a higher one, or start it "
            message += "as root"
            if sys.platform == "linux":
                allow = f"sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
                message += f", or allow them to everybody (`sudo {allow}`)"
            raise PrivilegeError(message) from None
        if error.errno == errno.EADDRINUSE:
            message += (
                "; end what listens there (`ss -ltnp` shows it), or give `listen` another port"
            )
        elif error.errno == errno.EADDRNOTAVAIL:
            message += (
                "; give `listen` an address of this machine, or 0.0.0.0 or [::] for all of them"
            )
        raise ConfigError(message) from None
    return sock, sock.getsockname()[:2]
