"""A client by hand, over plain sockets: for floods, and for what no client of ours would send."""

from __future__ import annotations

import socket

from tests.kits import plain_websocket as websocket
from zks_lwip.protocol import Hello


class HostileClient:
    """A client that has said HELLO, or one of v1.

    :param resume: seconds for which it may come back; it never acknowledges anything.
    """

    def __init__(self, port: int, *, v1: bool = False, resume: int = 0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(websocket.upgrade_request(None if v1 else websocket.V2))
        assert websocket.read_head(self.sock).startswith("HTTP/1.1 101")
        if not v1:
            self.send(Hello(window=1 << 20, resume=resume).encode())
            assert self.receive()[0] == 0x40

    def send(self, payload: bytes) -> None:
        """Send a message."""
        self.sock.sendall(websocket.client_message(payload))

    def receive(self) -> bytes:
        """Receive a message, whole.

        :raises ConnectionResetError: at a Close frame, or where the worker hangs up.
        """
        try:
            opcode, payload = websocket.read_frame(self.sock)
        except EOFError:
            raise ConnectionResetError("the worker closed the connection") from None
        if opcode == websocket.CLOSE:
            raise ConnectionResetError(str(websocket.close_reason(payload)))
        return payload
