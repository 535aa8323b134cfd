"""A connection of DNS over HTTPS: a :class:`~.doh_session.DohSession` over TLS."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..message.wire import Ede, WireError, reduce_ttls
from .connection import Connection, Retryable
from .doh_session import AnswerReceived, DohSession, Event
from .resolver import OnResult, ResolverError
from .server import Server

__all__ = ["DohConnection"]


class DohConnection(Connection):
    """Queries as requests of one HTTP/2 connection."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        rtt: float,
        server: Server,
        *,
        slowness: Callable[[], float],
        probe_timeout: float,
    ) -> None:
        super().__init__(stream, rtt, slowness=slowness, probe_timeout=probe_timeout)
        self._server = server
        self._session = DohSession(server.authority, server.path, get=server.get)
        self._pending: dict[int, OnResult] = {}
        self._next = 0

    @property
    def usable(self) -> bool:
        return not self.dead and not self._session.dead and not self._session.closing

    @property
    def in_flight(self) -> int:
        return self._session.in_flight

    @property
    def capacity(self) -> int:
        return self._session.limit

    def send_query(self, query: bytes, on_result: OnResult) -> Callable[[], None]:
        token = self._next = self._next + 1
        self._pending[token] = on_result
        self._session.ask(token, query)

        def cancel() -> None:
            if self._pending.pop(token, None) is not None:
                self._session.cancel(token)

        return cancel

    def receive_data(self, data: bytes) -> None:
        self._complete(self._session.receive(data))
        if self._session.dead:
            self.close(self._session.dead)
        elif self._session.closing and not self._session.in_flight:
            self.close("the server has wound the connection down")

    def data_to_send(self) -> bytes:
        return self._session.data_to_send()

    def send_probe(self) -> None:
        self._session.ping()

    def fail_queries(self, reason: str) -> None:
        self._complete(self._session.fail(reason))

    def _complete(self, events: list[Event]) -> None:
        for event in events:
            on_result = self._pending.pop(event.token)
            if not isinstance(event, AnswerReceived):
                text = f"{self._server.host}: {event.reason}"
                on_result(Retryable(text) if event.retry else ResolverError(text))
            elif not event.age:
                on_result(event.body)
            else:
                on_result(self._aged(event))

    def _aged(self, event: AnswerReceived) -> bytes | ResolverError:
        """Lower the TTLs by the time that the answer was in an HTTP cache."""
        try:
            return reduce_ttls(event.body, event.age)
        except WireError as error:
            text = f"a bad answer from {self._server.host}: {error}"
            return ResolverError(text, Ede.INVALID_DATA)
