"""Ports on loopback, which other tests may use at the same time."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack

SHORTEST_QUEUE = 1 if sys.platform == "darwin" else 0
"""For listen(), so that it takes one connection and no more: on macOS, 0 is as many as may be."""


def own_loopback() -> str:
    """An address whose ports no other process uses, for one that binds them later (Linux)."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"


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
