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


async def give_back(
    held: Callable[[], int], *, worth: int = _WORTH, interval: float = _INTERVAL
) -> None:
    """Until cancelled: whenever ``held()``, in bytes, has fallen by ``worth``, return memory.

    It is asked every ``interval`` seconds. The work is done in a thread of its own, since it may
    take some milliseconds.
    """
    most = held()
    while True:
        await trio.sleep(interval)
        now = held()
        most = max(most, now)
        if most - now >= worth:
            await trio.to_thread.run_sync(lib.zks_memory_trim)
            most = now
