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

from ._http import Headers, HttpRequest, HttpResponse, read_request, respond
from .handshake import refuse_upgrade
from .masking import make_protocol
from .tcp_info import carrier_of, round_trip, stretched
from .websocket import WsConnection

__all__ = ["Accept", "Authorize", "accept_websocket", "upgrade_websocket"]

log = logging.getLogger(__name__)

_MAX_MESSAGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Accept:
    """Upgrade, with this subprotocol (one of those that the request names) or none."""

    subprotocol: str | None = None
    headers: Headers = ()


Authorize = Callable[[HttpRequest], Accept | HttpResponse]


async def upgrade_websocket(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    host: str,
    path: str,
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    max_message: int = _MAX_MESSAGE,
    queue: int = 16,
) -> WsConnection:
    """Ask for a WebSocket on ``stream`` (client). ``host`` is the Host header, with the port.

    Never offers an extension, never follows a redirect. Raises UpgradeRefused, or WebSocketClosed
    if the server went away; the stream is then closed. Has no time-out of its own.
    """
    connection = WsConnection(
        stream,
        make_protocol(ConnectionType.CLIENT, max_message),
        nursery,
        max_message=max_message,
        queue=queue,
        host=host,
        path=path,
        subprotocols=subprotocols,
        headers=headers,
    )
    try:
        await connection.upgrade()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return connection


async def accept_websocket(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    authorize: Authorize,
    max_message: int = _MAX_MESSAGE,
    queue: int = 16,
    timeout: float = 10.0,
) -> WsConnection | None:
    """Read one HTTP request from ``stream`` (server) and do what ``authorize`` says about it.

    ``authorize`` sees every request that is HTTP, upgrade or not. :class:`Accept` makes it a
    WebSocket, whose reader runs in ``nursery`` and which the caller must ``aclose()``.
    :class:`HttpResponse` is sent as it is. Then, and when the peer goes away, sends no HTTP, breaks
    the rules of an upgrade or needs more than ``timeout`` seconds, the stream is closed and None
    returned. ``queue`` is how many messages :meth:`WsConnection.receive_message` lags behind before
    the peer is held up.
    """
    connection = None
    try:
        # TCP was opened over the same queues that the request, and TLS before it, have to pass.
        limit = stretched(timeout, 3, round_trip(carrier_of(stream)))
        with trio.move_on_after(limit):
            connection = await _accept(nursery, stream, authorize, max_message, queue)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        log.debug("a client went away during its request: %s", error)
    finally:
        if connection is None:
            await trio.aclose_forcefully(stream)
    return connection


async def _accept(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    authorize: Authorize,
    max_message: int,
    queue: int,
) -> WsConnection | None:
    try:
        request = await read_request(stream)
    except h11.RemoteProtocolError as error:
        log.debug("not an HTTP request: %s", error)
        await respond(stream, HttpResponse(400, b"this is no HTTP request\n"))
        return None
    if request is None:
        return None
    answer = authorize(request)
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
    connection = WsConnection(stream, protocol, nursery, max_message=max_message, queue=queue)
    connection.request = request
    return connection if await connection.accept(answer.subprotocol, answer.headers) else None
