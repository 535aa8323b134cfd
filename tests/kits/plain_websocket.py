"""WebSocket (RFC 6455) by hand, over plain sockets.

It shares no code, and no mistake, with the product.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Callable, Iterator

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
V2 = "zks-tunnel.v2"


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes.

    :raises EOFError: the peer has ended before.
    """
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError(f"{len(data)} of {size} bytes came")
        data += piece
    return bytes(data)


def read_head(sock: socket.socket) -> str:
    """Read the head of an HTTP request or response, and no byte behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive_exactly(sock, 1)
    return head.decode("latin-1")


def http_response(status: str, body: str = "", header: str = "") -> bytes:
    """Return a response with a text or a page.

    :param header: further lines, each with its end.
    """
    kind = "text/html" if body.startswith("<") else "text/plain"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{header}Content-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()


def upgrade_request(subprotocol: str | None = V2) -> bytes:
    """Return a client's request for a WebSocket; the v1 protocol names no subprotocol."""
    offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "GET /tunnel HTTP/1.1\r\nHost: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
    ).encode()


def upgrade_response(request: str, subprotocol: str | None = V2) -> bytes:
    """Return the 101 that answers the head of a client's request."""
    lines = dict(line.split(": ", 1) for line in request.split("\r\n")[1:] if ": " in line)
    key = next(value for name, value in lines.items() if name.lower() == "sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    ).encode()


def frame(
    payload: bytes = b"", opcode: int = BINARY, *, masked: bool = False, fin: bool = True
) -> bytes:
    """Return a frame, ``masked`` (by zeros) as a client's."""
    size = len(payload)
    first, mask = opcode | (0x80 if fin else 0), 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def client_message(payload: bytes) -> bytes:
    """Return a client's message, in one frame."""
    return frame(payload, masked=True)


def close_frame(status: int, reason: str = "", *, masked: bool = False) -> bytes:
    """Return a Close frame."""
    return frame(struct.pack("!H", status) + reason.encode(), CLOSE, masked=masked)


def close_reason(payload: bytes) -> tuple[int, str]:
    """Return status and reason of a Close frame; 1005 where it has none."""
    status = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 1005
    return status, payload[2:].decode(errors="replace")


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """Read a frame, masked or not.

    :returns: its opcode and its payload.
    """
    first, second = receive_exactly(sock, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", receive_exactly(sock, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", receive_exactly(sock, 8))
    mask = receive_exactly(sock, 4) if second & 0x80 else b""
    payload = receive_exactly(sock, size)
    if mask:
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return first & 15, payload


def messages(
    sock: socket.socket,
    send: Callable[[bytes], object],
    *,
    on_close: Callable[[int, str], object] | None = None,
) -> Iterator[bytes]:
    """Yield a client's binary messages up to its Close.

    :param send: sends the answers to pings and to the Close.
    :param on_close: called with status and reason of the client's Close.
    """
    while True:
        opcode, payload = read_frame(sock)
        if opcode == CLOSE:
            if on_close is not None:
                on_close(*close_reason(payload))
            send(frame(payload, CLOSE))
            return
        if opcode == PING:
            send(frame(payload, PONG))
        if opcode == BINARY:
            yield payload
