"""The host's sockets of published ports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import replace

from ...errors import ConfigError, PrivilegeError
from ...net.names import join_host_port
from ...net.sockets import family_of, open_socket
from .ports import PublishedPort, Transport

__all__ = ["Listener", "bind_all"]

_BACKLOG = 1024
_TRIES = 20
"""Free ports of TCP that are tried until one is free for UDP, too."""
_KINDS = {Transport.TCP: socket.SOCK_STREAM, Transport.UDP: socket.SOCK_DGRAM}


class Listener:
    """One socket of the host, bound and non-blocking.

    :param port: of one protocol, and with the port that it really has.
    :param given: what was asked for.
    """

    def __init__(self, port: PublishedPort, sock: socket.socket, given: PublishedPort) -> None:
        self.port = port
        self.socket = sock
        self._given = given

    @property
    def transport(self) -> Transport:
        return self.port.transports[0]

    def listen(self) -> None:
        """Let clients connect; before, they are refused.

        :raises ConfigError: another program has taken the port since it was bound.
        """
        if self.transport is Transport.TCP:
            try:
                self.socket.listen(_BACKLOG)
            except OSError as error:
                raise _explain(self.port, error, self._given) from None


def bind_all(ports: Iterable[PublishedPort]) -> list[tuple[PublishedPort, list[Listener]]]:
    """Bind all of them, a listener for each protocol, or none.

    :raises ConfigError: a port is in use, or its address is not this machine's.
    :raises PrivilegeError: a port needs privilege.
    """
    bound: list[tuple[PublishedPort, list[Listener]]] = []
    try:
        for port in ports:
            bound.append((port, _bind(port)))
    except BaseException:
        for _, listeners in bound:
            for listener in listeners:
                listener.socket.close()
        raise
    return bound


def _bind(port: PublishedPort) -> list[Listener]:
    for left in reversed(range(_TRIES)):
        bound: list[Listener] = []
        number = port.port
        try:
            for transport in port.transports:
                wanted = replace(port, port=number, transports=(transport,))
                sock = _open(wanted)
                number = sock.getsockname()[1]
                bound.append(Listener(replace(wanted, port=number), sock, port))
        except OSError as error:
            for listener in bound:
                listener.socket.close()
            if left and bound and not port.port and error.errno == errno.EADDRINUSE:
                continue  # another one may be free for both
            raise _explain(wanted, error, port) from None
        return bound
    raise AssertionError("unreachable")


def _open(port: PublishedPort) -> socket.socket:
    family = family_of(port.address)
    stream = port.transports[0] is Transport.TCP
    sock = open_socket(family, _KINDS[port.transports[0]], None)
    try:
        if stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(port.address != "::"))
        sock.bind((port.address, port.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _explain(
    port: PublishedPort, error: OSError, given: PublishedPort
) -> ConfigError | PrivilegeError:
    (transport,) = port.transports
    where = join_host_port(port.address, port.port)
    message = f"`publish` {port}: cannot listen on {where}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return PrivilegeError(
            f"cannot publish {port}: {error.strerror}; ports below 1024 need privilege: publish it "
            f"as another one (`publish` {given.as_given(8000 + port.port % 1000)}), or allow them "
            f"to everybody (`sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port.port}`)"
        )
    if error.errno == errno.EADDRINUSE:
        kind = "t" if transport is Transport.TCP else "u"
        message += (
            f"; end what uses it (`ss -l{kind}np` shows it), or publish the command's port "
            f"{port.inside} as another one of the host, or as any free one (`publish` "
            f"{given.as_given(0)})"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        message += "; give an address of this machine, or 0.0.0.0 or [::] for all of them"
    elif error.errno == errno.EAFNOSUPPORT:
        message += "; this machine has no IPv6"
    return ConfigError(message)
