"""Listening: where, the sockets, TLS, and how many descriptors there may be."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import trio

from .._util import open_file
from ..errors import ConfigError
from ..net.descriptors import descriptor_limit, raise_descriptor_limit
from ..net.listen import is_loopback
from ..net.sockets import open_socket
from .addresses import BoundSocket, InheritedSocket, ListenAddress, TcpAddress

__all__ = [
    "check_addresses",
    "has_ipv6",
    "make_listener",
    "open_listeners",
    "parse_origin",
    "share_descriptors",
    "tls_context",
]

_log = logging.getLogger(__name__)

# descriptors for connections without a token yet (half), second attempts of connecting to a name
# (RFC 8305) and the interpreter itself
_RESERVE, _MIN_RESERVE = 1024, 256
_TLS_REASONS = {
    "PEM": "a certificate, or its private key, is not in there",
    "KEY_VALUES_MISMATCH": "the private key is not this certificate's",
}


def parse_origin(text: str) -> str:
    """Read a web origin as browsers write it (RFC 6454 §6.2).

    :raises ConfigError: it is none.
    """
    try:
        parts = urlsplit(text)
        origin = f"{parts.scheme}://{parts.netloc}" if parts.hostname else ""
    except ValueError:  # of brackets
        origin = ""
    if text.lower() != origin.lower() or not origin or "@" in text:
        raise ConfigError(
            f"{text}: that is no origin; give scheme, host and, where it is unusual, port alone, as"
            " in https://example.com",
            "origins",
        )
    return text.lower()


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """Make a server's context from PEM files; one file may hold certificate and key.

    :raises ConfigError: they cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # before OpenSSL 3 a client could have it work
    load_certificate(context, cert, key)
    return context


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Put certificate and key into a context, for connections from now on.

    :raises ConfigError: they cannot be used; the context is as it was.
    """
    try:
        for each in (cert, key):
            if each is not None:
                open_file(each).close()  # OpenSSL would wait for a pipe
        # In another one first: of a certificate without its key, OpenSSL keeps the certificate.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ssl.SSLError):  # OpenSSL's own words are of no help
            reasons = (why for mark, why in _TLS_REASONS.items() if mark in str(error))
            detail = next(reasons, detail)
        both = f"{cert} and {key}" if key is not None else str(cert)
        raise ConfigError(
            f"TLS: {both} cannot be used: {detail}; give `tls_cert` and `tls_key` PEM files, the"
            " certificate's chain and its private key, unencrypted"
        ) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not")


def check_addresses(addresses: Iterable[ListenAddress], *, tls: bool, tokens: bool) -> None:
    """Check who could reach a worker there, as far as that is known before it listens.

    :param tls: TLS is spoken, on TCP.
    :param tokens: clients have to show a token.
    :raises ConfigError: an address is beyond loopback, and there are no tokens.
    """
    for address in addresses:
        if isinstance(address, TcpAddress):
            _check_reach(address.host, is_loopback(address.host), tls, tokens)


def open_listeners(
    addresses: Iterable[ListenAddress], *, tls: bool, tokens: bool
) -> list[BoundSocket]:
    """Listen at every address, or at none.

    ``::`` takes IPv4 as well, unless ``0.0.0.0`` is there with the same port.

    :raises ConfigError: nothing can listen there; or as :func:`check_addresses`, of sockets that
        others have opened.
    :raises PrivilegeError: a port needs privilege.
    """
    addresses = tuple(addresses)
    opened: list[BoundSocket] = []
    try:
        for address in addresses:
            ipv4 = isinstance(address, TcpAddress) and TcpAddress("0.0.0.0", address.port)
            bound = BoundSocket(address, ipv6_only=ipv4 in addresses)
            opened.append(bound)
            if isinstance(address, InheritedSocket) and not address.checked:
                _check_reach(bound.address[0], bound.local, tls and not bound.plain, tokens)
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _check_reach(host: str, local: bool, tls: bool, tokens: bool) -> None:
    if local:
        return
    if not tokens:
        raise ConfigError(
            f"refusing to listen on {host} without a token: anyone who reaches it"
            " could use this machine's network; give `token_file`, or listen on 127.0.0.1"
        )
    if not tls:
        _log.warning(
            "listening on %s without TLS: tokens and traffic are in the clear unless"
            " something in front of this worker adds it",
            host,
        )


def make_listener(
    bound: BoundSocket, context: ssl.SSLContext | None
) -> trio.SocketListener | trio.SSLListener[trio.SocketStream]:
    """Return what accepts connections; TLS is spoken on TCP alone."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.socket))
    if context is None or bound.plain or not bound.is_tcp:
        return listener
    return trio.SSLListener(listener, context, https_compatible=True)


def has_ipv6(mark: int | None) -> bool:
    """Return whether IPv6 leads beyond this machine: a route to the internet, or an address."""
    with contextlib.suppress(OSError), open_socket(socket.AF_INET6, socket.SOCK_DGRAM, mark) as s:
        # connects a datagram socket: the routes are asked, nothing is sent
        s.connect(("2001:4860:4860::8888", 53))
        return True
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        return any(line.split()[3] == "00" for line in lines)  # 00: global scope
    return False


def share_descriptors(*, raise_limits: bool = True) -> tuple[int, int]:
    """Share out the descriptors that this process may have.

    :param raise_limits: allow it as many as it may have first.
    :returns: how many streams can use, and how many connections that have not shown a token: both
        at once are possible.
    """
    total = raise_descriptor_limit() if raise_limits else descriptor_limit()
    reserve = min(_RESERVE, max(total // 4, min(_MIN_RESERVE, total // 2)))
    return total - reserve, reserve // 2
