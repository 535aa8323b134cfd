"""Memory that flows have held, given back to the system.

What is freed is not returned by itself: glibc keeps all that lies before the last block in use, so
one quiet connection keeps what four hundred busy ones had.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ._lwip import lib

__all__ = ["give_back"]

_WORTH = 4 << 20
"""Bytes that must have become free: fewer are soon used again, and cost page faults."""
_INTERVAL = 1.0
"""Seconds between two looks."""
_SETTLED = 30.0
"""Seconds after which fewer bytes are worth it: many small falls add up."""


async def give_back(
    held: Callable[[], int],
    *,
    worth: int = _WORTH,
    interval: float = _INTERVAL,
    settled: float = _SETTLED,
    trim: Callable[[], object] = lib.zks_memory_trim,
) -> None:
    """Return freed memory to the system, until cancelled.

    The work is done in a thread of its own, since it may take some milliseconds.

    :param held: tells the bytes in use; memory is returned when they have fallen enough.
    :param worth: bytes by which they must have fallen.
    :param interval: seconds between two looks at ``held``.
    :param settled: seconds since the last return after which any fall is enough.
    :param trim: returns the memory.
    """
    most = held()
    last = trio.current_time()
    while True:
        await trio.sleep(interval)
        now = held()
        most = max(most, now)
        if most - now >= worth or (now < most and trio.current_time() - last >= settled):
            await trio.to_thread.run_sync(trim)
            most, last = now, trio.current_time()
