"""Buffers in which messages are written, for all sessions.

A fresh buffer of 256 KiB costs more than what is written into it: the system has to find its pages.
One is taken out while it is written to, so a source may have another session send, and sessions of
two threads never share one.
"""

from __future__ import annotations

__all__ = ["LARGE", "give", "take"]

_MAX_SPARES = 8
LARGE = 32 << 10
"""Bytes of a buffer from which it is worth keeping."""

_spare: list[bytearray] = []


def take(size: int) -> bytearray:
    """Return a buffer of at least ``size`` bytes, with whatever it held before."""
    try:
        buffer = _spare.pop()
    except IndexError:
        return bytearray(size)
    lacks = size - len(buffer)
    if lacks <= 0:
        return buffer
    if lacks * 4 > size:
        return bytearray(size)
    buffer += bytes(lacks)
    return buffer


def give(buffer: bytearray) -> None:
    """Have a buffer used again, perhaps by another thread at once; nothing else may hold it."""
    if len(_spare) < _MAX_SPARES and len(buffer) >= LARGE:
        _spare.append(buffer)
