"""The little HTTP that a WebSocket server needs besides the upgrade: one request in, one plain
response out (RFC 9112)."""

from __future__ import annotations

import http
from collections.abc import Sequence
from dataclasses import dataclass

import h11
import trio

__all__ = ["Headers", "HttpRequest", "HttpResponse", "read_request", "respond"]

Headers = Sequence[tuple[bytes, bytes]]

_MAX_HEAD = 16 * 1024
_DRAIN = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What came from the peer, before anything has been answered."""

    method: str
    path: str
    """The request target as it came, with its query."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    peer: tuple[str, int] | None
    """Address and port of the peer, where the stream is a socket's (or TLS over one)."""
    upgrade: bool
    """Whether it asks for a WebSocket."""
    subprotocols: tuple[str, ...]

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower case) name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A plain answer, then the connection is closed: a refusal, or a page such as /health."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def encode(self, *, with_body: bool = True) -> bytes:
        """The response on the wire (RFC 9112 §4); a content type of text/plain unless given."""
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        headers = [*self.headers]
        if not any(name.lower() == b"content-type" for name, _ in headers):
            headers.append((b"Content-Type", b"text/plain; charset=utf-8"))
        headers += [(b"Content-Length", b"%d" % len(self.body)), (b"Connection", b"close")]
        lines = [b"HTTP/1.1 %d %s" % (self.status, phrase.encode())]
        lines += [b"%s: %s" % header for header in headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body if with_body else b"")


async def read_request(stream: trio.abc.Stream, raw: bytearray) -> HttpRequest | None:
    """Parse a request head, and leave all that was read in ``raw``; None at the end of stream.

    Raises h11.RemoteProtocolError for what is no HTTP, or a head of more than 16 KiB.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            break
        if event is not h11.NEED_DATA:
            return None
        data = await stream.receive_some(_MAX_HEAD)
        raw += data
        parser.receive_data(bytes(data))
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)

    def listed(name: bytes) -> list[str]:
        values = b",".join(value for key, value in headers if key == name)
        return [word.strip() for word in values.decode("latin-1").split(",") if word.strip()]

    upgrade = "upgrade" in (word.lower() for word in listed(b"connection")) and "websocket" in (
        word.lower() for word in listed(b"upgrade")
    )
    return HttpRequest(
        event.method.decode("latin-1"),
        event.target.decode("latin-1"),
        headers,
        _peer(stream),
        upgrade,
        tuple(listed(b"sec-websocket-protocol")),
    )


def _peer(stream: trio.abc.Stream) -> tuple[str, int] | None:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return None
    address = stream.socket.getpeername()
    return (address[0], address[1]) if isinstance(address, tuple) else None


async def respond(
    stream: trio.abc.Stream, response: HttpResponse, *, with_body: bool = True
) -> None:
    """Send ``response`` and close the stream.

    What the client is still sending is read for a moment: closing over it would reset the
    connection, and the client might never see the response.
    """
    await stream.send_all(response.encode(with_body=with_body))
    if isinstance(stream, trio.SocketStream):
        with trio.move_on_after(_DRAIN):
            await stream.send_eof()
            while await stream.receive_some(_MAX_HEAD):
                pass
    await stream.aclose()
