"""The opening handshake on a stream, as client and as server: a WebSocket comes of it, or a reason.

What each end demands of the other is in :mod:`.handshake`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import h11
import trio
from wsproto import ConnectionType

from .handshake import refuse_upgrade
from .http import Headers, HttpRequest, HttpResponse, read_request, respond
from .masking import make_protocol
from .tcp_info import carrier_of, round_trip, stretched
from .websocket import WsConnection

__all__ = ["Accept", "Authorize", "GiveAway", "GivenAway", "accept_websocket", "upgrade_websocket"]

_log = logging.getLogger(__name__)

MAX_MESSAGE = 1 << 20
"""Bytes of a message, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Upgrade, with this subprotocol (one of those that the request names) or none."""

    subprotocol: str | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class GiveAway:
    """Leave the connection to another process, which answers the request."""

    owner: int
    """Its number, for the caller."""


@dataclass(frozen=True, slots=True)
class GivenAway:
    """A connection that is another's. Nothing but its request was read, nothing answered; the
    caller has to close the stream."""

    owner: int
    stream: trio.abc.Stream
    request: HttpRequest


Authorize = Callable[[HttpRequest], Accept | GiveAway | HttpResponse]


async def upgrade_websocket(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    host: str,
    path: str,
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    max_message: int = MAX_MESSAGE,
    proxied: bool = False,
) -> WsConnection:
    """Ask for a WebSocket on ``stream`` (client); what answers pings runs in ``nursery``.

    Never offers an extension, never follows a redirect. The caller sets the deadline; the stream is
    closed when this fails.

    :param host: the Host header, with the port.
    :param max_message: bytes.
    :param proxied: a proxy stands between, so that TCP's acknowledgements are the proxy's.
    :raises UpgradeRefused: the server did not upgrade.
    :raises WebSocketClosed: the server went away.
    """
    protocol = make_protocol(ConnectionType.CLIENT, max_message)
    connection = WsConnection(
        stream,
        protocol,
        nursery,
        host=host,
        path=path,
        subprotocols=subprotocols,
        headers=headers,
        proxied=proxied,
    )
    try:
        await connection.upgrade()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return connection


async def accept_websocket(
    nursery: trio.Nursery | None,
    stream: trio.abc.Stream,
    *,
    authorize: Authorize,
    max_message: int = MAX_MESSAGE,
    timeout: float = 10.0,
    request: HttpRequest | None = None,
) -> WsConnection | GivenAway | None:
    """Read one HTTP request from ``stream`` (server) and do what ``authorize`` says about it.

    :param nursery: see :meth:`WsConnection.answer_pings`.
    :param authorize: sees every request that is HTTP, upgrade or not. Of :class:`Accept` comes a
        WebSocket; an :class:`HttpResponse` is sent as it is.
    :param max_message: bytes.
    :param timeout: seconds for TLS and the request; more where the path has long queues.
    :param request: what has been read from ``stream`` already.
    :returns: the WebSocket, which the caller must ``aclose()``; where ``authorize`` says so, the
        connection as it is; None after another answer, or where
        the peer goes away, sends no HTTP, breaks the rules of an upgrade or is too slow. The stream
        is then closed.
    """
    connection = None
    try:
        # TCP was opened over the same queues that the request, and TLS before it, have to pass.
        limit = stretched(timeout, 3, round_trip(carrier_of(stream)))
        with trio.move_on_after(limit):
            connection = await _accept(nursery, stream, authorize, max_message, request)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("a client went away during its request: %s", error)
    finally:
        if connection is None:
            await trio.aclose_forcefully(stream)
    return connection


async def _accept(
    nursery: trio.Nursery | None,
    stream: trio.abc.Stream,
    authorize: Authorize,
    max_message: int,
    request: HttpRequest | None,
) -> WsConnection | GivenAway | None:
    try:
        if request is None:
            request = await read_request(stream)
    except h11.RemoteProtocolError as error:
        _log.debug("not an HTTP request: %s", error)
        await respond(stream, HttpResponse(400, b"this is no HTTP request\n"))
        return None
    if request is None:
        return None
    answer = authorize(request)
    if isinstance(answer, GiveAway):
        return GivenAway(answer.owner, stream, request)
    if isinstance(answer, Accept):
        answer = refuse_upgrade(request) or answer
    if isinstance(answer, HttpResponse):
        await respond(stream, answer, with_body=request.method != "HEAD")
        return None
    protocol = make_protocol(ConnectionType.SERVER, max_message)
    # What has been checked, and nothing else, is given on: others read headers in other ways.
    protocol.initiate_upgrade_connection(
        [
            (b"Host", b"worker"),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", request.all(b"sec-websocket-key")[0]),
            *((b"Sec-WebSocket-Protocol", name.encode("latin-1")) for name in request.subprotocols),
        ],
        request.path,
    )
    connection = WsConnection(stream, protocol, nursery)
    connection.request = request
    return connection if await connection.accept(answer.subprotocol, answer.headers) else None
