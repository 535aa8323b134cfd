"""Sockets in namespaces, and whether they get an answer."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

from tests.netns.lab import Namespace
from zks_lwip.device._netns import run_in_netns

RP_FILTER = "sysctl -qw net.ipv4.conf.up0.rp_filter={}"
PATIENT, BRIEF = 30.0, 0.4
"""Seconds to wait for an answer that has to come, and for one that must not."""


def new_socket(
    net: Namespace, kind: int = socket.SOCK_STREAM, mark: int = 0, timeout: float = PATIENT
) -> socket.socket:
    made = run_in_netns(net.path, socket.socket, socket.AF_INET, kind)
    made.settimeout(timeout)
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
    tcp.listen()
    over, end = socket.socketpair()

    def serve() -> None:
        connections: set[socket.socket] = set()
        while end not in (ready := select.select([tcp, udp, end, *connections], [], [])[0]):
            for one in ready:
                with contextlib.suppress(OSError):  # a peer that is refused, or gone
                    if one is tcp:
                        connections.add(tcp.accept()[0])
                    elif one is udp:
                        udp.sendto(*udp.recvfrom(100))
                    else:
                        connections.discard(one)
                        with one:
                            one.sendall(one.recv(100))
        for one in connections:
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.close()
        thread.join()
        for one in (tcp, udp, end):
            one.close()


def answered(one: socket.socket, host: str, port: int) -> bool:
    """Whether there is an answer before the socket's timeout."""
    try:
        one.connect((host, port))
        one.send(b"ping")
        return one.recv(100) == b"ping"
    except OSError:
        return False


def reaches(
    net: Namespace, host: str, port: int, mark: int = 0, timeout: float = PATIENT
) -> tuple[bool, bool]:
    """Whether TCP and UDP get an answer from there, within ``timeout`` seconds each."""
    answers = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with new_socket(net, kind, mark, timeout) as one:
            answers.append(answered(one, host, port))
    return answers[0], answers[1]


ALL, NONE = (True, True), (False, False)
