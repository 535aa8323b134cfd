"""DNS answers that the C pump repeats itself, without waking Python."""

from __future__ import annotations

from collections.abc import Sequence

from .._lwip import lib
from ._stack import Stack

__all__ = ["PacketCache"]


class PacketCache:
    """Answered DNS queries, by their bytes after the id.

    The pump repeats an answer itself when a query differs from an answered one only in its two id
    bytes. A query is a UDP datagram to port 53 of any address. The answer begins with the query's
    id, and its TTLs are counted down. All calls do nothing once the stack is closed.
    """

    def __init__(self, stack: Stack) -> None:
        self._core = stack._core

    @property
    def hits(self) -> int:
        """Datagrams answered so far."""
        return int(lib.zks_packet_cache_hits(self._core.handle))

    def put(
        self, key: bytes, answer: bytes, ttls: Sequence[int], age: float, seconds: float
    ) -> None:
        """Keep an answer; where the cache is full, an older one gives way.

        :param key: the query without its id, at most 512 bytes; longer ones are not kept.
        :param answer: the answer without its id, at most 1230 bytes; longer ones are not kept.
        :param ttls: offsets in ``answer`` of its TTLs, at most 64; with more it is not kept.
        :param age: seconds since the TTLs were true.
        :param seconds: how long the answer may be repeated; 0 or less: it is not kept.
        """
        if seconds > 0:
            lib.zks_packet_cache_put(
                self._core.handle,
                key,
                len(key),
                answer,
                len(answer),
                ttls,
                len(ttls),
                int(age * 1000),
                int(seconds * 1000),
            )

    def clear(self) -> None:
        """Forget every answer."""
        lib.zks_packet_cache_clear(self._core.handle)
