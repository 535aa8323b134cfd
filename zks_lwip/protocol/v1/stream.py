"""The streams of a v1 session, and when they are ended because nothing more comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..stream import Source

__all__ = ["LINGER", "ExpiringStreams", "StreamV1"]

LINGER = 30.0
"""Seconds without DATA after which a stream that is half over is ended."""


class StreamV1:
    """One stream of a v1 session."""

    __slots__ = (
        "connected",
        "ended",
        "expiry",
        "far_ended",
        "gone",
        "id",
        "ready",
        "source",
        "told",
    )

    def __init__(self, id: int, source: Source | None) -> None:
        self.id = id
        self.source = source
        self.connected = False
        self.ready = False  # the source was ready before it could be asked
        self.ended = False  # our source has ended
        self.far_ended = False  # the peer's CLOSE has come
        self.told = False  # our CLOSE has been sent
        self.gone = False
        self.expiry = 0.0  # when it is ended if nothing more comes; 0.0: never


class ExpiringStreams:
    """Streams that are half over, each of which is ended ``LINGER`` seconds after its last DATA.

    :param clock: seconds, monotonic.
    """

    __slots__ = ("_clock", "_soonest_first")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._soonest_first: OrderedDict[int, StreamV1] = OrderedDict()

    @property
    def deadline(self) -> float | None:
        """When the first of them expires, by the clock; None: there are none."""
        for stream in self._soonest_first.values():
            return stream.expiry
        return None

    def start(self, stream: StreamV1) -> None:
        """Start the time of a stream, for the first time or over again."""
        stream.expiry = self._clock() + LINGER
        self._soonest_first[stream.id] = stream
        self._soonest_first.move_to_end(stream.id)

    def stop(self, stream: StreamV1) -> None:
        """Let a stream be gone."""
        self._soonest_first.pop(stream.id, None)

    def take_late(self) -> list[StreamV1]:
        """Return those whose time is over; they expire no more."""
        late: list[StreamV1] = []
        if self._soonest_first:
            now = self._clock()
            while (deadline := self.deadline) is not None and deadline <= now:
                _, stream = self._soonest_first.popitem(last=False)
                stream.expiry = 0.0
                late.append(stream)
        return late
