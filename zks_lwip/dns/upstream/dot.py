"""DNS over TLS (RFC 7858): pipelined; answers come in any order and are matched by id."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..message.framing import Deframer, frame
from .connection import Connection, Retryable
from .encrypted import EncryptedResolver
from .resolver import OnResult

__all__ = ["DotResolver"]

MAX_IN_FLIGHT = 1024
"""Queries of one connection that wait for an answer; the ids are 16 bits."""

MAX_STRAY = 1024
"""Messages that answer no query, since the last one that did: late answers are so many at most.
"""

_PROBE = b"\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # without its id: RD, ". NS IN"


class _DotConnection(Connection):
    def __init__(
        self,
        stream: trio.abc.Stream,
        rtt: float,
        *,
        slowness: Callable[[], float],
        probe_timeout: float,
    ) -> None:
        super().__init__(stream, rtt, slowness=slowness, probe_timeout=probe_timeout)
        self._pending: dict[int, OnResult] = {}
        self._deframer = Deframer()
        self._to_send: list[bytes] = []
        self._next = 0
        self._stray = 0

    @property
    def usable(self) -> bool:
        return not self.dead and len(self._pending) < MAX_IN_FLIGHT

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def send_query(self, query: bytes, on_result: OnResult) -> Callable[[], None]:
        ident = self._ident()
        self._pending[ident] = on_result
        self._to_send.append(frame(ident.to_bytes(2, "big") + query[2:]))

        def cancel() -> None:
            if self._pending.get(ident) is on_result:
                del self._pending[ident]

        return cancel

    def receive_data(self, data: bytes) -> None:
        for message in self._deframer.feed(data):
            ident = int.from_bytes(message[:2], "big") if len(message) >= 12 else -1
            on_result = self._pending.pop(ident, None)
            # None: the answer to a query whose time was up, to a probe, or to nothing.
            if on_result is not None:
                self._stray = 0
                on_result(b"\0\0" + message[2:])
                continue
            self._stray += 1
            if self._stray > MAX_STRAY:
                self.close("the server sends messages that answer nothing")
                return

    def data_to_send(self) -> bytes:
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    def send_probe(self) -> None:
        """Ask for the root's name servers: there is no ping."""
        self._to_send.append(frame(self._ident().to_bytes(2, "big") + _PROBE))

    def _ident(self) -> int:
        while (ident := self._next & 0xFFFF) in self._pending:
            self._next += 1
        self._next += 1
        return ident

    def fail_queries(self, reason: str) -> None:
        pending = list(self._pending.values())
        self._pending.clear()
        for on_result in pending:
            on_result(Retryable(reason))


class DotResolver(EncryptedResolver):
    """One DNS-over-TLS server."""

    title = "DNS over TLS"
    default_port = 853
    alpn = "dot"
    alpn_required = False  # RFC 7858 came before the name; most servers do not know it

    def make_connection(self, stream: trio.abc.Stream, rtt: float) -> Connection:
        return _DotConnection(
            stream, rtt, slowness=self.slowness, probe_timeout=self.timeouts.probe
        )
