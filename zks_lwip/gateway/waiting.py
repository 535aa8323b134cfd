"""UDP datagrams that wait for the tunnel to come back, so that a short break is bridged."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import trio

from ..stack import Datagram
from ..stats import GatewayCounters

__all__ = ["MOST", "MOST_BYTES", "Waiting"]

#: How many may wait, and how much; then the oldest are dropped.
MOST, MOST_BYTES = 256, 256 * 1024


class Waiting:
    """They are copied: a view would hold all that came with it."""

    def __init__(self, counters: GatewayCounters) -> None:
        self._counters = counters
        self._queue: deque[Datagram] = deque()
        self._bytes = 0
        self._some = trio.Event()

    def add(self, datagram: Datagram) -> None:
        """Keep one more."""
        self._queue.append(replace(datagram, payload=memoryview(bytes(datagram.payload))))
        self._bytes += len(datagram.payload)
        while len(self._queue) > MOST or self._bytes > MOST_BYTES:
            self._bytes -= len(self._queue.popleft().payload)
            self._counters.datagrams_dropped += 1
        self._some.set()

    async def any(self) -> None:
        """Return when there are some."""
        await self._some.wait()

    def take(self) -> list[Datagram]:
        """All of them, oldest first."""
        taken = list(self._queue)
        self._queue.clear()
        self._bytes = 0
        self._some = trio.Event()
        return taken
