"""The DNS queries that a worker has taken, from the moment they come until their answers leave.

A client may ask under one request id again and again, send queries of 65,535 bytes, or not read the
answers: the number and the bytes of all three are bounded here (PROTOCOL.md §5). What is over the
bounds is answered SERVFAIL, which is small, so that a client that does read is never left waiting.
"""

from __future__ import annotations

from .dns_refusal import servfail

__all__ = ["MAX_ANSWER_BYTES", "MAX_QUERY_BYTES", "QueriesInFlight"]

MAX_QUERY_BYTES = 1 << 20
"""Bytes of queries that have no answer yet: 4,096 of the size that stubs send."""
MAX_ANSWER_BYTES = 1 << 20
"""Bytes of answers that wait to leave, as much as of datagrams."""


class QueriesInFlight:
    """The DNS queries of one session of a worker.

    :param most: how many there may be at a time; answers that have not left count.
    """

    __slots__ = ("_answer_bytes", "_asked", "_most", "_number", "_query_bytes")

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked: dict[int, list[int]] = {}  # sizes of the queries without an answer, by id
        self._number = 0
        self._query_bytes = 0
        self._answer_bytes = 0

    def __len__(self) -> int:
        return self._number

    def take(self, request: int, size: int) -> bool:
        """Count a query of ``size`` bytes; False: there are too many already."""
        if self._number >= self._most or self._query_bytes + size > MAX_QUERY_BYTES:
            return False
        self._number += 1
        self._query_bytes += size
        self._asked.setdefault(request, []).append(size)
        return True

    def answer(self, request: int, message: bytes) -> bytes | None:
        """Count an answer; call :meth:`left` with its size when it has left.

        :returns: what to send: ``message``, SERVFAIL if too much waits already, or None for a query
            that is not in flight.
        """
        sizes = self._asked.get(request)
        if sizes is None:
            return None
        self._query_bytes -= sizes.pop()
        if not sizes:
            del self._asked[request]
        if self._answer_bytes + len(message) > MAX_ANSWER_BYTES:
            message = servfail(message)
        self._answer_bytes += len(message)
        return message

    def left(self, size: int) -> None:
        """Note that an answer of ``size`` bytes has left."""
        self._number -= 1
        self._answer_bytes -= size

    def clear(self) -> None:
        """Forget all: the session is over."""
        self._asked.clear()
        self._number = self._query_bytes = self._answer_bytes = 0
