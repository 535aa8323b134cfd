"""Streams that outlive their sessions: what their clients have sent is still being delivered."""

from __future__ import annotations

from typing import Protocol

__all__ = ["DELIVERY_PATIENCE", "UndeliveredStreams"]

DELIVERY_PATIENCE = 300.0
"""Seconds in which a far end has to take some of what its client had sent before it left: about as
long as a kernel tries to deliver what a closed socket has left."""


class AbortableStream(Protocol):
    """What these need of a stream."""

    def abort(self) -> None:
        """Close it at once; its owner has :meth:`UndeliveredStreams.forget` called."""


class UndeliveredStreams:
    """Streams whose session is done with them. Moments are those of ``trio.current_time``."""

    def __init__(self) -> None:
        self.patience = DELIVERY_PATIENCE
        """Seconds in which a far end has to take more."""
        self._until: dict[AbortableStream, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def keep(self, stream: AbortableStream, now: float) -> None:
        """Keep a stream for ``patience`` seconds from now: the far end has taken some, or the
        session is done with it."""
        self._until[stream] = now + self.patience

    def forget(self, stream: AbortableStream) -> None:
        """Forget a stream, kept or not: it has closed."""
        self._until.pop(stream, None)

    def abort_late(self, now: float) -> None:
        """Abort those whose far ends have taken nothing in time."""
        for stream in [each for each, until in self._until.items() if until < now]:
            stream.abort()

    def abort_all(self) -> None:
        """Abort all of them."""
        for stream in list(self._until):
            stream.abort()
