"""Floods: thousands of connections, and SYNs by the hundred thousand.

python -m tests.kits.netns.floods RATE SECONDS SOURCE DESTINATION...

sends SYNs; prints ``flooding`` when it begins, and at the end how many they were.

Linux only: SYNs go out by ``sendmmsg`` on a raw socket, 64 in a call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType

BATCH = 64


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """This process, and those that it starts, may have ``count`` files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), max(hard, count)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def raise_descriptors(count: int) -> int:
    """Let this process, and those that it starts, have ``count`` files open, if that is allowed.

    :returns: how many they may have.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, count), max(hard, count)))
    except ValueError:  # not even root may, in some containers
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


class Flows:
    """Many connections to one server, opened together; what each ``connect()`` ended with.

    ``open`` are those that connected; ``failed`` counts the errors of the others by name. At most
    ``pending`` connect at a time, and each sends its SYN again ``syn_retries`` times.
    """

    def __init__(
        self,
        host: str,
        port: int,
        count: int,
        *,
        pending: int = 500,
        timeout: float = 200,
        syn_retries: int | None = None,
    ) -> None:
        self.open: list[socket.socket] = []
        self.failed: Counter[str] = Counter()
        self._syn_retries = syn_retries
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        deadline = time.monotonic() + timeout
        waiting: dict[int, socket.socket] = {}
        ready = select.epoll()
        started = 0
        with ready:
            while started < count or waiting:
                while started < count and len(waiting) < pending:
                    started += 1
                    self._begin(host, port, waiting, ready)
                assert time.monotonic() < deadline, (
                    f"{len(self.open)} of {count} are open, {len(waiting)} wait, {self.failed}"
                )
                for number, _ in ready.poll(1):
                    self._end(number, waiting, ready)

    def _begin(
        self, host: str, port: int, waiting: dict[int, socket.socket], ready: select.epoll
    ) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self._syn_retries is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, self._syn_retries)
        code = sock.connect_ex((host, port))
        if code != errno.EINPROGRESS:
            self.failed[errno.errorcode[code]] += 1
            sock.close()
            return
        waiting[sock.fileno()] = sock
        ready.register(sock.fileno(), select.EPOLLOUT)

    def _end(self, number: int, waiting: dict[int, socket.socket], ready: select.epoll) -> None:
        ready.unregister(number)
        sock = waiting.pop(number)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.failed[errno.errorcode[code]] += 1
            sock.close()
        else:
            self.open.append(sock)

    def echo(self, timeout: float = 200) -> int:
        """Send a byte on each connection; how many give it back."""
        deadline = time.monotonic() + timeout
        answered = 0
        for sock in self.open:
            sock.setblocking(True)
            sock.settimeout(max(0.01, deadline - time.monotonic()))
        for start in range(0, len(self.open), BATCH):
            part = self.open[start : start + BATCH]
            for sock in part:
                with contextlib.suppress(OSError):
                    sock.send(b"x")
            for sock in part:
                with contextlib.suppress(OSError):
                    answered += sock.recv(1) == b"x"
        return answered

    def close(self) -> None:
        for sock in self.open:
            sock.close()
        self.open.clear()

    def __enter__(self) -> Flows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def resident(pid: int) -> int:
    """Bytes of memory that process ``pid`` has resident now."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syns(source: str, destinations: Sequence[str], count: int) -> list[bytes]:
    """``count`` IPv4 packets, each the SYN of another connection."""
    here = socket.inet_aton(source)
    packets = []
    for number in range(count):
        there = socket.inet_aton(destinations[number % len(destinations)])
        ports = 10_000 + number // 100 % 50_000, 1 + number % 100
        segment = struct.pack("!HHIIBBHHH", *ports, number * 7919, 0, 5 << 4, 2, 65535, 0, 0)
        check = _sum(here + there + struct.pack("!HH", 6, len(segment)) + segment)
        segment = segment[:16] + struct.pack("!H", check) + segment[18:]
        # The kernel fills in the identification and the checksum.
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, here, there)
        packets.append(head + segment)
    return packets


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVec)),
        ("vectors_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    ]


def _messages(packets: Sequence[bytes]) -> tuple[ctypes.Array[_Message], list[object]]:
    """The packets as ``sendmmsg`` takes them, and what has to stay alive meanwhile."""
    array = (_Message * len(packets))()
    kept: list[object] = []
    for slot, packet in zip(array, packets, strict=True):
        there = struct.pack("=HH4s8x", socket.AF_INET, 0, packet[16:20])
        address, data = ctypes.create_string_buffer(there, 16), ctypes.create_string_buffer(packet)
        vector = _IoVec(ctypes.addressof(data), len(packet))
        slot.name, slot.name_length = ctypes.addressof(address), 16
        slot.vectors, slot.vectors_length = ctypes.pointer(vector), 1
        kept += [address, data, vector]
    return array, kept


def flood(rate: int, seconds: float, source: str, destinations: Sequence[str]) -> int:
    """Send ``rate`` SYNs a second; how many the kernel took."""
    packets = syns(source, destinations, BATCH * 1600)
    messages, kept = _messages(packets)
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    sent = position = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        number = sock.fileno()
        print("flooding", flush=True)
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            if sent >= rate * passed:
                time.sleep(0.0005)
                continue
            result = send(number, ctypes.byref(messages[position]), BATCH, 0)
            if result < 0 and ctypes.get_errno() not in (errno.ENOBUFS, errno.EPERM):
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += max(result, 0)
            position = (position + BATCH) % len(packets)
    del kept
    return sent


if __name__ == "__main__":
    rate, seconds, source, *destinations = sys.argv[1:]
    print(flood(int(rate), float(seconds), source, destinations))
