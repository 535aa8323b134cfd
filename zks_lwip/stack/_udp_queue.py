"""What has come for one UDP socket and waits to be received."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import trio

from ._flow import Datagram

__all__ = ["DatagramQueue"]


class DatagramQueue:
    """Datagrams, oldest first. Where more wait than it holds, the oldest are dropped.

    :param size: datagrams that may wait, 1 or more.
    :param what: the name of the socket in errors.
    :raises ValueError: ``size`` is less.
    """

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            raise ValueError(f"a queue of {size} datagrams holds none: give 1 or more")
        self._waiting: deque[Datagram | OSError] = deque()
        self._size = size
        self._what = what
        self._arrived = trio.lowlevel.ParkingLot()
        self._ended = False
        self.closed = False
        self.dropped = 0

    def put(self, datagram: Datagram | OSError) -> None:
        """Add a datagram that has come, or an error about one that was sent."""
        if self.closed:
            return
        if len(self._waiting) >= self._size:
            self._waiting.popleft()
            self.dropped += 1
        if isinstance(datagram, Datagram):  # copied, lest it pin those that came with it
            datagram = replace(datagram, payload=memoryview(bytes(datagram.payload)))
        self._waiting.append(datagram)
        self._arrived.unpark()

    async def get(self) -> Datagram:
        """Wait for the next one.

        :raises OSError: it is an error.
        :raises trio.ClosedResourceError: it was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            self.check_open()
            await self._arrived.park()
        item = self._waiting.popleft()
        if isinstance(item, OSError):
            raise item
        return item

    def check_open(self) -> None:
        """Raise an error as :meth:`get` does where nothing waits."""
        if self.closed:
            raise trio.ClosedResourceError(f"{self._what} was closed")
        if self._ended:
            raise trio.BrokenResourceError("the stack has ended")

    def end(self) -> None:
        """Nothing more comes: the stack has ended."""
        self._ended = True
        self._arrived.unpark_all()

    def close(self) -> None:
        """Forget what waits, and end the tasks that wait for more."""
        self.closed = True
        self._waiting.clear()
        self._arrived.unpark_all()
