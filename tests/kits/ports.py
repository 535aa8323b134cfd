"""Ports on loopback, which other tests may use at the same time."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

SHORTEST_QUEUE = 1 if sys.platform == "darwin" else 0
"""For listen(), so that it takes one connection and no more: on macOS, 0 is as many as may be."""


def own_loopback() -> str:
    """An address whose ports no other process uses, for one that binds them later (Linux)."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"


@contextmanager
def kept_port(port: int = 0) -> Iterator[int]:
    """A TCP port of 127.0.0.1 for a socket that listens later, or again and again.

    No other test gets it meanwhile, for listening or as the port of a client; what listens has
    SO_REUSEADDR, as ours have. Where no socket listens, connections are refused. (On Linux. On
    other systems no second socket could listen at it: there it is only free at the beginning.)

    :param port: one at which no socket listens yet; 0 is any that is free.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", port))
        port = keeper.getsockname()[1]
        if sys.platform != "linux":
            keeper.close()
        yield port


@contextmanager
def refused_port() -> Iterator[int]:
    """A TCP port of 127.0.0.1 that is taken, but where no socket listens, while it is held.

    One that is only free now may be that of another test's socket a moment later.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def refused_udp_port() -> Iterator[int]:
    """A port of 127.0.0.1 and of ::1 where no datagram meets a socket, for as long as it is held.

    A port that is only free for TCP, or only now, may be that of another test's socket. This one
    is taken, by sockets that are connected to themselves and so hear from no other.
    """
    while True:
        with ExitStack() as stack:
            four = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            six = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            four.bind(("127.0.0.1", 0))
            port: int = four.getsockname()[1]
            try:
                six.bind(("::1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            four.connect(four.getsockname())
            six.connect(six.getsockname())
            yield port
            return


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
