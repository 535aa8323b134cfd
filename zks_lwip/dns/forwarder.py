"""Queries that have to be asked: identical ones are one query upstream, and all are bounded.

Each source, an application's socket, has an equal share of what may wait. When that is full, the
queries of the source that has most are answered SERVFAIL.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from ..net.fairness import Shares
from ..net.histogram import Histogram
from .message.answer import Answer, servfail
from .message.query import Query
from .message.wire import Ede, Rcode
from .upstream.pool import PendingQuery, UpstreamPool
from .upstream.resolver import Upstream

__all__ = ["Forwarder", "Reply"]

Reply = Callable[[bytes], None]
"""Takes the answer to one client's query; it must neither block nor raise."""

MAX_WAITING_BYTES = 16 << 20
"""Bytes of the clients' queries that wait: 1 KiB for each, where a plain one has less than 300."""


@dataclass(slots=True, eq=False)
class _InFlight:
    """A query that is asked upstream, and the clients that wait for its answer."""

    query: Query
    pending: PendingQuery
    clients: dict[_Client, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Client:
    """A client's query, and how to answer it."""

    query: Query
    limit: int
    reply: Reply
    in_flight: _InFlight
    held: int
    """Bytes of messages that it holds."""


class Forwarder:
    """Asks the upstreams for many clients; :meth:`run` must be running.

    :param upstreams: asked in this order.
    :param forward: pairs of a domain and the upstream that alone is asked for it and below.
    :param on_answer: called with each query that was asked, its answer, and the seconds that it
        took.
    :param deadline: seconds that one upstream has for one query.
    :param grace: seconds that a query waits for a tunnel that is down.
    :param max_in_flight: different queries that are asked or queue to be.
    :param max_waiting: clients' queries that wait for them.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        forward: Iterable[tuple[str, Upstream]],
        on_answer: Callable[[Query, Answer, float], None],
        *,
        deadline: float,
        grace: float,
        max_in_flight: int,
        max_waiting: int,
    ) -> None:
        self._pool = UpstreamPool(upstreams, forward, deadline=deadline, grace=grace)
        self._on_answer = on_answer
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._in_flight: dict[bytes, _InFlight] = {}  # by the query's key
        self._in_flight_shares: Shares[_InFlight] = Shares()
        self._clients: Shares[_Client] = Shares()
        self._waiting_bytes = 0
        self._rejected: deque[tuple[_Client, Answer]] = deque()
        self._rejecting = False
        self._counters: Counter[str] = Counter()
        self.latency = Histogram()
        """Seconds until queries that were asked upstream had an answer."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; what still waits then is answered SERVFAIL."""
        try:
            await self._pool.run(task_status=task_status)
        finally:
            for one in list(self._in_flight.values()):
                self._complete(one.query, servfail(one.query, Ede.NOT_READY, "shutting down"))

    def stats(self) -> dict[str, int]:
        """Return counters since the start (overload, coalesced, servfail, those of the pool) and
        the gauges in_flight and waiting.
        """
        values = dict(self._counters)
        values |= {"in_flight": len(self._in_flight), "waiting": len(self._clients)}
        return values | self._pool.stats()

    def join(self, query: Query, limit: int, reply: Reply, source: Hashable) -> None:
        """Wait for the query in flight that asks the same, or start one.

        :param limit: bytes of the answer at most.
        :param reply: called once, now or later.
        """
        if not self._make_room(source, query.key in self._in_flight):
            self._counters["overload"] += 1
            reply(_overload(query).render(query, limit=limit))
            self._answer_rejected()
            return
        in_flight = self._in_flight.get(query.key)
        if in_flight is not None:
            self._counters["coalesced"] += 1
        else:
            pending = self._pool.query(query, self._complete, source)
            in_flight = _InFlight(query, pending)
            self._in_flight[query.key] = in_flight
            self._in_flight_shares.add(source, in_flight)
        client = _Client(query, limit, reply, in_flight, query.held)
        in_flight.clients[client] = None
        self._clients.add(source, client)
        self._waiting_bytes += client.held
        self._answer_rejected()

    def _make_room(self, source: Hashable, known: bool) -> bool:
        """Reject what has to give way to a query of ``source``; return whether there is room.

        :param known: the same query is in flight already.
        """
        while self._too_many_wait():
            client = self._clients.gives_way(source)
            if client is None:
                return False
            self._remove_client(client)
            del client.in_flight.clients[client]
            self._reject(client)
        if not known and len(self._in_flight) >= self._max_in_flight:
            in_flight = self._in_flight_shares.gives_way(source)
            if in_flight is None:
                return False
            self._pool.cancel(in_flight.pending)
            self._remove(in_flight)
            for client in in_flight.clients:
                self._reject(client)
        return True

    def _too_many_wait(self) -> bool:
        return len(self._clients) >= self._max_waiting or self._waiting_bytes >= MAX_WAITING_BYTES

    def _remove_client(self, client: _Client) -> None:
        self._clients.remove(client)
        self._waiting_bytes -= client.held

    def _remove(self, in_flight: _InFlight) -> None:
        """Take a query in flight, and the clients that wait for it, out of the tables."""
        del self._in_flight[in_flight.query.key]
        self._in_flight_shares.remove(in_flight)
        for client in in_flight.clients:
            self._remove_client(client)

    def _reject(self, client: _Client) -> None:
        self._counters["overload"] += 1
        self._rejected.append((client, _overload(client.query)))

    def _answer_rejected(self) -> None:
        """Answer the queries that had to give way.

        An answer may have a TCP connection ask its next query, for which others give way; they are
        answered by the outer call, lest the stack grow with the number of connections.
        """
        if self._rejecting:
            return
        self._rejecting = True
        try:
            while self._rejected:
                client, answer = self._rejected.popleft()
                client.reply(answer.render(client.query, limit=client.limit))
        finally:
            self._rejecting = False

    def _complete(self, query: Query, answer: Answer) -> None:
        """Give an answer to every client that waits for it, as it suits each."""
        in_flight = self._in_flight[query.key]
        self._remove(in_flight)
        seconds = trio.current_time() - in_flight.pending.begun
        self.latency.add(seconds)
        self._on_answer(query, answer, seconds)
        if answer.rcode == Rcode.SERVFAIL:
            self._counters["servfail"] += 1
        for client in in_flight.clients:
            client.reply(answer.render(client.query, limit=client.limit))


def _overload(query: Query) -> Answer:
    return servfail(query, Ede.NOT_READY, "too many queries at once")
