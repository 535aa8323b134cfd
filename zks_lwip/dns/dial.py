"""From a resolver's addresses to one TLS stream: Happy Eyeballs (RFC 8305), verified, with ALPN.

How a TCP connection is made is the caller's: :func:`direct` makes one from this machine, with a
firewall mark; the tunnel has a function of the same shape.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from zks_lwip._descriptors import is_scarcity, warn_of_scarcity
from zks_lwip.dns.resolver import ResolverError
from zks_lwip.dns.servers import Server
from zks_lwip.dns.tls import TlsStream
from zks_lwip.errors import ZksError

__all__ = ["Connect", "Unreachable", "dial", "direct", "tls_context"]

logger = logging.getLogger(__name__)

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Connects TCP to an IP literal and a port. Raises OSError or ZksError."""

STAGGER = 0.4
"""Seconds that one address has for TCP and TLS before the next one is tried beside it."""


class Unreachable(ResolverError):
    """No TCP connection to any address of a resolver."""


def direct(mark: int | None = None) -> Connect:
    """Return a function that connects from this machine; with `mark` its sockets carry SO_MARK."""

    async def connect(host: str, port: int) -> trio.abc.Stream:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            if mark is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await connection.connect((host, port))
        except BaseException:
            connection.close()
            raise
        return trio.SocketStream(connection)

    return connect


def tls_context(alpn: str, ca_file: Path | str | None = None) -> ssl.SSLContext:
    """Return a context that verifies against the system's roots, and `ca_file` besides."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    return context


async def dial(
    connect: Connect,
    server: Server,
    context: ssl.SSLContext,
    *,
    alpn: str | None,
    first: str | None = None,
) -> tuple[str, TlsStream]:
    """Return the first address that gives a verified TLS stream, and the stream.

    `first` is tried first; `alpn` must have been agreed on, unless it is None. Raises
    :class:`Unreachable` if no address took the connection, :class:`ResolverError` if TLS failed.
    """
    addresses = sorted(server.addresses, key=lambda address: address != first)
    problems: list[ResolverError] = []
    won: list[tuple[str, TlsStream]] = []

    async def attempt(address: str, failed: trio.Event) -> None:
        try:
            stream = await _open(connect, server, address, context, alpn)
        except ResolverError as error:
            logger.debug("%s at %s: %s", server, address, error)
            problems.append(error)
            failed.set()
            return
        if won:
            await trio.aclose_forcefully(stream)
            return
        won.append((address, stream))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for address in addresses:
            failed = trio.Event()
            nursery.start_soon(attempt, address, failed)
            with trio.move_on_after(STAGGER):
                await failed.wait()
    if won:
        return won[0]
    raise _summary(server, problems)


def _summary(server: Server, problems: Sequence[ResolverError]) -> ResolverError:
    """One error of several; that TLS failed says more than that TCP did."""
    for problem in problems:
        if not isinstance(problem, Unreachable):
            return problem
    texts = dict.fromkeys(str(problem) for problem in problems)
    return Unreachable(f"{server.host} cannot be reached: {'; '.join(texts)}")


async def _open(
    connect: Connect, server: Server, address: str, context: ssl.SSLContext, alpn: str | None
) -> TlsStream:
    try:
        transport = await connect(address, server.port)
    except (OSError, ZksError, trio.BrokenResourceError) as error:
        if is_scarcity(error):
            warn_of_scarcity(f"no connection to the DNS resolver {server} can be opened", error)
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(f"{address}: {text}") from error
    stream = TlsStream(transport, context, server.host)
    try:
        await stream.do_handshake()
        agreed = stream.alpn
        if alpn is not None and agreed != alpn:
            raise ResolverError(f"{server.host} does not speak {alpn} (ALPN: {agreed or 'none'})")
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ResolverError(_tls_problem(server, error)) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _tls_problem(server: Server, error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {server.host} does not verify: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return f"TLS with {server.host} failed: {cause.reason or cause}"
    return f"{server.host} closed the connection during the TLS handshake"
