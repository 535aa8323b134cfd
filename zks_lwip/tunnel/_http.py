"""The little HTTP that a WebSocket server needs besides the upgrade: one request in, one plain
response out (RFC 9112)."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import h11
import trio

__all__ = ["Headers", "HttpRequest", "HttpResponse", "listed", "read_request", "respond"]

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
    version: str = "1.1"
    """Of HTTP."""
    rest: bytes = b""
    """What came with the head, behind it."""

    def all(self, name: bytes) -> list[bytes]:
        """Every header of that (lower case) name."""
        return [value for key, value in self.headers if key == name]

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
        # a sender of Upgrade names it there (RFC 9110 §7.8)
        upgrade = any(name.lower() == b"upgrade" for name, _ in headers)
        headers.append((b"Connection", b"close, Upgrade" if upgrade else b"close"))
        headers.append((b"Content-Length", b"%d" % len(self.body)))
        lines = [b"HTTP/1.1 %d %s" % (self.status, phrase.encode())]
        lines += [b"%s: %s" % header for header in headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body if with_body else b"")


def listed(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The elements of all headers of a (lower case) name, which are lists (RFC 9110 §5.6.1)."""
    values = b",".join(value for key, value in headers if key == name)
    return [word.strip() for word in values.decode("latin-1").split(",") if word.strip()]


async def read_request(stream: trio.abc.Stream) -> HttpRequest | None:
    """Read a request head; None at the end of stream.

    Raises h11.RemoteProtocolError for what is no HTTP, or a head of more than 16 KiB.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            break
        if event is not h11.NEED_DATA:
            return None
        parser.receive_data(bytes(await stream.receive_some(_MAX_HEAD)))
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)

    upgrade = "upgrade" in (word.lower() for word in listed(headers, b"connection"))
    upgrade &= "websocket" in (word.lower() for word in listed(headers, b"upgrade"))
    return HttpRequest(
        event.method.decode("latin-1"),
        event.target.decode("latin-1"),
        headers,
        _peer(stream),
        upgrade,
        tuple(listed(headers, b"sec-websocket-protocol")),
        event.http_version.decode("latin-1"),
        bytes(parser.trailing_data[0]),
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
