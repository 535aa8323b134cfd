"""Workers that misbehave: ``python -m tests.netns.hostile MODE ADDRESS PORT``.

Written with plain sockets and hand-made bytes, so that it shares no code, and no mistake, with
the product. Prints ``hostile worker listens``, and a line for each upgrade request and CONNECT.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tests.netns.servers import receive_exactly

CONNECT, DATA, UDP, CONNECTED, HELLO, WINDOW = 0x01, 0x02, 0x07, 0x0A, 0x40, 0x42
DNS_QUERY, DNS_RESPONSE, UDP_CLOSE = 0x08, 0x09, 0x44
ECHO, ECHO_REPLY, GOAWAY, UDP_ERROR = 0x45, 0x46, 0x47, 0x48
Send = Callable[[bytes], None]
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PAGE = "<!DOCTYPE html><html><body>Traceback (most recent call last) of a shop</body></html>"


def read_head(sock: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive_exactly(sock, 1)
    return head.decode("latin-1")


def respond(sock: socket.socket, status: str, body: str = "", header: str = "") -> None:
    kind = "text/html" if body.startswith("<") else "text/plain"
    sock.sendall(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{header}Content-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}".encode()
    )


def upgrade(sock: socket.socket, head: str, subprotocol: str | None = "zks-tunnel.v2") -> None:
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    key = next(value for name, value in lines.items() if name.lower() == "sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    sock.sendall(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n".encode()
    )


def message(payload: bytes, opcode: int = 2) -> bytes:
    """One unmasked WebSocket frame, as a server sends it."""
    if len(payload) < 126:
        length = bytes([len(payload)])
    elif len(payload) < 65536:
        length = b"\x7e" + struct.pack("!H", len(payload))
    else:
        length = b"\x7f" + struct.pack("!Q", len(payload))
    return bytes([0x80 | opcode]) + length + payload


def messages(sock: socket.socket, send: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """The client's binary messages; pings are answered (by ``send``), a Close ends it."""
    send = send or sock.sendall
    while True:
        first, second = receive_exactly(sock, 2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", receive_exactly(sock, 2))
        elif size == 127:
            (size,) = struct.unpack("!Q", receive_exactly(sock, 8))
        mask = receive_exactly(sock, 4)
        body = receive_exactly(sock, size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(body, "big") ^ key).to_bytes(size, "big")
        if first & 15 == 8:
            code = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 1005
            print(f"client closed {code} {payload[2:].decode(errors='replace')}", flush=True)
            send(message(payload, 8))
            return
        if first & 15 == 9:
            send(message(payload, 10))
        if first & 15 == 2:
            yield payload


def hello(**changes: object) -> bytes:
    body = {
        "version": 2,
        "window": 65536,
        "max_data": 65535,
        "max_message": 1048576,
        "streams": 100,
        "session": os.urandom(16).hex(),
        "udp": True,
        "dns": True,
        "ipv6": True,
        "icmp": True,
        "resume": 0,
        **changes,
    }
    return head40(HELLO, 0, json.dumps(body).encode())


def head40(command: int, number: int, body: bytes) -> bytes:
    return struct.pack("!BII", command, number, len(body)) + body


def data(stream: int, payload: bytes) -> bytes:
    return struct.pack("!BII", DATA, stream, len(payload)) + payload


def connected(stream: int) -> bytes:
    return struct.pack("!BI", CONNECTED, stream)


def _streams(sock: socket.socket, meet: Callable[[socket.socket, int], None]) -> None:
    """Answer the client's HELLO with ours, and each CONNECT (sent alone or first) with ``meet``."""
    seen_hello = False
    for payload in messages(sock):
        if payload[0] == HELLO and not seen_hello:
            seen_hello = True
            sock.sendall(message(hello()))
            payload = payload[9 + struct.unpack("!I", payload[5:9])[0] :]
        if payload[:1] == bytes([CONNECT]):
            (stream,) = struct.unpack("!I", payload[1:5])
            print(f"asked to connect stream {stream}", flush=True)
            meet(sock, stream)


def _lie(sock: socket.socket) -> None:
    """Answer DNS, UDP and ECHO with lies, and then with the truth; only DNS has but one answer."""
    for payload in messages(sock):
        if payload[0] == HELLO:
            sock.sendall(message(hello()))
        elif payload[0] == DNS_QUERY:
            sock.sendall(message(_lie_about_names(payload)))
        elif payload[0] == UDP:
            for lie in _lies_about_datagrams(payload):
                sock.sendall(message(lie))
        elif payload[0] == ECHO:
            request, skipped = payload[1:5], 11 + struct.unpack("!H", payload[9:11])[0]
            for number, reply in (
                (b"\xff\xff\xff\xff", b"for nobody"),
                (b"\0\0\0\0", b""),
                (request, payload[skipped:]),
                (request, bytes(65536)),
            ):
                sock.sendall(message(bytes([ECHO_REPLY]) + number + _counted(reply)))


def _counted(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def _lie_about_names(payload: bytes) -> bytes:
    """What kind of lie, says the first letter of the name that is asked for."""
    query = payload[9:]
    end = query.index(0, 12) + 5
    question = query[12:end]
    record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07"
    good = query[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0" + question + record
    lies = {
        b"a": os.urandom(200),
        b"b": b"",
        b"c": query,
        b"d": good[:12] + b"\x05other" + question[question[0] + 1 :] + record,
        b"e": good[:-5],
        b"f": good[:12] + b"\xc0\x0c\0\x01\0\x01" + record,  # a name that is itself
        b"g": good[:6] + b"\xff\xff" + good[8:],
        b"h": good.ljust(65535, b"\0"),
        b"i": query[:3] + good[3:],
    }
    return bytes([DNS_RESPONSE]) + payload[1:5] + _counted(lies.get(question[1:2], good))


def _lies_about_datagrams(payload: bytes) -> Iterator[bytes]:
    """Datagrams and errors from nowhere and for nobody; at last the datagram comes back."""
    association = payload[1:5]

    def datagram(host: bytes, number: bytes = association, port: int = 9) -> bytes:
        head = bytes([UDP]) + number + struct.pack("!HH", port, len(host)) + host
        return head + _counted(b"a lie")

    for host in (b"far.zks.test", b"[::1]", b"::ffff:1.2.3.4", b"fe80::1%lo", b"1", b"\xd9\xa1"):
        yield datagram(host)
        for code in (0, 90, 111, 65535):
            body = struct.pack("!HHH", code, 9, len(host)) + host
            yield bytes([UDP_ERROR]) + association + _counted(body)
    yield datagram(b"25.2.2.2", b"\xff\xff\xff\xff")
    yield bytes([UDP_CLOSE]) + b"\xff\xff\xff\xff" + _counted(b"")
    yield datagram(b"127.0.0.1", port=0)  # martians, for the system to drop
    yield datagram(b"224.0.0.1")
    yield payload


def _flood(send: Send) -> None:
    """Endless tiny frames: unknown ones, answers to nobody, goodbyes, empty datagrams."""
    tiny = [head40(0x50, 0, b""), head40(GOAWAY, 0, b"\0\1"), head40(UDP_CLOSE, 9, b"")]
    tiny += [bytes([DNS_RESPONSE]) + bytes(8), head40(ECHO_REPLY, 77, b""), b"\x06"]
    while True:
        for frame in tiny:
            send(message(frame * (60000 // len(frame))))


def _refuse_in_a_flood(sock: socket.socket) -> None:
    sending = threading.Lock()  # an answer to a ping must not come amid a message of the flood

    def send(frame: bytes) -> None:
        with sending:
            sock.sendall(frame)

    for payload in messages(sock, send):
        if payload[0] == HELLO:
            send(message(hello()))
            threading.Thread(target=_ended, args=(_flood, send), daemon=True).start()


def _ended(act: Callable[[Send], None], send: Send) -> None:
    try:
        act(send)
    except OSError as error:
        print(f"connection ended: {error}", flush=True)


def _answer_hello(sock: socket.socket, payload: bytes) -> None:
    next(messages(sock))
    sock.sendall(payload)
    for _ in messages(sock):
        pass


def _overrun(sock: socket.socket, stream: int) -> None:
    sock.sendall(message(connected(stream)))

    def flood(send: Send) -> None:
        for _ in range(600):  # 39 MB to a stream that was granted 1 MiB or so
            send(message(data(stream, bytes(65535))))

    # (What the client says about it is heard meanwhile.)
    threading.Thread(target=_ended, args=(flood, sock.sendall), daemon=True).start()


def _middle(sock: socket.socket, stream: int) -> None:
    sock.sendall(message(connected(stream)) + message(data(stream, b"first")))
    time.sleep(0.2)
    sock.sendall(message(data(stream, bytes(5000)))[:1000])
    sock.shutdown(socket.SHUT_RDWR)


def _stall(sock: socket.socket, stream: int) -> None:
    sock.sendall(message(connected(stream)) + message(data(stream, bytes(5000)))[:1000])
    time.sleep(3600)


_AFTER_CONNECT: dict[str, Callable[[socket.socket, int], None]] = {
    "overrun": _overrun,
    "middle": _middle,
    "stall": _stall,
    "long-length": lambda s, n: s.sendall(message(struct.pack("!BII", DATA, n, 60000) + b"short")),
    "idle-stream": lambda s, n: s.sendall(message(data(n + 7, b"x"))),
    "twice-connected": lambda s, n: s.sendall(message(connected(n) + connected(n))),
    "window-overflow": lambda s, n: s.sendall(
        message(connected(n) + 2 * head40(WINDOW, n, struct.pack("!I", 2**31 - 1)))
    ),
    "unknown-command": lambda s, n: s.sendall(message(b"\x3f" + bytes(20))),
    "text": lambda s, n: s.sendall(message(b"hello", 1)),
    "close-1002": lambda s, n: s.sendall(message(struct.pack("!H", 1002) + b"no", 8)),
    "refuse": lambda s, n: s.sendall(message(struct.pack("!BIHH", 0x04, n, 111, 0) + b"")),
}

_HELLOS: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: message(os.urandom(500)),
    "garbage-bytes": lambda: os.urandom(500),
    "bad-json": lambda: message(head40(HELLO, 0, b'{"version": ')),
    "bad-range": lambda: message(hello(window=-5)),
    "bad-type": lambda: message(hello(streams="many")),
    "early-data": lambda: message(data(1, b"x")),
}

_STATUS = {
    "401": ("401 Unauthorized", "who are you", ""),
    "403": ("403 Forbidden", "not you", ""),
    "404": ("404 Not Found", "no such page", ""),
    "html": ("200 OK", _PAGE, ""),
    "redirect": ("302 Found", "", "Location: http://25.2.2.2:8080/tunnel\r\n"),
    "500": ("500 Internal Server Error", _PAGE, ""),
}


def serve(mode: str, sock: socket.socket) -> None:
    """Meet one connection as ``mode`` says."""
    if mode == "garbage-http":
        receive_exactly(sock, 1)
        sock.sendall(os.urandom(2000))
        return
    if mode == "mute":
        time.sleep(3600)
    head = read_head(sock)
    print(f"upgrade asked for: {head.splitlines()[0]}", flush=True)
    if mode in _STATUS:
        respond(sock, *_STATUS[mode])
    elif mode == "hang-up":
        return
    elif mode == "no-subprotocol":
        upgrade(sock, head, None)
        for _ in messages(sock):
            pass
    elif mode in ("lies", "flood"):
        upgrade(sock, head)
        (_lie if mode == "lies" else _refuse_in_a_flood)(sock)
    elif mode in _HELLOS:
        upgrade(sock, head)
        _answer_hello(sock, _HELLOS[mode]())
    else:
        upgrade(sock, head)
        _streams(sock, _AFTER_CONNECT[mode])


def main(mode: str, address: str, port: str) -> None:
    listener = socket.create_server((address, int(port)))

    def one(sock: socket.socket) -> None:
        with sock:
            try:
                serve(mode, sock)
            except (OSError, EOFError) as error:
                print(f"connection ended: {error}", flush=True)

    print("hostile worker listens", flush=True)
    while True:
        sock, peer = listener.accept()
        print(f"connection from {peer[0]}", flush=True)
        threading.Thread(target=one, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
