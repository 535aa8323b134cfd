"""Memory that has become free goes back to the system."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import trio

from zks_lwip._memory import give_back

MIB = 1 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    sys.platform != "linux"
    or platform.libc_ver()[0] != "glibc"
    or "ZKS_LWIP_SANITIZE" in os.environ,  # sanitizers bring an allocator of their own
    reason="glibc's allocator",
)
async def test_what_lies_before_a_block_in_use_is_given_back(nursery: trio.Nursery) -> None:
    """One small block behind it keeps glibc from doing so by itself."""
    held = asked = 0

    def ask() -> int:
        nonlocal asked
        asked += 1
        return held

    nursery.start_soon(lambda: give_back(ask, interval=0.01))
    pieces = [bytearray(b"x" * 60_000) for _ in range(2000)]
    last = bytearray(b"x" * 60_000)
    held, seen = 2000 * 60_000, asked
    while asked < seen + 2:
        await trio.sleep(0.01)
    full = resident()
    assert full > 100 * MIB
    del pieces
    held = 0
    with trio.fail_after(60):
        while full - resident() < 100 * MIB:
            await trio.sleep(0.02)
    assert last


async def pass_time(seconds: int) -> None:
    """Have a clock that jumps wait for threads: it does not while a task can run."""
    for _ in range(seconds):
        await trio.sleep(1)
        while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            await trio.lowlevel.checkpoint()


class Held:
    """What is held, and what it was when memory was given back."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.trims: list[int] = []

    def __call__(self) -> int:
        return self.value

    def trim(self) -> None:
        self.trims.append(self.value)


async def test_only_where_it_is_worth_it(autojump_clock: object, nursery: trio.Nursery) -> None:
    held = Held()
    nursery.start_soon(lambda: give_back(held, worth=100, settled=1000, trim=held.trim))
    for now in (1000, 5000, 4950, 5000, 4901, 3000, 2950, 2901, 0):
        held.value = now
        await pass_time(3)
    assert held.trims == [3000, 0]


async def test_many_small_falls_are_worth_it_after_a_while(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Once in ``settled`` seconds, and not again while nothing has fallen."""
    held = Held()
    nursery.start_soon(lambda: give_back(held, worth=1000, interval=10, settled=30, trim=held.trim))
    await pass_time(5)  # what is held changes halfway between two looks
    for turn in range(12):
        held.value = turn % 2
        await pass_time(10)
    assert len(held.trims) == 3
    await pass_time(200)
    assert len(held.trims) == 3
