"""The DNS-over-HTTPS client (RFC 8484): HTTP/2 by :mod:`zks_lwip.dns.h2session` over trio's TLS."""

from __future__ import annotations

from collections.abc import Callable

import trio

from zks_lwip.dns.h2session import Answered, DohSession, Event
from zks_lwip.dns.link import Again, Done, Link, LinkedResolver
from zks_lwip.dns.resolver import ResolverError
from zks_lwip.dns.servers import Server
from zks_lwip.dns.wire import Ede, WireError, reduce_ttls

__all__ = ["DohResolver"]


class _DohLink(Link):
    def __init__(self, stream: trio.abc.Stream, rtt: float, server: Server) -> None:
        super().__init__(stream, rtt)
        self._server = server
        self._session = DohSession(server.authority, server.path, get=server.get)
        self._next = 0

    @property
    def usable(self) -> bool:
        return not self.dead and not self._session.dead and not self._session.closing

    @property
    def waiting(self) -> int:
        return self._session.in_flight

    @property
    def capacity(self) -> int:
        return self._session.limit

    def _send(self, query: bytes, done: Done) -> Callable[[], None]:
        token = self._next = self._next + 1
        self._due[token] = done
        self._session.ask(token, query)

        def forget() -> None:
            if self._due.pop(token, None) is not None:
                self._session.cancel(token)

        return forget

    def _received(self, data: bytes) -> None:
        self._finish(self._session.receive(data))
        if self._session.dead:
            self.die(self._session.dead)
        elif self._session.closing and not self._session.in_flight:
            self.die("the server has wound the connection down")

    def _pending(self) -> bytes:
        return self._session.data_to_send()

    def _test(self) -> None:
        self._session.ping()

    def _lost(self, reason: str) -> None:
        self._finish(self._session.fail(reason))

    def _finish(self, events: list[Event]) -> None:
        for event in events:
            done = self._due.pop(event.token)
            if not isinstance(event, Answered):
                text = f"{self._server.host}: {event.reason}"
                done(Again(text) if event.again else ResolverError(text))
            elif not event.age:
                done(event.body)
            else:
                done(self._aged(event))

    def _aged(self, event: Answered) -> bytes | ResolverError:
        try:
            return reduce_ttls(event.body, event.age)
        except WireError as error:
            text = f"a bad answer from {self._server.host}: {error}"
            return ResolverError(text, Ede.INVALID_DATA)


class DohResolver(LinkedResolver):
    """One DNS-over-HTTPS server, asked over one HTTP/2 connection; the context offers "h2"."""

    _alpn = "h2"

    def _make_link(self, stream: trio.abc.Stream, rtt: float) -> Link:
        return _DohLink(stream, rtt, self._server)
