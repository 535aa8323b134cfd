"""The little HTTP that a WebSocket server needs besides the upgrade: one request in, one plain
response out (RFC 9112)."""

from __future__ import annotations

import http
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import h11
import trio

__all__ = ["Headers", "HttpRequest", "HttpResponse", "listed", "read_request", "respond"]

Headers = Sequence[tuple[bytes, bytes]]

MAX_HEAD = 16 * 1024
"""Bytes of a request head."""
_DRAIN = 1.0
"""Seconds that the client has to close after an answer; what it still sends is dropped."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What came from the peer, before anything has been answered."""

    method: str
    path: str
    """The request target as it came, with its query."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    peer: tuple[str, int] | None
    """Address and port of the peer, where the stream is a socket's (or TLS over one) that is still
    connected; of a unix socket ``unix`` and 0."""
    upgrade: bool
    """Whether it asks for a WebSocket."""
    subprotocols: tuple[str, ...]
    version: str = "1.1"
    """Of HTTP."""
    rest: bytes = b""
    """What came with the head, behind it."""

    def all(self, name: bytes) -> list[bytes]:
        """Return every header of a name, which is in lower case."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of a name, which is in lower case."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A plain answer, then the connection is closed: a refusal, or a page such as /health."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def encode(self, *, with_body: bool = True) -> bytes:
        """Return the response on the wire (RFC 9112 §4), text/plain unless a header says else."""
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
    """Return the elements of all headers of a name, which are lists (RFC 9110 §5.6.1)."""
    values = b",".join(value for key, value in headers if key == name)
    return [word.strip() for word in values.decode("latin-1").split(",") if word.strip()]


async def read_request(stream: trio.abc.Stream) -> HttpRequest | None:
    """Read a request head; None at the end of the stream.

    :raises h11.RemoteProtocolError: it is no HTTP, or has more than 16 KiB.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            break
        if event is not h11.NEED_DATA:
            return None
        parser.receive_data(bytes(await stream.receive_some(MAX_HEAD)))
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
    """Return where a stream comes from, None if that is not known (any more)."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return None
    if stream.socket.family == getattr(socket, "AF_UNIX", None):
        return "unix", 0
    try:
        address = stream.socket.getpeername()
    except OSError:  # the connection has been reset, behind the request
        return None
    if not isinstance(address, tuple):
        return None
    # of IPv4, where one socket takes both (RFC 4291 §2.5.5.2)
    return address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1]


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
            while await stream.receive_some(MAX_HEAD):
                pass
    await stream.aclose()
