"""Listening: the ``--listen`` argument, the sockets, TLS, and how many descriptors there may be."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import trio

from .._descriptors import raise_descriptor_limit
from ..errors import ConfigError, PrivilegeError
from .sockets import open_socket

__all__ = [
    "has_ipv6",
    "open_listener",
    "parse_listen",
    "parse_origin",
    "share_descriptors",
    "tls_context",
]

log = logging.getLogger(__name__)

_BACKLOG = 1024
# descriptors for who has not shown a token yet (half), the second attempts of connecting to a name
# (RFC 8305) and the interpreter itself
_RESERVE, _LEAST_RESERVE = 1024, 256
_TLS_REASONS = {
    "PEM": "a certificate, or its private key, is not in there",
    "KEY_VALUES_MISMATCH": "the private key is not this certificate's",
}


def parse_listen(text: str) -> tuple[str, int]:
    """``ADDRESS:PORT`` or ``[IPV6]:PORT`` (``localhost`` is 127.0.0.1). Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if host == "localhost":
        host = "127.0.0.1"
    try:
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("it is no ADDRESS:PORT")
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError as error:
        raise ConfigError(
            f"--listen {text}: {error}; give for example 127.0.0.1:8787 or [::1]:8787"
        ) from None


def parse_origin(text: str) -> str:
    """A web origin as browsers write it (RFC 6454 §6.2). Raises ConfigError."""
    parts = urlsplit(text)
    host = parts.hostname or ""
    if not host or text.lower() != f"{parts.scheme}://{parts.netloc}".lower() or "@" in text:
        raise ConfigError(
            f"--allow-origin {text}: that is no origin; give scheme, host and, where it is unusual,"
            " port alone, as in https://example.com"
        )
    return text.lower()


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """What ``--tls-cert`` and ``--tls-key`` name (PEM; one file may hold both). ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, cert, key)
    return context


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Put certificate and key into a context, for connections from now on. Raises ConfigError."""
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ssl.SSLError):  # what OpenSSL says of itself helps nobody
            reasons = (why for mark, why in _TLS_REASONS.items() if mark in str(error))
            detail = next(reasons, detail)
        both = f"{cert} and {key}" if key is not None else str(cert)
        raise ConfigError(
            f"TLS: {both} cannot be used: {detail}; give --tls-cert and --tls-key PEM files, the"
            " certificate's chain and its private key, unencrypted"
        ) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not")


def open_listener(
    host: str, port: int, context: ssl.SSLContext | None
) -> tuple[trio.SocketListener | trio.SSLListener[trio.SocketStream], tuple[str, int]]:
    """Listen; also says where. Raises ConfigError or PrivilegeError; nothing is looked up."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        message = f"cannot listen on {shown}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PrivilegeError(f"{message}; ports below 1024 need privilege") from None
        if error.errno == errno.EADDRINUSE:
            message += (
                "; end what listens there (`ss -ltnp` shows it), or give --listen another port"
            )
        elif error.errno == errno.EADDRNOTAVAIL:
            message += (
                "; give --listen an address of this machine, or 0.0.0.0 or [::] for all of them"
            )
        raise ConfigError(message) from None
    address = sock.getsockname()[:2]
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    if context is None:
        return listener, address
    return trio.SSLListener(listener, context, https_compatible=True), address


def has_ipv6(mark: int | None) -> bool:
    """Whether IPv6 leads anywhere beyond this machine: a route to the internet, or an address."""
    with contextlib.suppress(OSError), open_socket(socket.AF_INET6, socket.SOCK_DGRAM, mark) as s:
        # connects a datagram socket: the routes are asked, nothing is sent
        s.connect(("2001:4860:4860::8888", 53))
        return True
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        return any(line.split()[3] == "00" for line in lines)  # 00: global scope
    return False


def share_descriptors() -> tuple[int, int]:
    """Allow this process as many descriptors as it may have.

    How many streams can use, and how many who has not shown a token: both at once are possible.
    """
    total = raise_descriptor_limit()
    reserve = min(_RESERVE, max(total // 4, min(_LEAST_RESERVE, total // 2)))
    return total - reserve, reserve // 2
