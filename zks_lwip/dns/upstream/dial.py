"""From a resolver's addresses to one TLS stream: Happy Eyeballs (RFC 8305), verified, with ALPN.

How a TCP connection is made is the caller's: :func:`direct` makes one from this machine, with a
firewall mark; the tunnel has a function of the same shape.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from ...errors import ZksError
from ...net.descriptors import is_scarcity, warn_of_scarcity
from ...net.happy_eyeballs import race
from ...net.sockets import open_connection
from ...net.tls import TlsStream
from .resolver import ResolverError
from .server import Server

__all__ = ["ATTEMPT_DELAY", "Connect", "Unreachable", "dial", "direct"]

_log = logging.getLogger(__name__)

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Connects TCP to an IP literal and a port; raises OSError or ZksError."""

ATTEMPT_DELAY = 0.4
"""Seconds that one address has for TCP and TLS before the next one is tried beside it: TLS takes
twice the round trips of TCP alone.
"""


class Unreachable(ResolverError):
    """No TCP connection to any address of a resolver."""


def direct(mark: int | None = None) -> Connect:
    """Return a function that connects from this machine, by sockets with the mark ``mark``."""

    async def connect(host: str, port: int) -> trio.abc.Stream:
        return await open_connection(host, port, mark)

    return connect


async def dial(
    connect: Connect,
    server: Server,
    context: ssl.SSLContext,
    *,
    alpn: str | None,
    first: str | None = None,
    delay: float,
) -> tuple[str, TlsStream]:
    """Return the first address that gives a verified TLS stream, and the stream.

    :param alpn: what must have been agreed on; None: nothing.
    :param first: the address that is tried first.
    :param delay: seconds for TCP and TLS until the next address is tried beside the last.
    :raises Unreachable: no address took the connection.
    :raises ResolverError: TLS failed.
    """
    problems: list[ResolverError] = []

    async def attempt(address: str) -> tuple[str, TlsStream]:
        return address, await _open(connect, server, address, context, alpn)

    def failed(address: str, error: ResolverError) -> None:
        _log.debug("%s at %s: %s", server, address, error)
        problems.append(error)

    async def discard(opened: tuple[str, TlsStream]) -> None:
        await trio.aclose_forcefully(opened[1])

    addresses = sorted(server.addresses, key=lambda address: address != first)
    won = await race(
        lambda: addresses,
        attempt,
        errors=ResolverError,
        failed=failed,
        discard=discard,
        delay=delay,
    )
    if won is None:
        raise _summary(server, problems)
    return won


def _summary(server: Server, problems: Sequence[ResolverError]) -> ResolverError:
    """Return one error of several; that TLS failed says more than that TCP did."""
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
