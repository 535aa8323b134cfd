"""Waiting in trio for what a test has brought about."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has become true."""
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)
