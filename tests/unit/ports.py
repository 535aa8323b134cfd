"""Ports on loopback, which other tests may use at the same time."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack


def on_one_port(*ends: tuple[int, str]) -> list[socket.socket]:
    """Sockets of a kind and on an IPv4 address each, bound to a port that was free for all."""
    while True:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket(type=kind)) for kind, _ in ends]
            port = 0
            try:
                for sock, (_, host) in zip(sockets, ends, strict=True):
                    sock.bind((host, port))
                    port = sock.getsockname()[1]
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            stack.pop_all()
            return sockets
