"""Bulk over many connections, and what each of them carried by which time.

python -m tests.kits.netns.load serve PORT
python -m tests.kits.netns.load up|down HOST PORT STREAMS SECONDS [SNDBUF]

The first is the far end: it reads, or writes, as fast as it can; prints ``load is served``. The
other prints ``open`` when all of its streams are, begins when it is given a line, and at the end
prints JSON: a list of ``[time, [bytes of each stream]]``, the time by ``time.monotonic``, which is
one for all processes. What is sent counts when the kernel has taken it: of each stream it has room
for SNDBUF bytes (``SO_SNDBUF``), or for as many as it likes.

One thread and few system calls for each of them, so that it is not the load that limits. Linux
only: what is received is dropped in the kernel (``MSG_TRUNC``, tcp(7)).
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.kits.netns.child import Child
from tests.kits.netns.floods import raise_descriptors

PORT = 7040
"""Where the far end listens, unless a test needs another."""
SAMPLE = 0.1
"""Seconds between two looks at the counters."""
_CHUNK = memoryview(bytearray(256 * 1024))


def _send(sock: socket.socket) -> int:
    return sock.send(_CHUNK)


def _receive(sock: socket.socket) -> int:
    return sock.recv_into(_CHUNK, 0, socket.MSG_TRUNC)


def serve(port: int) -> None:
    """Serve each connection for good: its first byte says what its client does."""
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    listener.setblocking(False)
    print("load is served", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                sock, move = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                if sock is listener:
                    accepted, _ = listener.accept()
                    accepted.setblocking(False)
                    selector.register(accepted, selectors.EVENT_READ)
                    continue
                try:
                    if move is not None:
                        moved = move(sock)
                    elif moved := len(what := sock.recv(1)):
                        move, event = _send, selectors.EVENT_WRITE
                        if what == b"u":
                            move, event = _receive, selectors.EVENT_READ
                        selector.modify(sock, event, move)
                except BlockingIOError:
                    continue
                except OSError:
                    moved = 0
                if not moved:
                    selector.unregister(sock)
                    sock.close()


def load(
    way: str, host: str, port: int, streams: int, seconds: float, room: int | None = None
) -> None:
    move, event = (_send, selectors.EVENT_WRITE)
    if way == "down":
        move, event = (_receive, selectors.EVENT_READ)
    carried = [0] * streams
    samples: list[tuple[float, list[int]]] = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        opened = [
            stack.enter_context(socket.create_connection((host, port), 90)) for _ in range(streams)
        ]
        if room is not None:
            for sock in opened:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        print("open", flush=True)
        sys.stdin.readline()
        for number, sock in enumerate(opened):
            sock.sendall(way[:1].encode())
            sock.setblocking(False)
            selector.register(sock, event, number)
        now = time.monotonic()
        due, end = now, now + seconds
        while now < end:
            for key, _ in selector.select(SAMPLE):
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(BlockingIOError):
                    moved = move(key.fileobj)
                    assert moved, "the far end has closed"
                    carried[key.data] += moved
            now = time.monotonic()
            if now >= due:
                samples.append((now, list(carried)))
                due = now + SAMPLE
    print(json.dumps(samples))


@dataclass(frozen=True)
class Carried:
    """What the streams of one client carried in a time that was the same for all clients."""

    seconds: float
    streams: list[int]
    """Bytes of each."""

    @property
    def rate(self) -> float:
        """Bytes a second of all of them."""
        return sum(self.streams) / self.seconds


def start(clients: Sequence[Child]) -> None:
    """Have clients begin at once, when all of them have opened their streams."""
    for client in clients:
        client.wait_for("^open$")
    for client in clients:
        assert client.process.stdin is not None
        with client.process.stdin as line:
            line.write(b"\n")


def carried(clients: Sequence[Child], warm_up: float) -> list[Carried]:
    """Wait for clients that were started together; return what each has carried, in their order.

    :param warm_up: seconds at the beginning that do not count.
    """
    told = [json.loads(client.succeed().splitlines()[-1]) for client in clients]
    begin = max(samples[0][0] for samples in told) + warm_up
    end = min(samples[-1][0] for samples in told)
    assert begin < end, "they were not at work at the same time"
    found = []
    for samples in told:
        (since, first), *_ = [each for each in samples if each[0] >= begin]
        *_, (until, last) = [each for each in samples if each[0] <= end]
        assert since < until, "a client has had no processor for long"
        streams = [after - before for before, after in zip(first, last, strict=True)]
        found.append(Carried(until - since, streams))
    return found


def main(argv: list[str]) -> None:
    raise_descriptors(4096)
    what, *rest = argv
    if what == "serve":
        serve(int(rest[0]))
    else:
        host, port, streams, seconds, *room = rest
        load(what, host, int(port), int(streams), float(seconds), *map(int, room))


if __name__ == "__main__":
    main(sys.argv[1:])
