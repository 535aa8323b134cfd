"""What each end demands of the other's opening handshake (RFC 6455 §4), without input or output.

wsproto looks at the last of several headers of a name and at one word of a list, and h11 takes any
version and a body: where a front end reads a request otherwise, it can be bypassed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence

import h11

from .http import HttpRequest, HttpResponse, listed

__all__ = ["check_answer", "refuse_upgrade"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455 §1.3
_VERSION = b"13"
_KEY_BYTES = 16
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def refuse_upgrade(request: HttpRequest) -> HttpResponse | None:
    """Return the answer to a request that is no upgrade by RFC 6455 §4.2.1; None: it is one."""
    if request.method != "GET":
        return HttpResponse(405, b"an upgrade is a GET\n", ((b"Allow", b"GET"),))
    if not request.upgrade:
        return HttpResponse(426, b"this path speaks WebSocket\n", ((b"Upgrade", b"websocket"),))
    versions = request.all(b"sec-websocket-version")
    if versions and versions != [_VERSION]:
        headers = ((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", _VERSION))
        return HttpResponse(426, b"this is version 13 of WebSocket\n", headers)
    for wrong, why in (
        (request.version != "1.1", b"an upgrade is HTTP/1.1"),
        (not versions, b"Sec-WebSocket-Version is missing"),
        (not _is_key(request.all(b"sec-websocket-key")), b"no Sec-WebSocket-Key of 16 bytes"),
        (not request.header(b"host"), b"Host is missing"),
        (request.header(b"content-length") is not None, b"an upgrade has no Content-Length"),
        (request.header(b"transfer-encoding") is not None, b"an upgrade has no Transfer-Encoding"),
        (not _are_protocols(request), b"Sec-WebSocket-Protocol is no list of names"),
        (request.rest != b"", b"bytes came before the upgrade was answered"),
    ):
        if wrong:
            return HttpResponse(400, b"no WebSocket: " + why + b"\n")
    return None


def _is_key(keys: Sequence[bytes]) -> bool:
    if len(keys) != 1:
        return False
    try:
        return len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _are_protocols(request: HttpRequest) -> bool:
    """Return whether the subprotocols that are offered, if any, are tokens, each once."""
    if request.header(b"sec-websocket-protocol") is None:
        return True
    names = request.subprotocols
    tokens = all(_TOKEN.issuperset(name.encode("latin-1")) for name in names)
    return bool(names) and tokens and len(set(names)) == len(names)


def check_answer(head: bytes, key: bytes, offered: Iterable[str]) -> bytes:
    """Check the server's answer.

    :returns: ``head``; where its status is 101, an answer with the headers that matter, each once.
    :raises ValueError: a status of 101 that opens no WebSocket by RFC 6455 §4.1; says why.

    :param head: the answer, to the empty line and with it.
    :param key: the Sec-WebSocket-Key of the request.
    :param offered: the subprotocols of the request. It offers no extension.
    """
    parser = h11.Connection(h11.CLIENT)
    asked = [("Host", "h"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
    try:
        parser.send(h11.Request(method="GET", target="/", headers=asked))
        parser.receive_data(head)
        answer = parser.next_event()
    except h11.ProtocolError:
        return head
    if not isinstance(answer, h11.InformationalResponse) or answer.status_code != 101:
        return head
    headers = [(bytes(name), bytes(value)) for name, value in answer.headers]

    def values(name: bytes) -> list[bytes]:
        return [value for found, value in headers if found == name]

    def words(name: bytes) -> list[str]:
        return [word.lower() for word in listed(headers, name)]

    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    protocols = values(b"sec-websocket-protocol")
    for wrong, why in (
        (answer.http_version != b"1.1", "it is not HTTP/1.1"),
        (words(b"upgrade") != ["websocket"], "Upgrade does not say websocket"),
        ("upgrade" not in words(b"connection"), "Connection does not say Upgrade"),
        (values(b"sec-websocket-accept") != [accept], "Bad accept token"),
        (listed(headers, b"sec-websocket-extensions"), "it selects an extension"),
        (len(protocols) > 1, "it selects several subprotocols"),
        (
            any(value.decode("latin-1") not in offered for value in protocols),
            "it selects a subprotocol that was not offered",
        ),
    ):
        if wrong:
            raise ValueError(f"its upgrade breaks RFC 6455: {why}")
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *(b"Sec-WebSocket-Protocol: " + value for value in protocols),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"
