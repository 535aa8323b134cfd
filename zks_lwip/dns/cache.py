"""The cache: answers by query key, for as long as their TTLs allow (RFC 1035, RFC 2181, RFC
2308).

Sans-IO; the clock is given. A hit costs a dictionary look-up and the joining of a few bytes: what
is kept already has its TTLs lowered to the current second (see
:class:`~zks_lwip.dns.message.answer.Answer`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from .message.answer import Answer
from .message.query import Query

__all__ = ["Cache"]


class Cache:
    """Answers by key; at most ``capacity`` of them and ``capacity_bytes`` bytes, the least recently
    used go first.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        *,
        capacity_bytes: int = 64 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[Answer, float]] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, query: Query) -> tuple[Answer, float] | None:
        """Return the answer and its age in seconds, or None."""
        entry = self._entries.get(query.key)
        if entry is None:
            self.misses += 1
            return None
        answer, since = entry
        age = self._clock() - since
        if age >= answer.lifetime:
            self._remove(query.key)
            self.misses += 1
            return None
        self._entries.move_to_end(query.key)
        self.hits += 1
        return answer, age

    def put(self, query: Query, answer: Answer) -> None:
        """Keep ``answer``, if it may be kept."""
        if not answer.lifetime or not self._capacity or not query.plain:
            return
        if query.key in self._entries:
            self._remove(query.key)
        self._entries[query.key] = (answer, self._clock())
        self.bytes += answer.size
        while len(self._entries) > self._capacity or self.bytes > self._capacity_bytes:
            self._remove(next(iter(self._entries)))
            self.evicted += 1

    def flush(self) -> int:
        """Forget everything; how many answers that were."""
        count = len(self._entries)
        self._entries.clear()
        self.bytes = 0
        return count

    def _remove(self, key: bytes) -> None:
        answer, _ = self._entries.pop(key)
        self.bytes -= answer.size
