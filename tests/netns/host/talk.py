"""Sockets in namespaces, and whether they get an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.netns.lab import Namespace
from zks_lwip.device._netns import run_in_netns

RP_FILTER = "sysctl -qw net.ipv4.conf.up0.rp_filter={}"


def new_socket(net: Namespace, kind: int = socket.SOCK_STREAM, mark: int = 0) -> socket.socket:
    made = run_in_netns(net.path, socket.socket, socket.AF_INET, kind)
    made.settimeout(0.4)
    if mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    return made


@contextlib.contextmanager
def echo(net: Namespace, host: str, port: int) -> Iterator[None]:
    """A TCP and a UDP service that send back the first packet."""
    tcp, udp = new_socket(net), new_socket(net, socket.SOCK_DGRAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for one in (tcp, udp):
        one.bind((host, port))
        one.settimeout(0.02)
    tcp.listen()
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = tcp.accept()
                with connection:
                    connection.settimeout(0.4)
                    connection.sendall(connection.recv(100))
            with contextlib.suppress(OSError):
                udp.sendto(*udp.recvfrom(100))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tcp.close()
        udp.close()


def reaches(net: Namespace, host: str, port: int, mark: int = 0) -> tuple[bool, bool]:
    """Whether TCP and UDP get an answer from there."""
    answers = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with new_socket(net, kind, mark) as one:
            try:
                one.connect((host, port))
                one.send(b"ping")
                answers.append(one.recv(100) == b"ping")
            except OSError:
                answers.append(False)
    return answers[0], answers[1]


ALL, NONE = (True, True), (False, False)
