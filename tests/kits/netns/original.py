"""A worker with the original's traits: ``python -m tests.kits.netns.original ADDRESS PORT DNS``.

What PROTOCOL.md §9 says was seen in its source, by plain sockets and a thread for everything:

- one frame a message, at most 1 MiB; PING and UDP are ignored, and so is DATA before CONNECTED;
- CONNECT to ports 80 and 443 is answered CONNECTED at once and served by fetching what the DATA
  asks for as HTTP (here from port 8080); what is no HTTP is answered as ``--tls`` says;
- the only end of a stream is CLOSE: at the far end's EOF, or as the echo of the client's;
- what the client or the far end does not take is held, without bound;
- DNS ids are cut to 16 bits, and a query that fails is never answered;
- ERROR knows 400, 403, 409 and 502.

Prints ``original worker listens``, and a line for what it is asked and for what goes wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable

from tests.kits import plain_websocket as websocket
from tests.kits.hostile_worker import CONNECT, DATA, connected, data
from tests.kits.netns import servers

CLOSE, ERROR, PING, PONG, UDP, DNS_QUERY, DNS_RESPONSE = 3, 4, 5, 6, 7, 8, 9
_MOST_MESSAGE = 1 << 20
_CHUNK = 65536
_DNS_SECONDS = 3.0


class _Outbox:
    """Sends in a thread of its own what is put in; takes everything, and says so as it grows."""

    def __init__(self, name: str, send: Callable[[bytes], object], end: Callable[[], object]):
        self._name = name
        self._send = send
        self._end = end
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._held = 0
        self._told = 1 << 20
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def put(self, payload: bytes | None) -> None:
        """None: the end, behind what is there."""
        with self._lock:
            self._held += len(payload or b"")
            if self._held > self._told:
                self._told *= 2
                print(f"holding {self._held} bytes for {self._name}", flush=True)
        self._queue.put(payload)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while (payload := self._queue.get()) is not None:
                self._send(payload)
                with self._lock:
                    self._held -= len(payload)
        self._end()


class _Socket:
    """A stream to the far end, from CONNECTED on."""

    def __init__(self, client: _Client, stream: int, far: socket.socket) -> None:
        self._client = client
        self._stream = stream
        self._far = far
        self._up = _Outbox("a far end", far.sendall, self._close)

    def start(self) -> None:
        """Carry what the far end says."""
        threading.Thread(target=self._read, daemon=True).start()

    def on_data(self, payload: bytes) -> None:
        self._up.put(payload)

    def on_close(self) -> None:
        self._up.put(None)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while payload := self._far.recv(_CHUNK):
                self._client.send(data(self._stream, payload))
        self._client.end(self._stream)
        self._up.put(None)

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()


class _Fetch:
    """Ports 80 and 443: no connection, but a request of our own."""

    def __init__(self, client: _Client, stream: int, host: str) -> None:
        self._client = client
        self._stream = stream
        self._host = host
        self._request = b""

    def on_data(self, payload: bytes) -> None:
        self._request += payload
        head, end, body = self._request.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not self._request[:1].isalpha():  # a method: RFC 9110 §9.1
            self._no_http()
        elif end:
            lengths = [int(x[15:]) for x in lines if x.lower().startswith(b"content-length:")]
            if len(body) >= sum(lengths):
                self._request = b""
                threading.Thread(target=self._fetch, args=(lines[0], body), daemon=True).start()

    def on_close(self) -> None:
        self._client.end(self._stream)

    def _no_http(self) -> None:
        print("asked to fetch what is no HTTP", flush=True)
        self._request = b""
        if self._client.tls == "silent":
            return
        if self._client.tls == "400":
            refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
            self._client.send(data(self._stream, refusal))
        self._client.end(self._stream)

    def _fetch(self, request: bytes, body: bytes) -> None:
        lines = [request, b"Host: far", b"Connection: close", b"Content-Length: %d" % len(body)]
        try:
            with socket.create_connection((self._host, servers.HTTP), timeout=10) as far:
                far.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
                while payload := far.recv(_CHUNK):
                    self._client.send(data(self._stream, payload))
        except OSError as error:
            self._client.error(self._stream, 502, str(error))
        self._client.end(self._stream)


class _Client:
    """One WebSocket; the original makes an object of its own for each, too."""

    def __init__(self, sock: socket.socket, resolver: str, tls: str) -> None:
        self.tls = tls
        self._resolver = resolver
        self._sock = sock
        self._out = _Outbox("a client", sock.sendall, lambda: None)
        self._streams: dict[int, _Socket | _Fetch | None] = {}  # None: it is being connected
        self._gone: set[int] = set()
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        assert len(frame) <= _MOST_MESSAGE
        self._out.put(websocket.frame(frame))

    def error(self, stream: int, code: int, text: str) -> None:
        encoded = text.encode()
        self.send(struct.pack("!BIHH", ERROR, stream, code, len(encoded)) + encoded)

    def end(self, stream: int) -> None:
        """CLOSE, if that was not said before."""
        with self._lock:
            known = stream in self._streams
            self._streams.pop(stream, None)
            self._gone.add(stream)
        if known:
            self.send(struct.pack("!BI", CLOSE, stream))

    def serve(self) -> None:
        try:
            self._take_messages()
        finally:
            for stream in [*self._streams.values()]:
                if stream is not None:
                    stream.on_close()
            self._out.put(None)
            self._out.thread.join(2)

    def _take_messages(self) -> None:
        for payload in websocket.messages(self._sock, self._out.put):
            if len(payload) > _MOST_MESSAGE:
                self._out.put(websocket.close_frame(1009))
                return
            command = payload[0]
            if command == DNS_QUERY:
                threading.Thread(target=self._ask, args=(payload,), daemon=True).start()
                continue
            if command in (PING, PONG, UDP):
                print(f"ignored {command:#04x}", flush=True)
                continue
            (stream,) = struct.unpack("!I", payload[1:5])
            with self._lock:
                known, open = stream in self._streams, self._streams.get(stream)
                gone = stream in self._gone  # DATA may be under way when the far end closes
            if command == CONNECT:
                self._connect(stream, known, payload)
            elif command == DATA and open is None and not gone:
                print(f"lost {len(payload) - 9} bytes: DATA before CONNECTED", flush=True)
            elif command == DATA and open is not None:
                open.on_data(payload[9:])
            elif command == CLOSE and open is not None:
                open.on_close()
                self.end(stream)

    def _connect(self, stream: int, known: bool, payload: bytes) -> None:
        port, length = struct.unpack("!HH", payload[5:9])
        host = payload[9:].decode()
        print(f"connect {host} {port}", flush=True)
        if not host or length != len(host):
            self.error(stream, 400, "a malformed CONNECT")
        elif known:
            self.error(stream, 409, "this stream is open")
        elif host.startswith("10."):
            self.error(stream, 403, "a private address")
        elif port in (80, 443):
            self._streams[stream] = _Fetch(self, stream, host)
            self.send(connected(stream))
        else:
            self._streams[stream] = None
            args = (stream, host, port)
            threading.Thread(target=self._open, args=args, daemon=True).start()

    def _open(self, stream: int, host: str, port: int) -> None:
        try:
            far = socket.create_connection((host, port), timeout=10)
        except OSError as error:
            with self._lock:
                del self._streams[stream]
                self._gone.add(stream)
            self.error(stream, 502, str(error))
            return
        far.settimeout(None)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened = _Socket(self, stream, far)
        with self._lock:  # the client's next DATA, an answer to this, must find it
            self._streams[stream] = opened
            self.send(connected(stream))
        opened.start()  # behind this comes what the far end says

    def _ask(self, payload: bytes) -> None:
        (request,) = struct.unpack("!I", payload[1:5])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_DNS_SECONDS)
            sock.connect((self._resolver, 53))
            sock.send(payload[9:])
            try:
                answer = sock.recv(65535)
            except OSError:
                print("silent about a query that failed", flush=True)
                return
        self.send(struct.pack("!BII", DNS_RESPONSE, request & 0xFFFF, len(answer)) + answer)


def _one(sock: socket.socket, resolver: str, tls: str) -> None:
    with sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = websocket.read_head(sock)
            path = head.split(" ")[1]
            if path != "/tunnel" or "upgrade: websocket" not in head.lower():
                sock.sendall(websocket.http_response("404 Not Found", "this is a worker"))
                return
            if "sec-websocket-protocol" in head.lower():
                print("offered a subprotocol, which is ignored", flush=True)
            sock.sendall(websocket.upgrade_response(head, None))
            print("upgraded", flush=True)
            _Client(sock, resolver, tls).serve()
        except (OSError, EOFError) as error:
            print(f"connection ended: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("resolver")
    parser.add_argument("--tls", choices=["400", "close", "silent"], default="400")
    options = parser.parse_args()
    listener = socket.create_server((options.address, options.port), backlog=512)
    print("original worker listens", flush=True)
    while True:
        sock, _ = listener.accept()
        arguments = (sock, options.resolver, options.tls)
        threading.Thread(target=_one, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
