"""What the connections to a peer know of the path that they share.

The answer to a ping on a quiet connection stands in the same queue as the data of busy ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

import trio

from .liveness import ALONE, Others
from .tcp_info import round_trip

__all__ = ["Neighbours"]

_FRESH = 0.25
"""Seconds for which what was seen is kept: a thousand connections are looked at four times a
second, not by each of them, and only while one of them waits for a pong."""


class _Connection(Protocol):
    """What is needed of a WebSocket."""

    @property
    def carrier(self) -> trio.socket.SocketType | None: ...
    @property
    def last_heard(self) -> float: ...


class Neighbours:
    """Many connections, by their peers.

    :param connections: returns pairs of peer and connection.
    """

    def __init__(self, connections: Callable[[], Iterable[tuple[Hashable, _Connection]]]) -> None:
        self._connections = connections
        self._seen: dict[Hashable, Others] = {}
        self._looked = -math.inf

    def of(self, peer: Hashable) -> Others:
        """Return what the connections to ``peer`` know, at most a quarter of a second ago."""
        now = trio.current_time()
        if now - self._looked >= _FRESH:
            self._looked = now
            self._seen.clear()
            for one, connection in self._connections():
                known = self._seen.get(one, ALONE)
                self._seen[one] = Others(
                    max(known.round_trip, round_trip(connection.carrier)),
                    max(known.heard, connection.last_heard),
                )
        return self._seen.get(peer, ALONE)
