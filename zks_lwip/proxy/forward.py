"""A request for an ``http://`` URL: one request to its origin, over a stream for it alone.

h11 frames both messages, so that a client's next request, which may be meant for another origin,
never follows the first one there; the response says ``Connection: close``.
"""

from __future__ import annotations

import h11
import trio

from .._util import single_error
from .client import ProxyClient
from .counters import ProxyCounters
from .handshake import Page
from .http import MAX_HEAD, end_to_end, forwarded_head

__all__ = ["OriginFailed", "forward"]

_PIECE = 64 << 10


class OriginFailed(Exception):
    """The origin's answer is not HTTP, or ends too early."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether the client has something of an answer already: only a reset can tell it more."""


async def forward(
    client: ProxyClient, page: Page, origin: trio.abc.HalfCloseableStream, counters: ProxyCounters
) -> None:
    """Send a request on, and its response back.

    :param origin: connected; stays the caller's.
    :raises OriginFailed: see there.
    :raises trio.BrokenResourceError: the client, or the origin, has reset its connection.
    """
    exchange = _Exchange(client, page, origin, counters)
    with single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.send_request)
            await exchange.send_response()
            nursery.cancel_scope.cancel()


class _OriginLeft(Exception):
    """The origin takes no more of the request."""


class _Exchange:
    def __init__(
        self,
        client: ProxyClient,
        page: Page,
        origin: trio.abc.HalfCloseableStream,
        counters: ProxyCounters,
    ) -> None:
        self._client = client
        self._page = page
        self._origin = origin
        self._counters = counters
        self._inner = page.connection  # with the client
        self._outer = h11.Connection(h11.CLIENT, max_incomplete_event_size=4 * MAX_HEAD)

    # the request

    async def send_request(self) -> None:
        """Send the request; then wait in vain, unless the client resets its connection."""
        try:
            await self._send_request()
        except _OriginLeft:
            return  # what it has answered is worth reading, also without a body read whole
        if await self._client.stream.receive_some(1):
            return  # another request, which is not read: the connection ends with this one
        # Its EOF: it waits for the response, or has gone, which sending will tell.

    async def _send_request(self) -> None:
        head = self._outer.send(forwarded_head(self._page.request, self._page.target))
        assert head is not None
        await self._to_origin(head)
        while True:
            event = self._next_of_request()
            if event is h11.NEED_DATA:
                self._inner.receive_data(bytes(await self._client.stream.receive_some(_PIECE)))
            elif isinstance(event, h11.Data):
                await self._to_origin(self._outer.send(h11.Data(data=event.data)))
            else:
                assert isinstance(event, h11.EndOfMessage)
                await self._to_origin(self._outer.send(h11.EndOfMessage()))
                return

    def _next_of_request(self) -> object:
        try:
            return self._inner.next_event()
        except h11.RemoteProtocolError as error:
            raise trio.BrokenResourceError(f"the request is not HTTP: {error}") from None

    async def _to_origin(self, data: bytes | None) -> None:
        if data:
            try:
                await self._origin.send_all(data)
            except trio.BrokenResourceError as error:
                raise _OriginLeft from error
            self._counters.bytes_up += len(data)

    # the response

    async def send_response(self) -> None:
        answered = False
        try:
            while True:
                event = self._outer.next_event()
                if event is h11.NEED_DATA:
                    self._outer.receive_data(bytes(await self._origin.receive_some(_PIECE)))
                elif isinstance(event, h11.InformationalResponse):
                    await self._inform(event)
                elif isinstance(event, h11.Response):
                    answered = True
                    headers = [*end_to_end(event), (b"Connection", b"close")]
                    await self._to_client(
                        h11.Response(
                            status_code=event.status_code, headers=headers, reason=event.reason
                        )
                    )
                elif isinstance(event, h11.Data):
                    await self._to_client(h11.Data(data=event.data))
                else:
                    assert isinstance(event, h11.EndOfMessage)
                    await self._to_client(h11.EndOfMessage())
                    return
        except h11.RemoteProtocolError as error:
            raise OriginFailed(str(error), answered=answered) from None

    async def _inform(self, event: h11.InformationalResponse) -> None:
        if self._page.request.http_version >= b"1.1" and event.status_code != 101:
            headers = end_to_end(event)
            await self._to_client(
                h11.InformationalResponse(
                    status_code=event.status_code, headers=headers, reason=event.reason
                )
            )

    async def _to_client(self, event: h11.Event) -> None:
        data = self._inner.send(event)
        if data:
            await self._client.stream.send_all(data)
            self._counters.bytes_down += len(data)
