"""Bytes that wait for the stack, together in pieces of a fair size.

They come in whatever pieces the far end made: kept each by itself, single bytes would cost some two
hundred times what they are.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Backlog"]

_PIECE = 64 << 10
"""Bytes that are put together, and freed at a time."""
_SMALL = 4 << 10
"""Bytes from which on a piece stays by itself: what it costs besides is little, copying it is not.
"""


class Backlog:
    """A queue of bytes."""

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
        """Bytes from the front; to be released before the next call of :meth:`add`."""
        return memoryview(self._pieces[0])[self._start :]

    def drop(self, count: int) -> None:
        """Forget so many of the bytes of :meth:`first`."""
        self._start += count
        if self._start == len(self._pieces[0]):
            self._pieces.popleft()
            self._start = 0
