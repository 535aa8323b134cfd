"""DNS queries at a steady rate, and answers to them, for next to no CPU time of their own.

``python -m tests.bench._dns_steady ask ADDRESS PORT RATE SECONDS`` sends queries for the 1,000
cached names, one bunch a millisecond, and prints how many it has sent and how many were answered.
``python -m tests.bench._dns_steady answer ADDRESS`` prints its port and answers every query with
itself: the control. Both move many datagrams in a system call (sendmmsg, recvmmsg: Linux only).
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from collections.abc import Sequence

from tests.bench._dns_load import query

NAMES = [f"h{number}.zks.test" for number in range(1000)]
_TICK = 0.001
_SPACE = 512  # bytes for each datagram
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class Messages:
    """Datagrams in one piece of memory, each in its own `_SPACE` bytes."""

    def __init__(self, count: int, *, names: bool = False) -> None:
        self.memory = bytearray(count * _SPACE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._names = (ctypes.c_char * (28 * count))()
        self.parts = (_Iovec * count)(*((start + i * _SPACE, _SPACE) for i in range(count)))
        self.messages = (_Message * count)()
        self._named = names
        for index, message in enumerate(self.messages):
            header = message.header
            header.iov = ctypes.pointer(self.parts[index])
            header.iov_count = 1
            if names:
                header.name = ctypes.addressof(self._names) + 28 * index

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Put datagrams there."""
        for index, payload in enumerate(payloads):
            self.memory[index * _SPACE : index * _SPACE + len(payload)] = payload
            self.parts[index].length = len(payload)

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """Send some of them; how many were."""
        at = ctypes.byref(self.messages, first * ctypes.sizeof(_Message))
        return self._checked(_libc.sendmmsg(sock.fileno(), at, count, 0))

    def receive(self, sock: socket.socket, *, wait: bool) -> int:
        """Receive as many as have come; with `wait`, at least one."""
        for index, message in enumerate(self.messages) if self._named else ():
            message.header.name_length = 28
            self.parts[index].length = _SPACE
        flags = 0x10000 if wait else socket.MSG_DONTWAIT  # MSG_WAITFORONE
        call = _libc.recvmmsg(sock.fileno(), self.messages, len(self.messages), flags, None)
        return self._checked(call)

    @staticmethod
    def _checked(count: int) -> int:
        if count < 0 and ctypes.get_errno() not in (11, 105):  # EAGAIN, ENOBUFS
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return max(0, count)


def ask(address: str, port: int, rate: int, seconds: float) -> None:
    """Send at that rate; nothing is sent again."""
    queries, answers = Messages(len(NAMES)), Messages(256)
    queries.fill([query(name) for name in NAMES])
    sent = answered = 0
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect((address, port))
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            due = int(now * rate) - sent
            first = sent % len(NAMES)
            sent += queries.send(sock, first, min(due, len(NAMES) - first)) if due > 0 else 0
            answered += answers.receive(sock, wait=False)
            time.sleep(_TICK)
        time.sleep(0.2)
        while more := answers.receive(sock, wait=False):
            answered += more
    print(f"sent {sent} answered {answered}", flush=True)


def answer(address: str) -> None:
    """Answer until killed."""
    bunch = Messages(64, names=True)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        print(f"port {sock.getsockname()[1]}", flush=True)
        while True:
            count = bunch.receive(sock, wait=True)
            for index in range(count):
                bunch.parts[index].length = bunch.messages[index].length
            bunch.memory[2 : count * _SPACE : _SPACE] = b"\x84" * count
            bunch.send(sock, 0, count)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        answer(sys.argv[2])
