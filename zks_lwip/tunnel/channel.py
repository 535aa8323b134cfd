"""One channel: a WebSocket that carries one session.

For a worker, this is the server side of the same WebSocket::

    async def accept_websocket(
        nursery, stream, *, authorize, max_message=1 << 20, queue=16, timeout=10.0
    ) -> WsConnection | None

``authorize(request: HttpRequest)`` is called for every HTTP request and returns
``Accept(subprotocol)`` or ``HttpResponse(status, body, headers)``; None comes back when there is
no WebSocket. The :class:`WsConnection` has ``send_message(bytes-like)``, ``receive_message() ->
bytes`` (holds the peer up), ``deliver(on_message)`` (never does), ``keep_alive()``,
``aclose(status, reason)``, ``ping()``, ``subprotocol``, ``closed_status`` and ``closed_reason``.
"""

from __future__ import annotations

from .websocket import (
    Accept,
    Authorize,
    Headers,
    HttpRequest,
    HttpResponse,
    WebSocketClosed,
    WsConnection,
    accept_websocket,
)

__all__ = [
    "Accept",
    "Authorize",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "WebSocketClosed",
    "WsConnection",
    "accept_websocket",
]
