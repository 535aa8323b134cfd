"""The heads of HTTP that a proxy reads and writes: CONNECT, and requests for ``http://`` URLs.

Framing is h11's; here is what RFC 9110 and RFC 9112 say of a proxy. No input or output.
"""

from __future__ import annotations

import base64
import binascii
import http
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import h11

from ..net.names import split_host_port

__all__ = [
    "MAX_HEAD",
    "BadRequest",
    "HttpTarget",
    "credentials_in",
    "encode_answer",
    "end_to_end",
    "forwarded_head",
    "read_target",
]

MAX_HEAD = 16 << 10
"""Bytes of a request's head."""

Header = tuple[bytes, bytes]

_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#]*)([^#]*)\Z")
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[^\x00-\x20\x7f@/?#\\]{1,255}\Z")
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization "
    b"proxy-connection te trailer transfer-encoding upgrade".split()
)
_FRAMING = frozenset((b"content-length", b"host", b"transfer-encoding"))
"""What a Connection header cannot take away."""


class BadRequest(Exception):
    """A request that is answered by an error.

    :param status: of HTTP.
    :param message: one sentence, for the body.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Where a request is to go."""

    host: str
    """An address in text, without brackets, or a name."""
    port: int
    path: bytes | None = field(default=None)
    """The target for the origin; None: it is a CONNECT."""
    authority: bytes = b""
    """What the origin's Host header says."""


def read_target(request: h11.Request) -> HttpTarget:
    """Return where a request is to go.

    :raises BadRequest: nowhere; says why.
    """
    if request.method == b"CONNECT":
        # RFC 9110 §9.3.6: there is no content; what would be framed as such is the far end's.
        # (WinINet says so: `Content-Length: 0`.)
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and int(value))
            for name, value in request.headers
        ):
            raise BadRequest(400, "CONNECT has no content, and no header that frames it.")
        host, port = _authority(request.target, None)
        return HttpTarget(host, port)
    match = _ABSOLUTE.match(request.target)
    if match is not None:
        host, port = _authority(match[1], 80)
        path = match[2]
        if not path:
            path = b"*" if request.method == b"OPTIONS" else b"/"  # RFC 9112 §3.2.4
        elif path.startswith(b"?"):
            path = b"/" + path
        return HttpTarget(host, port, path, match[1])
    scheme = _SCHEME.match(request.target)
    if scheme is not None:
        name = scheme[1].decode("ascii").lower()
        raise BadRequest(
            501, f"This proxy does not speak {name}: have the program use CONNECT, or SOCKS5."
        )
    raise BadRequest(
        400,
        "This is a proxy, not a server: name its address as the HTTP or SOCKS5 proxy of a program.",
    )


def _authority(text: bytes, default: int | None) -> tuple[str, int]:
    """Read ``HOST:PORT``.

    :raises BadRequest: it is none.
    """
    try:
        host, port = split_host_port(text.decode("utf-8"))
        number = default if not port else int(port) if re.match(r"[0-9]{1,5}\Z", port) else None
    except ValueError:
        host, number = "", None
    if number is None or not 1 <= number <= 65535 or not _HOST.match(host):
        shown = text[:200].decode("ascii", "replace")
        raise BadRequest(400, f"{shown!r} is no host and port.")
    return host, number


def credentials_in(headers: Iterable[Header]) -> tuple[bytes, bytes] | None:
    """Return the name and the password of a Proxy-Authorization header (RFC 7617); None: none."""
    for name, value in headers:
        if name != b"proxy-authorization":
            continue
        scheme, _, text = value.strip().partition(b" ")
        try:
            decoded = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            return None
        user, colon, password = decoded.partition(b":")
        return (user, password) if scheme.lower() == b"basic" and colon else None
    return None


def end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> list[Header]:
    """Return the headers that are not for one connection alone (RFC 9110 §7.6.1), as spelled.

    Content-Length stays, where it is what frames the body; all other framing is left to who sends
    the message on.
    """
    headers = message.headers
    listed = b",".join(value for name, value in headers if name == b"connection")
    dropped = {word.strip().lower() for word in listed.split(b",")} - _FRAMING
    dropped |= _HOP_BY_HOP
    if any(name == b"transfer-encoding" for name, _ in headers):
        dropped.add(b"content-length")  # RFC 9112 §6.3
    return [(raw, value) for raw, value in headers.raw_items() if raw.lower() not in dropped]


def forwarded_head(request: h11.Request, target: HttpTarget) -> h11.Request:
    """Return a request as it goes to its origin, on a connection for it alone.

    It gets no Via and no Forwarded header: the origin sees what it would see of the program.
    """
    assert target.path is not None
    kept = [header for header in end_to_end(request) if header[0].lower() != b"host"]
    headers = [(b"Host", target.authority), *kept]
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        headers.append((b"Transfer-Encoding", b"chunked"))  # h11 takes no other
    headers.append((b"Connection", b"close"))
    return h11.Request(method=request.method, target=target.path, headers=headers)


def encode_answer(
    status: int, message: str, headers: Iterable[Header] = (), *, with_body: bool = True
) -> bytes:
    """Return an answer of ours that ends the connection.

    :param message: the body, one sentence.
    :param with_body: it is not for a HEAD.
    """
    body = f"{message}\n".encode()
    lines = [
        b"HTTP/1.1 %d %s" % (status, http.HTTPStatus(status).phrase.encode("ascii")),
        b"Content-Type: text/plain; charset=utf-8",
        b"X-Content-Type-Options: nosniff",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        *(b"%s: %s" % header for header in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body if with_body else b"")
