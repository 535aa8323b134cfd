"""Workers that misbehave, each a script; in this process or as one of their own.

In a test of the client, a script is a function that meets one connection, in a thread::

    def leave_at_once(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet()
        talk.send(goaway(1, ""))
        talk.listen()

    with HostileWorker(leave_at_once) as worker:
        ...  # a tunnel to worker.url; worker.opened and worker.closed say what the client did

End to end, the scripts of ``SCRIPTS`` are chosen by name:
``python -m tests.kits.hostile_worker NAME ADDRESS PORT`` prints ``hostile worker listens``, and a
line for each connection, upgrade request, CONNECT and Close.

Plain sockets and hand-made bytes: this shares no code, and no mistake, with the product.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.kits import plain_websocket as websocket
from tests.kits.plain_websocket import V2, frame

CONNECT, DATA, ERROR, UDP, DNS_QUERY, DNS_RESPONSE, CONNECTED = 1, 2, 4, 7, 8, 9, 10
HELLO, WINDOW, ACK, UDP_CLOSE = 0x40, 0x42, 0x43, 0x44
ECHO, ECHO_REPLY, GOAWAY, UDP_ERROR = 0x45, 0x46, 0x47, 0x48
_PAGE = "<!DOCTYPE html><html><body>Traceback (most recent call last) of a shop</body></html>"

# Frames


def head40(command: int, number: int, body: bytes) -> bytes:
    """Return a frame with a counted body, as all from 0x40 on (and DATA) have it."""
    return struct.pack("!BII", command, number, len(body)) + body


def hello(**changes: object) -> bytes:
    """Return the HELLO of an ordinary worker, with changes."""
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


def data(stream: int, payload: bytes) -> bytes:
    return head40(DATA, stream, payload)


def connected(stream: int) -> bytes:
    return struct.pack("!BI", CONNECTED, stream)


def ack(count: int) -> bytes:
    return head40(ACK, 0, struct.pack("!Q", count))


def goaway(code: int, text: str) -> bytes:
    return head40(GOAWAY, 0, struct.pack("!H", code) + text.encode())


def udp(association: int, host: str, port: int, payload: bytes) -> bytes:
    name = host.encode()
    head = struct.pack("!BIHH", UDP, association, port, len(name)) + name
    return head + struct.pack("!I", len(payload)) + payload


# The worker


class Conversation:
    """One connection of a client, for a script; the client's first byte has not been read."""

    def __init__(self, worker: HostileWorker, sock: socket.socket, number: int) -> None:
        """
        :param number: how many connections came before.
        """
        self.number = number
        self.sock = sock
        self._worker = worker
        self._head = ""
        self._sending = threading.Lock()

    def send_raw(self, data: bytes) -> None:
        """Send bytes; what another thread sends at the same time comes before or behind them."""
        with self._sending:
            self.sock.sendall(data)

    def send(self, *frames: bytes, opcode: int = websocket.BINARY) -> None:
        """Send frames as one WebSocket message."""
        self.send_raw(frame(b"".join(frames), opcode))

    def close(self, status: int, reason: str = "") -> None:
        """Send a Close frame."""
        self.send_raw(websocket.close_frame(status, reason))

    def read_request(self) -> None:
        self._head = websocket.read_head(self.sock)
        self._worker.say(f"upgrade asked for: {self._head.splitlines()[0]}")

    def respond(self, status: str, body: str = "", header: str = "") -> None:
        """Refuse the WebSocket by an HTTP response."""
        self.read_request()
        self.send_raw(websocket.http_response(status, body, header))

    def upgrade(self, subprotocol: str | None = V2, behind: bytes = b"") -> None:
        """Grant the WebSocket, and send bytes behind that in the same segment."""
        self.read_request()
        self.send_raw(websocket.upgrade_response(self._head, subprotocol) + behind)

    def greet(self, **changes: object) -> None:
        """Send a HELLO once the client's has come."""
        self.answer_hello(hello(**changes))

    def answer_hello(self, answer: bytes) -> None:
        """Send these frames once the client's HELLO has come."""
        next(self.messages())
        self.send(answer)

    def messages(self) -> Iterator[bytes]:
        """Yield the client's messages up to its Close; pings are answered."""
        return websocket.messages(self.sock, self.send_raw, on_close=self._worker.on_close)

    def listen(self) -> None:
        """Read to the client's Close."""
        for _ in self.messages():
            pass

    def aside(self, act: Callable[[], None]) -> None:
        """Send in a thread of its own, so that the client is heard meanwhile."""
        threading.Thread(target=self._worker.guarded, args=(act,), daemon=True).start()

    def connects(self) -> Iterator[int]:
        """Greet, and yield the stream of each CONNECT, which is sent alone or first."""
        greeted = False
        for payload in self.messages():
            if payload[0] == HELLO and not greeted:
                greeted = True
                self.send(hello())
                payload = payload[9 + struct.unpack("!I", payload[5:9])[0] :]
            if payload[:1] == bytes([CONNECT]):
                (stream,) = struct.unpack("!I", payload[1:5])
                self._worker.say(f"asked to connect stream {stream}")
                yield stream


Script = Callable[[Conversation], None]


class HostileWorker:
    """Listens, and has ``script`` meet each connection in a thread of its own.

    ``opened`` are the times of the connections (:func:`time.monotonic`), ``closed`` status and
    reason of each Close frame that a client has sent.
    """

    def __init__(self, script: Script, address: str = "127.0.0.1", port: int = 0) -> None:
        self.opened: list[float] = []
        self.closed: list[tuple[int, str]] = []
        self._script = script
        self._listener = socket.create_server((address, port))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"ws://{host}:{port}/tunnel"

    def __enter__(self) -> HostileWorker:
        self._start(self.serve)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close everything: what a script waits for then fails, and it ends."""
        # A close() alone would leave the accept() of another thread waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        self._listener.close()

    def serve(self) -> None:
        """Meet connections for ever, or until the listener is closed."""
        for number in itertools.count():
            sock, peer = self._listener.accept()
            self.say(f"connection from {peer[0]}")
            self.opened.append(time.monotonic())
            self._sockets.append(sock)
            self._start(partial(self._meet, Conversation(self, sock, number)))

    def _start(self, act: Callable[[], None]) -> None:
        thread = threading.Thread(target=self.guarded, args=(act,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _meet(self, talk: Conversation) -> None:
        with talk.sock:
            self._script(talk)

    def guarded(self, act: Callable[[], None]) -> None:
        """Run what a lost connection may end."""
        try:
            act()
        except (OSError, EOFError, StopIteration) as error:  # (the last: no message comes)
            self.say(f"connection ended: {error}")

    def on_close(self, status: int, reason: str) -> None:
        self.closed.append((status, reason))
        self.say(f"client closed {status} {reason}")

    def say(self, line: str) -> None:
        print(line, flush=True)


# Scripts for the end-to-end tests


def _at_connect(act: Callable[[Conversation, int], None]) -> Script:
    """Behave until CONNECT; then ``act(talk, stream)``."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        for stream in talk.connects():
            act(talk, stream)

    return script


def _at_hello(answer: Callable[[], bytes]) -> Script:
    """Answer the client's HELLO by these bytes."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        next(talk.messages())
        talk.send_raw(answer())
        talk.listen()

    return script


def _refusal(status: str, body: str = "", header: str = "") -> Script:
    return lambda talk: talk.respond(status, body, header)


def _lie(talk: Conversation) -> None:
    """Answer DNS, UDP and ECHO with lies, and then with the truth; only DNS has but one answer."""
    talk.upgrade()
    for payload in talk.messages():
        if payload[0] == HELLO:
            talk.send(hello())
        elif payload[0] == DNS_QUERY:
            talk.send(_lie_about_names(payload))
        elif payload[0] == UDP:
            for lie in _lies_about_datagrams(payload):
                talk.send(lie)
        elif payload[0] == ECHO:
            (request,) = struct.unpack("!I", payload[1:5])
            skipped = 11 + struct.unpack("!H", payload[9:11])[0]
            talk.send(head40(ECHO_REPLY, 0xFFFFFFFF, b"for no request"))
            talk.send(head40(ECHO_REPLY, 0, b""))
            talk.send(head40(ECHO_REPLY, request, payload[skipped:]))
            talk.send(head40(ECHO_REPLY, request, bytes(65536)))


def _lie_about_names(payload: bytes) -> bytes:
    """Tell the lie that the first letter of the name chooses."""
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
    (request,) = struct.unpack("!I", payload[1:5])
    return head40(DNS_RESPONSE, request, lies.get(question[1:2], good))


def _lies_about_datagrams(payload: bytes) -> Iterator[bytes]:
    """Yield datagrams and errors of no host and of no association; at last the datagram itself."""
    (association,) = struct.unpack("!I", payload[1:5])
    hosts = ("far.zks.test", "[::1]", "::ffff:1.2.3.4", "fe80::1%lo", "1", "\u0661")
    for host in hosts:
        name = host.encode()
        yield udp(association, host, 9, b"a lie")
        for code in (0, 90, 111, 65535):
            body = struct.pack("!HHH", code, 9, len(name)) + name
            yield head40(UDP_ERROR, association, body)
    yield udp(0xFFFFFFFF, "25.2.2.2", 9, b"a lie")
    yield head40(UDP_CLOSE, 0xFFFFFFFF, b"")
    yield udp(association, "127.0.0.1", 0, b"a lie")  # martians, for the system to drop
    yield udp(association, "224.0.0.1", 9, b"a lie")
    yield payload


def _flood(talk: Conversation) -> None:
    """Send tiny frames without end: unknown ones, answers to no request, GOAWAYs, ends."""
    tiny = [head40(0x50, 0, b""), head40(GOAWAY, 0, b"\0\1"), head40(UDP_CLOSE, 9, b"")]
    tiny += [head40(DNS_RESPONSE, 0, b""), head40(ECHO_REPLY, 77, b""), b"\x06"]

    def flood() -> None:
        while True:
            for each in tiny:
                talk.send(each * (60000 // len(each)))

    talk.upgrade()
    talk.greet()
    talk.aside(flood)
    talk.listen()


def _overrun(talk: Conversation, stream: int) -> None:
    def flood() -> None:
        for _ in range(600):  # 39 MB to a stream that was granted 1 MiB or so
            talk.send(data(stream, bytes(65535)))

    talk.send(connected(stream))
    talk.aside(flood)


def _middle(talk: Conversation, stream: int) -> None:
    """Hang up in the middle of a message."""
    talk.send(connected(stream))
    talk.send(data(stream, b"first"))
    time.sleep(0.2)
    talk.send_raw(frame(data(stream, bytes(5000)))[:1000])
    talk.sock.shutdown(socket.SHUT_RDWR)


def _stall(talk: Conversation, stream: int) -> None:
    """Say nothing more in the middle of a message."""
    talk.send(connected(stream))
    talk.send_raw(frame(data(stream, bytes(5000)))[:1000])
    time.sleep(3600)


def _garbage_http(talk: Conversation) -> None:
    websocket.receive_exactly(talk.sock, 1)
    talk.send_raw(os.urandom(2000))


def _no_subprotocol(talk: Conversation) -> None:
    talk.upgrade(None)
    talk.listen()


SCRIPTS: dict[str, Script] = {
    "mute": lambda talk: time.sleep(3600),
    "hang-up": lambda talk: talk.read_request(),
    "garbage-http": _garbage_http,
    "no-subprotocol": _no_subprotocol,
    "401": _refusal("401 Unauthorized", "who are you"),
    "403": _refusal("403 Forbidden", "not you"),
    "404": _refusal("404 Not Found", "no such page"),
    "html": _refusal("200 OK", _PAGE),
    "redirect": _refusal("302 Found", header="Location: http://25.2.2.2:8080/tunnel\r\n"),
    "500": _refusal("500 Internal Server Error", _PAGE),
    "garbage": _at_hello(lambda: frame(os.urandom(500))),
    "garbage-bytes": _at_hello(lambda: os.urandom(500)),
    "bad-json": _at_hello(lambda: frame(head40(HELLO, 0, b'{"version": '))),
    "bad-range": _at_hello(lambda: frame(hello(window=-5))),
    "bad-type": _at_hello(lambda: frame(hello(streams="many"))),
    "early-data": _at_hello(lambda: frame(data(1, b"x"))),
    "overrun": _at_connect(_overrun),
    "middle": _at_connect(_middle),
    "stall": _at_connect(_stall),
    "long-length": _at_connect(
        lambda talk, n: talk.send(struct.pack("!BII", DATA, n, 60000) + b"short")
    ),
    "idle-stream": _at_connect(lambda talk, n: talk.send(data(n + 7, b"x"))),
    "twice-connected": _at_connect(lambda talk, n: talk.send(connected(n) * 2)),
    "window-overflow": _at_connect(
        lambda talk, n: talk.send(connected(n), head40(WINDOW, n, struct.pack("!I", 2**31 - 1)) * 2)
    ),
    "unknown-command": _at_connect(lambda talk, n: talk.send(b"\x3f" + bytes(20))),
    "text": _at_connect(lambda talk, n: talk.send(b"hello", opcode=websocket.TEXT)),
    "close-1002": _at_connect(lambda talk, n: talk.close(1002, "no")),
    "lies": _lie,
    "flood": _flood,
}
"""What a worker does, by name."""


def main(name: str, address: str, port: str) -> None:
    worker = HostileWorker(SCRIPTS[name], address, int(port))
    print("hostile worker listens", flush=True)
    worker.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
