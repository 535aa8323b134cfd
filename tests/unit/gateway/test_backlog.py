"""Bytes that wait for the stack; datagrams that wait for the tunnel are in ``test_gateway``."""

from __future__ import annotations

import tracemalloc

from zks_lwip.gateway.backlog import ByteBacklog


def test_bytes_that_wait_are_kept_together() -> None:
    """A far end that sends single bytes does not make each cost an object of its own."""
    backlog = ByteBacklog()
    assert not backlog and len(backlog) == 0
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(200_000):
        backlog.add(memoryview(bytes([i % 251])))
    cost = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(backlog) == 200_000
    assert cost < 300_000
    backlog.add(memoryview(bytes(100_000)))
    backlog.add(memoryview(b""))
    got, more = bytearray(), b"end"
    while backlog:
        with backlog.first() as view:
            part = bytes(view[:70_001])
        got += part
        backlog.drop(len(part))
        if len(got) > 70_000:
            backlog.add(memoryview(more))
            more = b""
    expected = bytes(i % 251 for i in range(200_000)) + bytes(100_000) + b"end"
    assert got == expected and len(backlog) == 0
