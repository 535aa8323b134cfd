"""Streams that were closed here before the far end has finished: for how long it may."""

from __future__ import annotations

import math
from collections.abc import Callable

from .peers import TunnelStream

__all__ = ["LingeringStreams"]


class LingeringStreams:
    """Streams that end by themselves, or are reset. Moments are those of ``trio.current_time``.

    :param live: tells whether a channel has a WebSocket.
    """

    def __init__(self, live: Callable[[object], bool]) -> None:
        self._live = live
        self._expiries: dict[TunnelStream, float] = {}

    def __len__(self) -> int:
        return len(self._expiries)

    def add(self, stream: TunnelStream, expiry: float) -> None:
        """Reset a stream at ``expiry``, unless it has ended by then."""
        self._expiries[stream] = expiry

    def end_late(self, now: float, more: float) -> float:
        """Reset those whose time is over; return when to look again.

        :param more: seconds for which one waits again whose channel has no WebSocket.
        """
        for stream, expiry in list(self._expiries.items()):
            if expiry <= now and stream.channel and not self._live(stream.channel):
                # What it has to say waits for another WebSocket
                self._expiries[stream] = now + more
            elif stream.over or stream.ended or expiry <= now:
                del self._expiries[stream]
                stream.close()
        return min(self._expiries.values(), default=math.inf)
