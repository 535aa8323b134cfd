"""The internet of the tests: small servers, one thread per connection, standard library only.

    python -m tests.kits.netns.servers            every server, on every address of the namespace

Prints ``servers are ready`` once all of them listen. The ports are the constants below.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import random
import resource
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator

from tests.kits.plain_websocket import receive_exactly

ECHO = 7007  # TCP: back what comes, EOF for EOF; UDP: back what comes
SINK = 7009  # TCP: after EOF, "count sha256\n" of what came
SOURCE = 7019  # TCP: takes a u64, sends so many bytes and EOF, then behaves as SINK
DUPLEX = 7020  # TCP: takes two u64 (up, down), both ways at once, then the digest of what came
RESET = 7021  # TCP: takes one byte, answers one byte, then RST
HANG = 7022  # TCP: accepts, never reads, never answers
WHO = 7023  # TCP and UDP: the peer's address as it is seen here, a line
CLOSED = 7024  # nothing listens
COUNTERS = 7025  # TCP: JSON of the counters
FULL_CONE = 7026  # UDP: answers from another port (FULL_CONE + 1), and from its own
IDLE = 7028  # TCP: as ECHO, without a thread for each connection: for thousands of them
HTTP = 8080

CHUNK = 65536
_SEED = random.Random(20).randbytes(CHUNK)

counters: collections.Counter[str] = collections.Counter()
_counting = threading.Lock()


def count(name: str, number: int = 1) -> None:
    """Add to a counter. (Of two threads that did so by themselves, one could undo the other's.)"""
    with _counting:
        counters[name] += number


def pattern(total: int) -> Iterator[bytes]:
    """``total`` bytes, in chunks that all differ: loss, doubling and disorder show in a digest."""
    index = 0
    while total > 0:
        chunk = (index.to_bytes(8, "big") + _SEED[8:])[: min(CHUNK, total)]
        yield chunk
        total -= len(chunk)
        index += 1


def pattern_digest(total: int) -> str:
    """SHA-256 of ``pattern(total)``."""
    digest = hashlib.sha256()
    for chunk in pattern(total):
        digest.update(chunk)
    return digest.hexdigest()


def digest_of(sock: socket.socket, size: int | None = None) -> tuple[int, str]:
    """Read ``size`` bytes, or to the end: how many came, and their SHA-256."""
    digest, count = hashlib.sha256(), 0
    buffer = memoryview(bytearray(1 << 18))
    while size is None or count < size:
        n = sock.recv_into(buffer if size is None else buffer[: size - count])
        if n == 0:
            break
        digest.update(buffer[:n])
        count += n
    return count, digest.hexdigest()


def _echo(sock: socket.socket) -> None:
    while data := sock.recv(CHUNK):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def _sink(sock: socket.socket) -> None:
    count, digest = digest_of(sock)
    sock.sendall(f"{count} {digest}\n".encode())


def _send_pattern(sock: socket.socket, total: int) -> None:
    for chunk in pattern(total):
        sock.sendall(chunk)
        count("source bytes", len(chunk))


def _source(sock: socket.socket) -> None:
    (total,) = struct.unpack("!Q", receive_exactly(sock, 8))
    _send_pattern(sock, total)
    sock.shutdown(socket.SHUT_WR)
    heard, digest = digest_of(sock)
    count(f"source heard {heard} {digest}")


def _duplex(sock: socket.socket) -> None:
    up, down = struct.unpack("!QQ", receive_exactly(sock, 16))
    sender = threading.Thread(target=_send_pattern, args=(sock, down), daemon=True)
    sender.start()
    _, digest = digest_of(sock, up)
    sender.join()
    sock.sendall(digest.encode())


def _reset(sock: socket.socket) -> None:
    sock.sendall(receive_exactly(sock, 1))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _hang(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hung = select.poll()
    hung.register(sock, select.POLLERR)
    hung.poll()
    count("hang reset")


def _who(sock: socket.socket) -> None:
    sock.sendall(f"{_plain(sock.getpeername())}\n".encode())


def _counters(sock: socket.socket) -> None:
    with _counting:
        told = json.dumps(counters)
    sock.sendall(told.encode() + b"\n")


def _plain(address: tuple) -> str:  # type: ignore[type-arg]
    host = str(address[0])
    return host.removeprefix("::ffff:")


def _serve(port: int, handler: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
    )

    def one(sock: socket.socket) -> None:
        with sock:
            try:
                handler(sock)
                count(f"done {port}")
            except ConnectionResetError:
                count(f"reset {port}")
            except OSError as error:
                count(f"error {port} {error.strerror}")
            except EOFError:
                count(f"short {port}")

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            count(f"accepted {port}")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve_idle(port: int = IDLE) -> None:
    """Echoes on thousands of connections that are idle for most of the time."""
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=32768
    )
    listener.setblocking(False)

    def loop() -> None:
        sockets: dict[int, socket.socket] = {listener.fileno(): listener}
        ready = select.epoll()
        ready.register(listener.fileno(), select.EPOLLIN)
        while True:
            for number, _ in ready.poll():
                sock = sockets[number]
                if sock is listener:
                    with contextlib.suppress(BlockingIOError, ConnectionError):
                        sock = listener.accept()[0]
                        sockets[sock.fileno()] = sock
                        ready.register(sock.fileno(), select.EPOLLIN)
                    continue
                try:
                    data = sock.recv(1000)
                    if sock.send(data) == 0:
                        raise EOFError
                except (OSError, EOFError):
                    del sockets[number]
                    sock.close()

    threading.Thread(target=loop, daemon=True).start()


def _serve_udp(port: int, answer: Callable[[bytes, tuple], bytes]) -> None:  # type: ignore[type-arg]
    sock = _udp_socket(port)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def loop() -> None:
        while True:
            data, notes, _, address = sock.recvmsg(65536, 64)
            count(f"datagrams {port}")
            # From the very address that was asked, of which this machine has several.
            asked = [
                (level, kind, value[:16] + bytes(4))
                for level, kind, value in notes
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
            ]
            sock.sendmsg([answer(data, address)], asked, 0, address)

    threading.Thread(target=loop, daemon=True).start()


def _udp_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("::", port))
    return sock


def _serve_full_cone() -> None:
    first, second = _udp_socket(FULL_CONE), _udp_socket(FULL_CONE + 1)

    def loop() -> None:
        while True:
            data, address = first.recvfrom(65536)
            second.sendto(data, address)

    threading.Thread(target=loop, daemon=True).start()


def start(pages: str = ".") -> None:
    """Start every server; returns at once, they live in daemon threads."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for port, handler in {
        ECHO: _echo,
        SINK: _sink,
        SOURCE: _source,
        DUPLEX: _duplex,
        RESET: _reset,
        HANG: _hang,
        WHO: _who,
        COUNTERS: _counters,
    }.items():
        _serve(port, handler)
    serve_idle()
    _serve_udp(ECHO, lambda data, _: data)
    _serve_udp(WHO, lambda _, address: f"{_plain(address)} {address[1]}\n".encode())
    _serve_full_cone()

    from tests.kits.netns.pages import serve_pages  # (most that import this module need none)

    serve_pages(HTTP, pages, pattern, count)


if __name__ == "__main__":
    start(sys.argv[1] if len(sys.argv) > 1 else ".")
    print("servers are ready", flush=True)
    threading.Event().wait()
