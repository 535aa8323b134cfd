"""The web server among the internet's servers (``servers.py``)."""

from __future__ import annotations

import functools
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["serve_pages"]


def serve_pages(
    port: int,
    folder: str,
    pattern: Callable[[int], Iterator[bytes]],
    count: Callable[[str], None],
) -> None:
    """Serve static files of ``folder`` (a git repository among them), ``/hello`` and ``/bytes/N``.

    It goes on in a thread of its own.

    :param pattern: makes so many bytes.
    :param count: adds one to a counter.
    """
    handler = functools.partial(_Pages, directory=folder)
    web = _PagesServer(port, handler, pattern, count)
    threading.Thread(target=web.serve_forever, daemon=True).start()


class _PagesServer(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        handler: Callable[..., _Pages],
        pattern: Callable[[int], Iterator[bytes]],
        count: Callable[[str], None],
    ) -> None:
        self.port, self.pattern, self.count = port, pattern, count
        super().__init__(("::", port), handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "far", self.port

    def get_request(self) -> tuple[socket.socket, tuple]:  # type: ignore[type-arg]
        accepted = super().get_request()
        self.count(f"accepted {self.port}")
        return accepted


class _Pages(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _PagesServer

    def do_GET(self) -> None:
        if self.path == "/hello":
            client = str(self.client_address[0]).removeprefix("::ffff:")
            body = f"hello {client}\n".encode()
            self._head(len(body))
            self.wfile.write(body)
        elif self.path.startswith("/bytes/"):
            total = int(self.path.rpartition("/")[2])
            self._head(total)
            for chunk in self.server.pattern(total):
                self.wfile.write(chunk)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
        self._head(len(answer))
        self.wfile.write(answer)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        self.server.count("http requests")
