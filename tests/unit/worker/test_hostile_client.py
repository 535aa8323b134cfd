"""A client that floods a worker, and reads nothing: it is bounded, and harms no other client.

The worker is a process of its own, so that its memory and its answers to others can be measured;
the clients are plain sockets and hand-made bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.hostile_client import HostileClient
from tests.kits.plain_websocket import client_message
from tests.kits.short import SHORT
from zks_lwip.protocol import (
    Close,
    Connect,
    Data,
    DnsQuery,
    Echo,
    Ping,
    Pong,
    Udp,
    Unknown,
    Window,
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc"
)

#: of a flood
SECONDS = 0.3 if SHORT else 1.0
MOST_GROWTH = (48 if "ZKS_LWIP_SANITIZE" in os.environ else 32) << 20
#: seconds of the processor for others' frames between a keystroke and its echo
MOST_BUSY = 0.5 * (4 if "ZKS_LWIP_SANITIZE" in os.environ else 1)
#: the same where no frame asks for anything: what is left is the slices of the parser
MOST_BUSY_WITH_FRAMES = MOST_BUSY / 2


@pytest.fixture(scope="module")
def far() -> Iterator[int]:
    """An echo server on loopback; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def process_and_port() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "zks_lwip", "worker", "--listen", "127.0.0.1:0"]
    command += ["--allow", "127.0.0.0/8", "--resolver", "127.0.0.1:9"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said and "127.0.0.1" not in said.replace("from 127.0.0.1", "")


@pytest.fixture
def worker(
    process_and_port: tuple[subprocess.Popen[str], int], far: int
) -> tuple[subprocess.Popen[str], int]:
    """It, when it takes new connections, of which another test may have asked for too many."""
    _, port = process_and_port
    deadline = time.monotonic() + 30
    taken = 0
    while taken < 3:
        client = HostileClient(port)
        with client.sock:
            client.send(Connect(1, "127.0.0.1", far).encode())
            answer = client.receive()
        if answer == b"\x0a\0\0\0\1":
            taken += 1
        else:
            assert answer.endswith(b"new connections a second"), answer
            assert time.monotonic() < deadline
            time.sleep(0.2)
    return process_and_port


def resident(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


def busy(process: subprocess.Popen[str]) -> float:
    """Seconds of the processor that a process has had: a busy machine does not count for it."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Honest(threading.Thread):
    """Another client, which sends a keystroke after the other.

    ``waits`` are the seconds that the worker was busy with other things before each echo came.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, far: int) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._client = HostileClient(port)
        self._stream = 0
        connected = False
        while not connected:  # what is left of a flood before may have used up the limit
            self._stream += 1
            self._client.send(Connect(self._stream, "127.0.0.1", far).encode())
            answer = self._client.receive()
            connected = answer == b"\x0a" + self._stream.to_bytes(4)
            assert self._stream < 100 and (connected or b"connections a second" in answer)
            time.sleep(0 if connected else 0.1)
        self.waits: list[float] = []
        self.failure: Exception | None = None
        self._over = threading.Event()

    def run(self) -> None:
        frame = Data(self._stream, b"k").encode()
        try:
            while not self._over.is_set():
                began = busy(self._process)
                self._client.send(frame)
                while frame not in self._client.receive():
                    pass
                self.waits.append(busy(self._process) - began)
                time.sleep(0.01)
        except Exception as error:
            self.failure = error

    def finish(self) -> None:
        self._over.set()
        self.join(60)
        self._client.sock.close()
        assert self.failure is None and not self.is_alive()


def many(frame: bytes) -> Callable[[int], bytes]:
    return lambda turn: frame * (250_000 // len(frame))


def changing(make: Callable[[int], bytes], count: int) -> Callable[[int], bytes]:
    return lambda turn: b"".join(make(turn * count + n + 2) for n in range(count))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "pongs": many(Pong().encode()),
    "pings": many(Ping().encode()),
    "unknown frames": many(Unknown(0x50, 0, b"").encode()),
    "counted unknown frames": many(Unknown(0x60, 0, b"").encode()),
    "empty DATA": many(Data(1, b"").encode()),
    "empty windows": many(Window(1, 0).encode()),
    "CONNECT": changing(lambda n: Connect(n, "127.0.0.1", 9).encode(), 5000),
    "CONNECT and CLOSE": changing(
        lambda n: Connect(n, "127.0.0.1", 9).encode() + Close(n).encode(), 5000
    ),
    "associations": changing(lambda n: Udp(n, "127.0.0.1", 9, b"x").encode(), 5000),
    "datagrams that are refused": many(Udp(1, "10.0.0.1", 9, b"").encode()),
    "hosts that are none": changing(lambda n: Udp(1, f"{n}.example", 9, b"").encode(), 5000),
    "DNS queries": changing(lambda n: DnsQuery(n, bytes(12)).encode(), 5000),
    "DNS queries that hang": changing(
        lambda n: DnsQuery(n, b"\0\1\1\0\0\1\0\0\0\0\0\0\1x\0\0\1\0\1").encode(), 5000
    ),
    "DNS queries with one id": many(DnsQuery(7, bytes(12)).encode()),
    "large DNS queries with one id": many(
        DnsQuery(7, b"\0\1\1\0\0\1\0\0\0\0\0\0\1x\0\0\1\0\1" + bytes(60_000)).encode()
    ),
    "pings to far ends": changing(lambda n: Echo(n, "127.0.0.1", bytes(8)).encode(), 5000),
}


#: In v1 every frame is a message of its own.
FLOODS_V1: dict[str, Callable[[int], bytes]] = {
    "pings": many(client_message(Ping().encode())),
    "empty DATA": many(client_message(Data(1, b"").encode())),
    "CONNECT": changing(lambda n: client_message(Connect(n, "127.0.0.1", 9).encode()), 2000),
    "DNS queries": changing(lambda n: client_message(DnsQuery(n, bytes(12)).encode()), 2000),
    "DNS queries with one id": many(client_message(DnsQuery(7, bytes(12)).encode())),
}


def fragments(payload: bytes) -> bytes:
    """A message in fragments of one byte; the mask is zero."""
    last = len(payload) - 1
    return b"".join(
        bytes((0 if n else 2, 0x81)) + bytes(4) + bytes((byte,))
        for n, byte in enumerate(payload[:last])
    ) + b"\x80\x81" + bytes(4) + payload[last:]  # fmt: skip


EMPTY = b"\x00\x80" + bytes(4)

#: What costs here is the framing: messages are few, or of one byte.
FLOODS_OF_FRAMES: dict[str, Callable[[int], bytes]] = {
    "empty fragments": lambda turn: (b"" if turn else b"\x02\x80" + bytes(4)) + EMPTY * 40_000,
    "messages of one byte": many(client_message(Pong().encode())),
    "fragments of one byte": many(fragments(Unknown(0x50, 0, b"").encode())),
    "WebSocket pings": many(b"\x89\x80" + bytes(4)),
    "WebSocket pongs": many(b"\x8a\x80" + bytes(4)),
}


def flood(
    process: subprocess.Popen[str],
    honest: Honest,
    liar: HostileClient,
    make: Callable[[int], bytes],
    most_busy: float = MOST_BUSY,
) -> None:
    """Send what ``make`` makes, as fast as it is taken; then look what that has done."""
    before = resident(process)
    honest.start()
    liar.sock.settimeout(SECONDS)
    deadline = time.monotonic() + SECONDS
    turn = 0
    with contextlib.suppress(TimeoutError, ConnectionError):  # held up, or cut off
        while time.monotonic() < deadline or len(honest.waits) <= 3 and honest.is_alive():
            liar.sock.sendall(make(turn))
            turn += 1
    while len(honest.waits) <= 3 and honest.is_alive():  # held up as the liar may be
        time.sleep(0.01)
    growth = resident(process) - before
    liar.sock.close()
    time.sleep(0.1)
    honest.finish()
    waits = sorted(honest.waits)
    print(f"{turn} messages, {growth >> 10} KiB, {len(waits)} echoes, at worst {waits[-2:]} s")
    assert growth < MOST_GROWTH
    assert len(waits) > 3
    # Once an echo may have waited for this process, while only the worker had a core.
    assert waits[-2] < most_busy
    assert waits[-1] < 2 * MOST_BUSY


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood(name: str, worker: tuple[subprocess.Popen[str], int], far: int) -> None:
    process, port = worker
    liar = HostileClient(port)
    liar.send(Connect(1, "127.0.0.1", far).encode())
    make = FLOODS[name]
    flood(process, Honest(process, port, far), liar, lambda turn: client_message(make(turn)))


@pytest.mark.parametrize("name", ["counted unknown frames", "CONNECT", "CONNECT and CLOSE"])
def test_a_flood_by_one_that_acknowledges_nothing(
    name: str, worker: tuple[subprocess.Popen[str], int], far: int
) -> None:
    process, port = worker
    liar = HostileClient(port, resume=60)
    make = FLOODS[name]
    flood(process, Honest(process, port, far), liar, lambda turn: client_message(make(turn)))


@pytest.mark.parametrize("name", FLOODS_V1)
def test_a_flood_over_v1(name: str, worker: tuple[subprocess.Popen[str], int], far: int) -> None:
    process, port = worker
    liar = HostileClient(port, v1=True)
    liar.send(Connect(1, "127.0.0.1", far).encode())
    flood(process, Honest(process, port, far), liar, FLOODS_V1[name])


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("name", FLOODS_OF_FRAMES)
def test_a_flood_of_frames(
    name: str, v1: bool, worker: tuple[subprocess.Popen[str], int], far: int
) -> None:
    process, port = worker
    liar = HostileClient(port, v1=v1)
    flood(process, Honest(process, port, far), liar, FLOODS_OF_FRAMES[name], MOST_BUSY_WITH_FRAMES)
