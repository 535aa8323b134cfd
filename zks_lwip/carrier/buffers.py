"""Buffers that the connections of a thread use in turn."""

from __future__ import annotations

import threading

__all__ = ["MIN_BUFFER", "Spares", "in_use"]

MIN_BUFFER = 16 * 1024
"""Bytes of a new buffer at least."""


def in_use(buffer: bytearray) -> bool:
    """Return whether a memoryview of ``buffer`` is held: it can then not be resized."""
    try:
        buffer.append(0)
    except BufferError:
        return True
    buffer.pop()
    return False


class Spares(threading.local):
    """A few buffers that all connections of a thread use in turn.

    Most connections are idle, and one that is needs no buffer. Those that are busy one after the
    other find one that is in the processor's cache. Two threads, each with its trio, share none:
    one of them could take a buffer that the other has given back, but not yet let go of.

    :param most: how many are kept.
    :param max_size: bytes; a larger one is not kept.
    """

    def __init__(self, most: int, max_size: int = 1 << 20) -> None:
        self._most = most
        self._max_size = max_size
        self._buffers: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least ``size`` bytes, with whatever it held before."""
        buffers = self._buffers
        if buffers and len(buffers[-1]) >= size and not in_use(buffers[-1]):
            return buffers.pop()  # the one that was used last, as it mostly is
        for buffer in sorted(buffers, key=len):
            if len(buffer) >= size and not in_use(buffer):
                self._buffers = [each for each in buffers if each is not buffer]
                return buffer
        return bytearray(max(size, MIN_BUFFER))

    def give(self, buffer: bytearray) -> None:
        """Keep a buffer for others. Views of it stay valid: it is not used until they are gone."""
        if len(buffer) <= self._max_size:
            self._buffers.append(buffer)
        if len(self._buffers) > self._most:
            del self._buffers[0]

    def clear(self) -> None:
        """Keep none of those that are there."""
        self._buffers.clear()
