"""What the applications of the tests do, as functions and as commands.

python -m tests.kits.netns.client ACTION ARGS...

Ends with 0, or shows the error and ends with 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.kits.netns import servers
from tests.kits.netns.child import until
from tests.kits.netns.floods import descriptors

TIMEOUT = 90.0


def connect(host: str, port: int, timeout: float = TIMEOUT) -> socket.socket:
    """A connected TCP socket; ``timeout`` holds for each later operation, too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def connect_error(
    host: str, port: int, timeout: float = TIMEOUT, syn_retries: int | None = None
) -> str:
    """The name of the error that a blocking ``connect()`` ends with, or ``"connected"``.

    The socket has no timeout of its own: what ends the wait is the kernel's TCP, which sends the
    SYN again ``syn_retries`` times (TCP_SYNCNT) if that is given.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    result: list[str] = []

    def attempt() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            if syn_retries is not None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, syn_retries)
            number = sock.connect_ex((host, port))
            result.append(errno.errorcode[number] if number else "connected")

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout)
    return result[0] if result else f"nothing within {timeout} s"


def duplex(host: str, port: int, up: int, down: int) -> None:
    """Send ``up`` and receive ``down`` bytes at once; both ends' SHA-256 must agree."""
    with connect(host, port) as sock:
        _duplex_over(sock, up, down)


def _duplex_over(sock: socket.socket, up: int, down: int) -> None:
    sock.sendall(struct.pack("!QQ", up, down))
    failure: list[BaseException] = []

    def send() -> None:
        try:
            for chunk in servers.pattern(up):
                sock.sendall(chunk)
        except BaseException as error:
            failure.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    count, digest = servers.digest_of(sock, down)
    sender.join(TIMEOUT)
    assert not sender.is_alive(), "sending hangs"
    if failure:
        raise failure[0]
    assert count == down, "what was received is not as long as what was sent"
    assert digest == servers.pattern_digest(down), "received data differs"
    theirs = servers.receive_exactly(sock, 64).decode()
    assert theirs == servers.pattern_digest(up), "sent data arrived otherwise"
    assert sock.recv(1) == b"", "data after the end"


def duplex_many(host: str, port: int, flows: int, total: int) -> None:
    """``total`` bytes each way at once, over ``flows`` connections that are open together."""
    share = total // flows
    _together([lambda: duplex(host, port, share, share)] * flows)


def duplex_opened(host: str, port: int, flows: int, total: int) -> None:
    """As ``duplex_many``; all connections are open before the first byte is sent."""
    share = total // flows
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(host, port)) for _ in range(flows)]
        _together([partial(_duplex_over, sock, share, share) for sock in opened])


def _together(transfers: Sequence[Callable[[], None]]) -> None:
    """Each in a thread of its own; the first failure, if there is one."""
    failures: list[BaseException] = []

    def run(transfer: Callable[[], None]) -> None:
        try:
            transfer()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[each], daemon=True) for each in transfers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
        assert not thread.is_alive(), "a transfer hangs"
    if failures:
        raise failures[0]


def open_at_once(host: str, port: int, count: int) -> None:
    """So many connections, begun at once and open together, each with an echo of its own (IDLE)."""
    began = time.monotonic()
    number_of: dict[socket.socket, bytes] = {}
    with (
        descriptors(count + 100),
        contextlib.ExitStack() as stack,
        selectors.DefaultSelector() as selector,
    ):
        for number in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            assert sock.connect_ex((host, port)) == errno.EINPROGRESS
            number_of[sock] = number.to_bytes(4, "big")
            selector.register(sock, selectors.EVENT_WRITE)
        answered = 0
        while answered < count:
            assert time.monotonic() < began + 120, f"{answered} of {count} have been answered"
            for key, events in selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if events & selectors.EVENT_WRITE:
                    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    assert error == 0, f"{answered} are open, but one: {errno.errorcode[error]}"
                    sock.sendall(number_of[sock])
                    selector.modify(sock, selectors.EVENT_READ)
                else:
                    assert sock.recv(100) == number_of[sock]
                    answered += 1
                    selector.unregister(sock)
        print(f"{count} were answered within {time.monotonic() - began:.2f} s")
        for sock in number_of:
            reset(sock)


def reset(sock: socket.socket) -> None:
    """Close by RST. (After a FIN the far end may go on for as long as it likes.)"""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def download(host: str, port: int, total: int) -> None:
    """Receive ``total`` bytes of a SOURCE server and its EOF; digest checked."""
    with connect(host, port) as sock:
        sock.sendall(struct.pack("!Q", total))
        assert servers.digest_of(sock) == (total, servers.pattern_digest(total))


def who(host: str, port: int = servers.WHO) -> str:
    """The address that the server sees us come from."""
    with connect(host, port) as sock, sock.makefile() as lines:
        return lines.readline().strip()


def counters(host: str) -> dict[str, int]:
    with connect(host, servers.COUNTERS) as sock, sock.makefile() as lines:
        return dict(json.loads(lines.readline()))


def callers(host: str, port: int = servers.WHO) -> int:
    """How many connections the server has accepted; one that this makes is the last of them.

    They are accepted in the order in which they came, so whatever came before is counted.
    """
    with connect(host, port) as sock:
        if port == servers.HTTP:
            sock.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
        assert sock.recv(1), "it was accepted, and closed"
    return counters(host)[f"accepted {port}"]


def udp_exchange(host: str, port: int, payload: bytes, tries: int = 20) -> bytes:
    """Send a datagram, return the answer; UDP may lose, so a lost one is sent again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3 if tries > 1 else TIMEOUT)
        sock.connect((host, port))
        for attempt in range(tries):
            sock.send(payload)
            try:
                return sock.recv(65536)
            except TimeoutError:
                if attempt == tries - 1:
                    raise
    raise AssertionError("unreachable")


def client_closes_first(host: str, total: int) -> None:
    """Send, shut down our side, and only then get the answer (SINK)."""
    with connect(host, servers.SINK) as sock:
        for chunk in servers.pattern(total):
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile() as lines:
            assert lines.readline().split() == [str(total), servers.pattern_digest(total)]
            assert lines.readline() == ""


def server_closes_first(host: str, total: int) -> None:
    """Get all and the server's EOF, and only then send (SOURCE); all of it must be heard."""
    expected = f"source heard {total + 1} {servers.pattern_digest(total + 1)}"
    before = counters(host).get(expected, 0)  # of those who did the same
    with connect(host, servers.SOURCE) as sock:
        sock.sendall(struct.pack("!Q", total))
        assert servers.digest_of(sock) == (total, servers.pattern_digest(total))
        for chunk in servers.pattern(total + 1):
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)
        until(
            lambda: counters(host).get(expected, 0) > before,
            message=lambda: f"not noted there: {expected}",
        )


def main(argv: list[str]) -> None:
    action, *rest = argv
    if action == "duplex":
        duplex_many(rest[0], servers.DUPLEX, int(rest[1]), int(rest[2]))
    elif action == "duplex-opened":
        duplex_opened(rest[0], servers.DUPLEX, int(rest[1]), int(rest[2]))
    elif action == "open-at-once":
        open_at_once(rest[0], servers.IDLE, int(rest[1]))
    elif action == "hold":
        with connect(rest[0], servers.IDLE) as sock:
            if "reset" in rest[1:]:  # when it ends, also killed: nothing is sent after that
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            print("open", flush=True)
            sock.settimeout(None)
            sock.recv(1)
    elif action == "who":
        print(who(rest[0]))
    elif action == "errors":
        for target in rest:
            host, port, retries = target.split("|")
            print(connect_error(host, int(port), syn_retries=int(retries)))
    elif action == "half-close":
        client_closes_first(rest[0], int(rest[1]))
        server_closes_first(rest[0], int(rest[1]))
    elif action == "udp":
        payload = bytes(int(rest[1]))
        assert udp_exchange(rest[0], servers.ECHO, payload) == payload
    elif action == "resolve":
        found = socket.getaddrinfo(rest[0], 80, type=socket.SOCK_STREAM)
        print(" ".join(sorted({str(item[4][0]) for item in found})))
    else:
        raise SystemExit(f"unknown action {action}")


if __name__ == "__main__":
    main(sys.argv[1:])
