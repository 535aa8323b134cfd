"""What the applications of a soak do; a process each, in the captured host.

python -m tests.soak.load KIND SECONDS THREADS    repeats it; prints a line of JSON at the end
python -m tests.soak.load hold COUNT              opens connections, prints ``holding``, and sleeps
python -m tests.soak.load many COUNT PORT         opens them, prints ``open``, and, after a line on
                                                  stdin, resets half, and closes the others

and, as far ends: python -m tests.soak.load far, and python -m tests.soak.load idle PORT
"""

from __future__ import annotations

import collections
import json
import random
import resource
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

from tests.kits.netns import client, lab, servers
from tests.kits.netns.floods import Flows

NEVER = 7050  # TCP: reads to EOF and beyond, and never closes
IDLE = 7060  # TCP: as servers.IDLE, in a process each from this port on
DRIP = 7051  # TCP: after EOF, 20 pieces of 1,000 bytes within two seconds, then EOF

Work = Callable[[random.Random], None]


def _far(chosen: random.Random) -> str:
    return chosen.choice((lab.FAR4, lab.FAR6))


def short(chosen: random.Random) -> None:
    """A flow that lives for a moment, and ends in one of the usual ways."""
    payload = chosen.randbytes(chosen.choice((1, 200, 5000, 60_000)))
    with client.connect(_far(chosen), servers.ECHO) as sock:
        sock.sendall(payload)
        if servers.receive_exactly(sock, len(payload)) != payload:
            raise ValueError("other bytes came back")
        if chosen.random() < 0.3:
            client.reset(sock)
        elif chosen.random() < 0.5:
            sock.shutdown(socket.SHUT_WR)
            if sock.recv(1):
                raise ValueError("more came back than was sent")
    if chosen.random() < 0.05:
        if client.connect_error(_far(chosen), servers.CLOSED) != "ECONNREFUSED":
            raise ValueError("a closed port is not refused")


def bulk(chosen: random.Random) -> None:
    """Megabytes both ways at once, with digests."""
    size = chosen.choice((1_000_000, 8_000_000))
    client.duplex(_far(chosen), servers.DUPLEX, size, size)
    time.sleep(0.5)  # (there are other loads that want the processor)


def udp(chosen: random.Random) -> None:
    """A socket, so an association, of its own for some datagrams."""
    far = _far(chosen)
    for _ in range(3):
        payload = chosen.randbytes(chosen.choice((0, 20, 1200, 9000)))
        if client.udp_exchange(far, servers.ECHO, payload) != payload:
            raise ValueError("another datagram came back")
    time.sleep(0.02)


def dns(chosen: random.Random) -> None:
    """Names that there are and names that there are not, over UDP and TCP."""
    name = chosen.choice(("far.zks.test", f"n{chosen.randrange(10**6)}.zks.test"))
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!HHHHHH", chosen.randrange(65536), 0x0100, 1, 0, 0, 1)
    query += labels + b"\0" + struct.pack("!HH", chosen.choice((1, 28)), 1)
    query += struct.pack("!BHHIH", 0, 41, 1232, 0, 0)  # EDNS: an error then says why
    if chosen.random() < 0.2:
        with client.connect("25.9.9.9", 53) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", servers.receive_exactly(sock, 2))
            answer = servers.receive_exactly(sock, size)
    else:
        answer = client.udp_exchange("25.9.9.9", 53, query)
    if answer[:2] != query[:2] or answer[3] & 15 not in (0, 3):
        why = answer[len(query) :].decode("ascii", "replace")
        raise ValueError(f"rcode {answer[3] & 15}: {''.join(filter(str.isprintable, why))}")
    time.sleep(0.01)


def half_closed(chosen: random.Random) -> None:
    """Sends its end first, and goes on to receive for a while; sometimes it gives up half-way."""
    with client.connect(_far(chosen), DRIP) as sock:
        sock.sendall(b"x" * 1000)
        sock.shutdown(socket.SHUT_WR)
        if chosen.random() < 0.2:
            sock.recv(1000)
            return
        count, _ = servers.digest_of(sock)
        if count != 20_000:
            raise ValueError(f"{count} bytes of 20000")


def never(chosen: random.Random) -> None:
    """Closes a connection whose far end never does: the kernel forgets it after a minute."""
    with client.connect(_far(chosen), NEVER) as sock:
        sock.sendall(b"x" * 1000)
    time.sleep(0.5)


def aborted(chosen: random.Random) -> None:
    """The far end resets, or never reads, and the application gives up."""
    if chosen.random() < 0.5:
        with client.connect(_far(chosen), servers.RESET) as sock:
            sock.sendall(b"x")
            try:
                while sock.recv(100):
                    continue
            except ConnectionResetError:
                return
            raise ValueError("a reset came as an end")
    with client.connect(_far(chosen), servers.HANG) as sock:
        sock.settimeout(1)
        try:
            while True:
                sock.sendall(bytes(100_000))
        except TimeoutError:
            client.reset(sock)


KINDS: dict[str, tuple[Work, int]] = {
    "short": (short, 4),
    "bulk": (bulk, 2),
    "udp": (udp, 2),
    "dns": (dns, 2),
    "half-closed": (half_closed, 8),
    "never": (never, 4),
    "aborted": (aborted, 2),
}
"""Each with the number of threads that do it."""


def repeat(work: Work, seconds: float, threads: int) -> dict[str, object]:
    """Do it again and again in threads; how often it was done, and what went wrong how often."""
    until = time.monotonic() + seconds
    done: collections.Counter[str] = collections.Counter()
    wrong: collections.Counter[str] = collections.Counter()

    def run(seed: int) -> None:
        chosen = random.Random(seed)
        while time.monotonic() < until:
            try:
                work(chosen)
                done["done"] += 1
            except (OSError, EOFError, ValueError, AssertionError) as error:
                wrong[f"{type(error).__name__}: {error}"[:120]] += 1
                time.sleep(0.2)

    running = [threading.Thread(target=run, args=(seed,)) for seed in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"done": done["done"], "wrong": dict(wrong)}


def hold(count: int) -> None:
    """Have connections open, quiet ones, until this process is killed."""
    _raise_limit()
    flows = Flows(lab.FAR4, servers.IDLE, count)
    print(f"holding {len(flows.open)} of {count} {dict(flows.failed)}", flush=True)
    threading.Event().wait()


def many(count: int, port: int) -> None:
    """Open connections, reset every other one of them, and close the rest, when that is asked."""
    _raise_limit()
    flows = Flows(lab.FAR4, port, count)
    if len(flows.open) != count:
        raise SystemExit(f"{len(flows.open)} of {count} are open, {dict(flows.failed)}")
    answered = flows.echo()
    if answered != count:
        raise SystemExit(f"{answered} of {count} answer")
    print("open", flush=True)
    sys.stdin.readline()
    for sock in flows.open[::2]:
        client.reset(sock)
    flows.close()


def serve_far() -> None:
    """The far ends that :mod:`tests.kits.netns.servers` does not have, in one thread."""
    _raise_limit()
    with selectors.DefaultSelector() as selector:
        dripping: dict[socket.socket, int] = {}

        def accept(listener: socket.socket, ended: Callable[[socket.socket], None]) -> None:
            sock, _ = listener.accept()
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, lambda: read(sock, ended))

        def read(sock: socket.socket, ended: Callable[[socket.socket], None]) -> None:
            try:
                if sock.recv(65536):
                    return
            except BlockingIOError:
                return
            except OSError:  # reset: it has gone after all
                selector.unregister(sock)
                sock.close()
                return
            selector.unregister(sock)
            ended(sock)

        def drip() -> None:
            for sock, left in list(dripping.items()):
                try:
                    sock.send(b"y" * 1000)
                except OSError:
                    left = 1
                dripping[sock] = left - 1
                if left == 1:
                    del dripping[sock]
                    sock.close()

        kept: list[socket.socket] = []
        for port, ended in ((NEVER, kept.append), (DRIP, lambda sock: dripping.update({sock: 20}))):
            listener = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
            )
            listener.setblocking(False)
            selector.register(
                listener,
                selectors.EVENT_READ,
                lambda listener=listener, ended=ended: accept(listener, ended),
            )
        print("far ends are ready", flush=True)
        next_drip = time.monotonic()
        while True:
            for key, _ in selector.select(0.1):
                key.data()
            if time.monotonic() >= next_drip:
                next_drip = time.monotonic() + 0.1
                drip()


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(what: str, *arguments: str) -> None:
    if what == "far":
        serve_far()
    elif what == "hold":
        hold(int(arguments[0]))
    elif what == "many":
        many(int(arguments[0]), int(arguments[1]))
    elif what == "idle":
        _raise_limit()
        servers.serve_idle(int(arguments[0]))
        print("idle far end is ready", flush=True)
        threading.Event().wait()
    else:
        work, _ = KINDS[what]
        print(json.dumps(repeat(work, float(arguments[0]), int(arguments[1]))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
