"""Sockets in namespaces, and whether they get an answer."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
from collections.abc import Iterator

from tests.kits.netns.lab import Namespace
from zks_lwip.net.netns import run_in_netns

RP_FILTER = "sysctl -qw net.ipv4.conf.up0.rp_filter={}"
PATIENT, BRIEF = 60.0, 0.4
"""Seconds to wait for an answer that has to come, and for one that must not."""

ALL, NONE = (True, True), (False, False)
"""What :func:`reaches` returns for both TCP and UDP, and for neither."""
MANY = 5
"""Datagrams that are sent where one has to arrive, or none."""
_callers = itertools.count(20000)
"""Ports: below those that the kernel gives away (``ip_local_port_range``)."""


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


def caller(
    net: Namespace,
    kind: int = socket.SOCK_STREAM,
    mark: int = 0,
    timeout: float = PATIENT,
    host: str = "",
) -> socket.socket:
    """A socket with a port, of ``host``'s, that no caller of this process has had before.

    The kernel tracks a connection for longer than its sockets are there, half a minute and more of
    UDP. One from the same port would be led where that one was, and be judged as that one.
    """
    made = new_socket(net, kind, mark, timeout)
    made.bind((host, next(_callers)))
    return made


def answered(one: socket.socket, host: str, port: int) -> bool:
    """Whether there is an answer before the socket's timeout; else it prints what came instead."""
    try:
        one.connect((host, port))
        one.send(b"ping")
        return one.recv(100) == b"ping"
    except OSError as error:
        print(f"no answer from {host} port {port}: {error!r}")
        return False


def reaches(
    net: Namespace, host: str, port: int, mark: int = 0, timeout: float = PATIENT
) -> tuple[bool, bool]:
    """Whether TCP and UDP get an answer from there, within ``timeout`` seconds each."""
    answers = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with caller(net, kind, mark, timeout) as one:
            answers.append(answered(one, host, port))
    return answers[0], answers[1]


def datagram_socket(net: Namespace, family: int = socket.AF_INET, **bound: int) -> socket.socket:
    """A UDP socket of the namespace; bound to a ``port`` and to an interface, by ``index``."""
    with net.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
        if index := bound.get("index"):
            name = socket.if_indextoname(index)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.settimeout(PATIENT)
    made.bind(("", bound.get("port", 0)))
    return made


def index_of(net: Namespace, name: str) -> int:
    with net.entered():
        return socket.if_nametoindex(name)


def send(one: socket.socket, *address: object) -> None:
    """Send a few; what is refused at once is refused, too."""
    for _ in range(MANY):
        with contextlib.suppress(OSError):
            one.sendto(b"ping", address)


def arrives(one: socket.socket, other: socket.socket, *address: object) -> bool:
    """Whether a datagram that ``one`` sends comes to ``other``."""
    other.settimeout(0)
    with contextlib.suppress(OSError):
        while other.recv(100):
            pass  # of before
    other.settimeout(PATIENT)
    send(one, *address)
    try:
        return other.recv(100) == b"ping"
    except TimeoutError:
        return False


@contextlib.contextmanager
def forged(net: Namespace) -> Iterator[socket.socket]:
    with net.entered():
        one = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with one:
        yield one


def datagram6(source: str, destination: str, sport: int, dport: int) -> bytes:
    """A UDP datagram with its IPv6 header."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, host) for host in (source, destination))
    length = 12
    udp = struct.pack("!HHHH4s", sport, dport, length, 0, b"ping")
    words = struct.unpack("!26H", ends + struct.pack("!II", length, socket.IPPROTO_UDP) + udp)
    total = sum(words)
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF) + udp[8:]
    return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + ends + udp
