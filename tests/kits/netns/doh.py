"""The name server of :mod:`.names` by RFC 8484, over HTTP: ``python -m tests.kits.netns.doh``.

Takes an address and a port; prints ``doh is ready``.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.kits.netns.names import answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = answer(self.rfile.read(int(self.headers["Content-Length"])), udp=False)
        self.send_response(200)
        self.send_header("Content-Type", "application/dns-message")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: ``answer`` prints each question."""


if __name__ == "__main__":
    server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), _Handler)
    print("doh is ready", flush=True)
    server.serve_forever()
