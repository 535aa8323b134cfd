"""Notices TLS that gets no TLS back, as on port 443 of an original Worker (PROTOCOL.md §9).

That worker connects to nothing there: it says CONNECTED, reads what comes as an HTTP request, and
fetches that. Applications only see TLS that fails, so the log has to say why.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .peers import StreamPeer, TunnelStream

__all__ = ["PORT", "HttpsStream"]

PORT = 443

_HANDSHAKE = 0x16  # the content type of a ClientHello and of a ServerHello (RFC 8446 §5.1)
_ALERT = 0x15


class _FirstAnswer:
    """The application's end of a stream, until the far end has said its first word."""

    def __init__(self, peer: StreamPeer, no_tls: Callable[[], None], patience: float) -> None:
        self.peer = peer
        self.stream: TunnelStream | None = None
        self._no_tls = no_tls
        self._patience = patience
        self._asked: float | None = None  # when a ClientHello left

    def pull_into(self, view: memoryview) -> int | None:
        count = self.peer.pull_into(view)
        if count and self._asked is None:
            if view[0] == _HANDSHAKE:
                self._asked = trio.current_time()
            else:
                self._done()
        return count

    def on_connected(self) -> None:
        self.peer.on_connected()

    def on_data(self, payload: memoryview) -> None:
        self._answered(payload[0] in (_HANDSHAKE, _ALERT))
        self.peer.on_data(payload)

    def on_eof(self) -> None:
        self._answered(False)
        self.peer.on_eof()

    def on_end(self, code: int, message: str) -> None:
        if code != 503:  # a lost session says nothing about the far end
            self._answered(False)
        self.peer.on_end(code, message)

    def abandoned(self) -> None:
        """The application has closed the stream."""
        if self._asked is not None and trio.current_time() - self._asked >= self._patience:
            self._answered(False)

    def _answered(self, by_tls: bool) -> None:
        if self._asked is not None and not by_tls:
            self._no_tls()
        self._done()

    def _done(self) -> None:
        self._asked = None
        if self.stream is not None:
            self.stream.peer = self.peer


class HttpsStream(TunnelStream):
    """A stream to port 443 over v1.

    :param no_tls: called if TLS was asked and did not answer.
    :param patience: seconds without an answer after which an application that gives up tells, too.
    """

    __slots__ = ("_first",)

    def __init__(
        self,
        host: str,
        port: int,
        peer: StreamPeer,
        deadline: float,
        pool_forget: Callable[[TunnelStream], None],
        no_tls: Callable[[], None],
        patience: float,
    ) -> None:
        self._first = _FirstAnswer(peer, no_tls, patience)
        super().__init__(host, port, self._first, deadline, pool_forget)
        self._first.stream = self

    def close(self) -> None:
        if not self.over:
            self._first.abandoned()
        super().close()
