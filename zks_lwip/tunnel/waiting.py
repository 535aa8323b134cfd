"""Streams that wait for a channel: in the order in which they came, for a bounded time."""

from __future__ import annotations

import math

from .peers import TunnelStream

__all__ = ["WaitingStreams"]


class WaitingStreams:
    """Streams without a channel. Moments are those of ``trio.current_time``.

    :param most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[TunnelStream, None] = {}
        self._refused: list[TunnelStream] = []
        #: When :meth:`end_late` has something to do, at the earliest.
        self.due = math.inf
        #: How many were refused, because too many wait or none has had a channel for them.
        self.refused = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No other stream may wait."""
        return len(self._waiting) >= self._most

    def add(self, stream: TunnelStream) -> None:
        """Let a stream wait until its deadline; one too many ends at :meth:`end_late`.

        (Not here: the opener of a stream is not told of its end before it has the stream.)
        """
        if self.full:
            self.refused += 1
            self._refused.append(stream)
            self.due = -math.inf
        else:
            self._waiting[stream] = None
            self.due = min(self.due, stream.request.deadline)

    def forget(self, stream: TunnelStream) -> None:
        """Let go of a stream that was closed."""
        self._waiting.pop(stream, None)

    def take(self) -> TunnelStream:
        """Return the one that has waited longest; it does not wait any more."""
        stream = next(iter(self._waiting))
        del self._waiting[stream]
        return stream

    def end_late(self, now: float) -> None:
        """End those whose time is over, and those that are too many."""
        if now < self.due:
            return
        refused, self._refused = self._refused, []
        for stream in refused:
            stream.end(503, "too many streams wait for a channel")
        for stream in [each for each in self._waiting if each.request.deadline <= now]:
            if stream in self._waiting:  # the end of another may have closed it
                del self._waiting[stream]
                self.refused += 1
                stream.end(*stream.request.refusal)
        self.due = min((each.request.deadline for each in self._waiting), default=math.inf)
        if self._refused:  # by those that were told
            self.due = -math.inf

    def end_all(self, code: int, message: str) -> None:
        """End all of them."""
        ended = [*self._waiting, *self._refused]
        self._waiting.clear()
        self._refused.clear()
        for stream in ended:
            stream.end(code, message)
