"""DNS answers that the pump repeats by itself, in C, without waking Python."""

from __future__ import annotations

from collections.abc import Sequence

from zks_lwip._lwip import lib
from zks_lwip.stack._stack import Stack

__all__ = ["HotAnswers"]


class HotAnswers:
    """What has just been answered, by the bytes of the query after its id.

    A UDP datagram to port 53, of whatever address, that is any two bytes and then a key that was
    put here is answered by the same two bytes and the answer, its TTLs counted down, until its time
    is up.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    @property
    def hits(self) -> int:
        """Datagrams answered so far."""
        return int(lib.zks_hot_hits(self._stack._core))

    def put(
        self, key: bytes, answer: bytes, ttls: Sequence[int], age: float, seconds: float
    ) -> None:
        """Remember `answer` (without its id) for `seconds`; an older one may have to go.

        `ttls` are the offsets of its TTLs, which were true `age` seconds ago. Keys over 512 bytes,
        answers over 1230 and more than 64 TTLs are not taken.
        """
        if seconds > 0:
            lib.zks_hot_put(
                self._stack._core,
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
        """Forget everything."""
        lib.zks_hot_clear(self._stack._core)
