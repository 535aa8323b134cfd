"""Streams that outlive their sessions."""

from __future__ import annotations

from zks_lwip.worker.undelivered import UndeliveredStreams


class Stream:
    """A stream that is forgotten when it is aborted."""

    def __init__(self, undelivered: UndeliveredStreams) -> None:
        self.undelivered = undelivered
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True
        self.undelivered.forget(self)


def test_one_whose_far_end_takes_nothing_is_aborted() -> None:
    undelivered = UndeliveredStreams()
    undelivered.patience = 10.0
    slow, stuck = Stream(undelivered), Stream(undelivered)
    undelivered.keep(slow, 0.0)
    undelivered.keep(stuck, 0.0)
    undelivered.keep(slow, 5.0)  # its far end has taken some
    undelivered.abort_late(10.0)
    assert not (slow.aborted or stuck.aborted)
    undelivered.abort_late(10.1)
    assert stuck.aborted and not slow.aborted and len(undelivered) == 1
    undelivered.forget(slow)
    undelivered.abort_late(99.0)
    assert not slow.aborted


def test_all_are_aborted_at_the_end() -> None:
    undelivered = UndeliveredStreams()
    streams = [Stream(undelivered) for _ in range(3)]
    for stream in streams:
        undelivered.keep(stream, 0.0)
    undelivered.abort_all()
    assert all(stream.aborted for stream in streams) and not undelivered
    undelivered.abort_all()
