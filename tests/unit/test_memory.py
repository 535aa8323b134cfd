"""Memory that has become free goes back to the system."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import trio

from zks_lwip.memory import give_back

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
    with trio.fail_after(20):
        while full - resident() < 100 * MIB:
            await trio.sleep(0.02)
    assert last


async def test_only_where_it_is_worth_it(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims = []
    value = asked = 0

    class Lib:
        @staticmethod
        def zks_memory_trim() -> None:
            trims.append(value)

    def held() -> int:
        nonlocal asked
        asked += 1
        return value

    monkeypatch.setattr("zks_lwip.memory.lib", Lib)
    nursery.start_soon(lambda: give_back(held, worth=100, interval=0.005))
    for now in (1000, 5000, 4950, 5000, 4901, 3000, 2950, 2901, 0):
        value, seen = now, asked
        while asked < seen + 3:
            await trio.sleep(0.005)
    assert trims == [3000, 0]
