"""What the session costs, alone: ``python -m tests.bench.session``.

Two sessions in one process hand each other messages; no socket, no WebSocket, no masking. MB/s and
frames/s are for both ends together, so a real end does better.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from zks_lwip.protocol import (
    DatagramReceived,
    DataReceived,
    Role,
    Session,
    Settings,
    StreamOpened,
    encode_udp,
    parse,
)

PIECE = memoryview(bytes(1 << 18))
SECONDS = 0.5  # of each measurement
RESUME = 60


class Endless:
    """A source that always has ``piece`` bytes."""

    def __init__(self, piece: int) -> None:
        self._piece = PIECE[:piece]
        self._fill = False

    def pull_into(self, view: memoryview) -> int | None:
        size = min(len(view), len(self._piece))
        view[:size] = self._piece[:size]
        return size


class Once(Endless):
    """A source that has ``piece`` bytes each time it is marked ready."""

    def pull_into(self, view: memoryview) -> int | None:
        self._fill = not self._fill
        return super().pull_into(view) if self._fill else 0


def pair(window: int = 1 << 20) -> tuple[Session, Session]:
    worker = Settings(udp=True, dns=True, streams=100_000, window=window, resume=RESUME)
    client = Settings(window=window, resume=RESUME)
    ends = Session(Role.CLIENT, client), Session(Role.WORKER, worker)
    for end in ends:
        end.attach()
    exchange(*ends)
    return ends


def exchange(client: Session, worker: Session, limit: int = 262144) -> int:
    """Carry what there is both ways, once; the bytes of DATA that came."""
    came = 0
    for sender, taker in ((client, worker), (worker, client)):
        message = sender.next_message(limit)
        if message is None:
            continue
        for event in taker.receive(message):
            if isinstance(event, DataReceived):
                size = len(event.payload)
                taker.consumed(event.stream, size)
                came += size
            elif isinstance(event, StreamOpened):
                taker.accept(event.stream, Endless(1))
                taker.connected(event.stream)
    return came


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Run ``work`` for a while; seconds for each unit that it says it did, and the units."""
    work()
    units = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        units += work()
    return elapsed / units, units


def bulk(streams: int, piece: int, limit: int) -> str:
    client, worker = pair()
    for _ in range(streams):
        stream = client.connect("192.0.2.1", 80, Endless(piece))
        client.mark_ready(stream)
    exchange(client, worker)
    each, _ = timed(lambda: exchange(client, worker, limit))
    frames = client.stats.messages_out
    per_message = client.stats.data_out / frames * each * 1e6
    return f"{1e-6 / each:9,.0f} MB/s {per_message:8.1f} µs a message both ends, both ways"


def copying() -> str:
    """The floor: one copy of a piece into a fresh buffer, as a source does."""
    size = 1 << 18

    def work() -> int:
        buffer = bytearray(size)
        with memoryview(buffer) as view:
            view[:] = PIECE
        return size

    each, _ = timed(work)
    return f"{1e-6 / each:9,.0f} MB/s"


def small(streams: int) -> str:
    client, worker = pair()
    opened = [client.connect("192.0.2.1", 80, Once(100)) for _ in range(streams)]
    while exchange(client, worker) or client.has_output or worker.has_output:
        pass

    def work() -> int:
        for stream in opened:
            client.mark_ready(stream)
        while client.has_output or worker.has_output:
            exchange(client, worker)
        return streams

    each, _ = timed(work)
    return f"{1 / each:9,.0f} frames/s {each * 1e6:6.2f} µs each, both ends"


def datagrams() -> str:
    client, worker = pair()
    payload = bytes(1200)
    batch = 64

    def work() -> int:
        for _ in range(batch):
            client.send_udp(7, "192.0.2.1", 443, payload)
        message = client.next_message()
        assert message is not None
        assert sum(type(event) is DatagramReceived for event in worker.receive(message)) == batch
        return batch

    each, _ = timed(work)
    return f"{1 / each:9,.0f} frames/s {each * 1e6:6.2f} µs each, both ends"


def connections() -> str:
    client, worker = pair()

    def work() -> int:
        opened = [client.connect("host.example", 80, Endless(1)) for _ in range(32)]
        for _ in range(2):
            exchange(client, worker)
        for stream in opened:
            client.close(stream)
        exchange(client, worker)
        return 32

    each, _ = timed(work)
    return f"{1 / each:9,.0f} streams/s {each * 1e6:6.2f} µs each, both ends"


def codec() -> str:
    message = b"".join(encode_udp(7, "192.0.2.1", 443, bytes(1200)) for _ in range(100))

    def work() -> int:
        return len(parse(message))

    each, _ = timed(work)
    return f"{1 / each:9,.0f} frames/s {each * 1e6:6.2f} µs each, read"


def main(argv: list[str]) -> int:
    global SECONDS, RESUME
    parser = argparse.ArgumentParser("python -m tests.bench session", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement (0.5)")
    parser.add_argument("--resume", type=int, default=RESUME, help="seconds; 0: never (60)")
    arguments = parser.parse_args(argv)
    SECONDS, RESUME = arguments.seconds, arguments.resume
    print(f"{'one copy into a fresh buffer, 256 KiB':44}{copying()}")
    for streams, piece, limit in ((1, 262144, 262144), (1, 65536, 65536), (50, 65536, 262144)):
        name = f"bulk, {streams} streams, pieces of {piece >> 10} KiB"
        print(f"{name:44}{bulk(streams, piece, limit)}")
    for streams in (1, 100):
        print(f"{f'DATA of 100 bytes, {streams} streams':44}{small(streams)}")
    print(f"{'UDP of 1200 bytes, batches of 64':44}{datagrams()}")
    print(f"{'UDP of 1200 bytes':44}{codec()}")
    print(f"{'CONNECT, CONNECTED, CLOSE':44}{connections()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
