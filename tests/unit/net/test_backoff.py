"""The delays between attempts."""

from __future__ import annotations

from zks_lwip.net.backoff import Backoff


def test_delays_double_and_are_jittered() -> None:
    backoff = Backoff(0.5, 30.0, rand=lambda: 1.0)
    assert [backoff.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.succeeded()
    assert backoff.failed() == 0.5
    backoff = Backoff(0.5, 30.0)
    for _ in range(2000):
        assert 0.25 <= backoff.failed() <= 30
    assert len({Backoff(0.5, 30.0).failed() for _ in range(20)}) > 10


def test_without_jitter_delays_are_exact() -> None:
    backoff = Backoff(0.5, 30.0, jitter=0.0)
    assert [backoff.failed() for _ in range(7)] == [0.5, 1, 2, 4, 8, 16, 30]
