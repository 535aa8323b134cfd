"""What waits where it cannot go on yet: bytes for the stack, and datagrams for the tunnel."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import trio

from ..stack import Datagram
from .counters import GatewayCounters

__all__ = ["MAX_DATAGRAMS", "MAX_DATAGRAM_BYTES", "ByteBacklog", "DatagramBacklog"]

_PIECE = 64 << 10
"""Bytes that are put together, and freed at a time."""
_SMALL = 4 << 10
"""Bytes from which on a piece stays by itself: what it costs besides is little, copying it is not.
"""
MAX_DATAGRAMS = 256
"""Datagrams that wait for the tunnel; over it the oldest are dropped."""
MAX_DATAGRAM_BYTES = 256 * 1024
"""Bytes of their payloads; over it the oldest are dropped."""


class ByteBacklog:
    """Bytes of one connection that the stack has not taken.

    They come in whatever pieces the far end made, and are put together: kept each by itself, single
    bytes would cost some two hundred times what they are. The stream's credit bounds them.
    """

    __slots__ = ("_pieces", "_start")

    def __init__(self) -> None:
        self._pieces: deque[bytearray] = deque()
        self._start = 0  # of what is left of the first one

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces)) - self._start

    def add(self, payload: memoryview) -> None:
        """Copy ``payload`` to the end."""
        size = len(payload)
        if size < _SMALL and self._pieces and len(self._pieces[-1]) + size <= _PIECE:
            self._pieces[-1] += payload
        elif size:
            self._pieces.append(bytearray(payload))

    def first(self) -> memoryview:
        """Return bytes from the front, to be released before the next call of :meth:`add`."""
        return memoryview(self._pieces[0])[self._start :]

    def drop(self, count: int) -> None:
        """Forget so many of the bytes of :meth:`first`."""
        self._start += count
        if self._start == len(self._pieces[0]):
            self._pieces.popleft()
            self._start = 0


class DatagramBacklog:
    """UDP datagrams kept while the tunnel is down, so that a short break is bridged.

    They are at most 256 and 256 KiB. Payloads are copied, so that one datagram does not pin its
    whole batch.
    """

    def __init__(self, counters: GatewayCounters) -> None:
        self._counters = counters
        self._queue: deque[Datagram] = deque()
        self._bytes = 0
        self._some = trio.Event()

    def add(self, datagram: Datagram) -> None:
        """Keep one more."""
        self._queue.append(replace(datagram, payload=memoryview(bytes(datagram.payload))))
        self._bytes += len(datagram.payload)
        while len(self._queue) > MAX_DATAGRAMS or self._bytes > MAX_DATAGRAM_BYTES:
            self._bytes -= len(self._queue.popleft().payload)
            self._counters.datagrams_dropped += 1
        self._some.set()

    async def wait(self) -> None:
        """Wait until there are some."""
        await self._some.wait()

    def take(self) -> list[Datagram]:
        """Return all of them, oldest first, and keep none."""
        taken = list(self._queue)
        self._queue.clear()
        self._bytes = 0
        self._some = trio.Event()
        return taken
