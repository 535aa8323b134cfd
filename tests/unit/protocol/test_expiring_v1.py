"""Streams of v1 that are half over, and end when nothing more comes."""

from __future__ import annotations

from zks_lwip.protocol.v1 import LINGER
from zks_lwip.protocol.v1.stream import ExpiringStreams, StreamV1


def test_each_expires_when_its_time_is_over() -> None:
    now = 100.0
    expiring = ExpiringStreams(lambda: now)
    first, second, third = streams = [StreamV1(n, None) for n in (1, 2, 3)]
    assert expiring.deadline is None and expiring.take_late() == []
    for stream in streams:
        expiring.start(stream)
        now += 1.0
    assert expiring.deadline == first.expiry == 100.0 + LINGER
    expiring.start(first)  # DATA has come
    assert expiring.deadline == second.expiry == 101.0 + LINGER
    now = 102.0 + LINGER
    assert expiring.take_late() == [second, third] and second.expiry == 0.0
    assert expiring.deadline == first.expiry == 103.0 + LINGER
    expiring.stop(first)
    expiring.stop(second)
    assert expiring.deadline is None
