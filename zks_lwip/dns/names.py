"""Which names addresses were resolved from, and which queries took longest: for who watches.

While queries are answered, no more is done than to keep them; they are looked at when asked about.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import nlargest

from ..errors import DnsError
from .message.addresses import addresses_in
from .message.answer import Answer
from .message.query import Query
from .message.wire import Type, WireError

__all__ = ["AddressNames", "readable_name"]

_MAX_PENDING, _MAX_NAMES = 2048, 8192
_MAX_BYTES = 4096
"""Larger answers are no answers to who asks for addresses."""
_RECENT_SECONDS = 60.0


class AddressNames:
    """Answers that came from upstreams, the last :data:`_MAX_PENDING` of them, by address.

    :param clock: tells seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: deque[tuple[Query, Answer]] = deque(maxlen=_MAX_PENDING)
        self._names: OrderedDict[str, str] = OrderedDict()
        self._took: deque[tuple[float, float, Query]] = deque(maxlen=_MAX_PENDING)

    def note(self, query: Query, answer: Answer, seconds: float) -> None:
        """Keep an answer.

        :param seconds: that it took.
        """
        self._took.append((self._clock(), seconds, query))
        if query.kind in (Type.A, Type.AAAA) and answer.size <= _MAX_BYTES:
            self._pending.append((query, answer))

    def name_of(self, address: str) -> str:
        """Return the name that was last resolved to an address; empty: none that is known."""
        while self._pending:
            query, answer = self._pending.popleft()
            self._read(query, answer)
        return self._names.get(address, "")

    def _read(self, query: Query, answer: Answer) -> None:
        try:
            found = addresses_in(answer.render(query), Type(query.kind))
        except (DnsError, WireError):
            return  # there is no such name
        name = readable_name(query.name)
        for address in found:
            self._names.pop(address, None)
            self._names[address] = name
        while len(self._names) > _MAX_NAMES:
            self._names.popitem(last=False)

    def slowest(self, count: int) -> list[tuple[str, float]]:
        """Return the names whose answers took longest within the last minute, and the seconds."""
        since = self._clock() - _RECENT_SECONDS
        recent = ((seconds, query.name) for when, seconds, query in self._took if when >= since)
        worst: dict[bytes, float] = {}
        for seconds, name in recent:
            worst[name] = max(seconds, worst.get(name, 0.0))
        largest = nlargest(count, worst.items(), key=lambda item: item[1])
        return [(readable_name(name), seconds) for name, seconds in largest]


def readable_name(wire: bytes) -> str:
    """Return a name in wire form as text, with ``\\DDD`` for what does not print (RFC 1035)."""
    labels, offset = [], 0
    while offset < len(wire) and (length := wire[offset]):
        label = wire[offset + 1 : offset + 1 + length]
        labels.append(
            "".join(chr(b) if 33 <= b <= 126 and b not in b".\\" else f"\\{b:03d}" for b in label)
        )
        offset += 1 + length
    return ".".join(labels) or "."
