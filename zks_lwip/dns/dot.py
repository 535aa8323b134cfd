"""The DNS-over-TLS client (RFC 7858): pipelined, answers in any order, matched by id and
question.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from zks_lwip.dns.framing import Deframer, frame
from zks_lwip.dns.link import Again, Done, Link, LinkedResolver

__all__ = ["DotResolver"]

MAX_IN_FLIGHT = 1024
"""Queries of one connection that wait for an answer; the ids are 16 bits."""

MAX_STRAY = 1024
"""Messages that answer no query of ours, since the last one that did: late answers are so many at
most.
"""

_PROBE = b"\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # without its id: RD, ". NS IN"


class _DotLink(Link):
    def __init__(self, stream: trio.abc.Stream, rtt: float) -> None:
        super().__init__(stream, rtt)
        self._deframer = Deframer()
        self._to_send: list[bytes] = []
        self._next = 0
        self._stray = 0

    @property
    def usable(self) -> bool:
        return not self.dead and len(self._due) < MAX_IN_FLIGHT

    @property
    def waiting(self) -> int:
        return len(self._due)

    def _send(self, query: bytes, done: Done) -> Callable[[], None]:
        ident = self._ident()
        self._due[ident] = done
        self._to_send.append(frame(ident.to_bytes(2, "big") + query[2:]))

        def forget() -> None:
            if self._due.get(ident) is done:
                del self._due[ident]

        return forget

    def _received(self, data: bytes) -> None:
        for message in self._deframer.feed(data):
            ident = int.from_bytes(message[:2], "big") if len(message) >= 12 else -1
            done = self._due.pop(ident, None)
            # None: the answer to a query whose time was up, to a probe, or to nothing.
            if done is not None:
                self._stray = 0
                done(b"\0\0" + message[2:])
                continue
            self._stray += 1
            if self._stray > MAX_STRAY:
                self.die("the server sends messages that answer nothing")
                return

    def _pending(self) -> bytes:
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    def _test(self) -> None:
        """There is no ping: ask for the root's name servers. Whatever comes is a sign of life."""
        self._to_send.append(frame(self._ident().to_bytes(2, "big") + _PROBE))

    def _ident(self) -> int:
        while (ident := self._next & 0xFFFF) in self._due:
            self._next += 1
        self._next += 1
        return ident

    def _lost(self, reason: str) -> None:
        waiting = list(self._due.values())
        self._due.clear()
        for done in waiting:
            done(Again(reason))


class DotResolver(LinkedResolver):
    """One DNS-over-TLS server. The context may offer "dot"; servers need not know it."""

    def _make_link(self, stream: trio.abc.Stream, rtt: float) -> Link:
        return _DotLink(stream, rtt)
