"""The service that answers every query: static → blocked → cache → upstreams.

Identical queries in flight are one query upstream. Nothing is ever left unanswered but what cannot
be a query.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from zks_lwip.dns.answer import Answer, servfail
from zks_lwip.dns.asking import Asked, Asker
from zks_lwip.dns.cache import Cache
from zks_lwip.dns.fairness import Shares
from zks_lwip.dns.intercept import Query, Rejected, examine
from zks_lwip.dns.local import LocalNames
from zks_lwip.dns.resolver import Resolver
from zks_lwip.dns.wire import MAX_MESSAGE, Ede, Rcode
from zks_lwip.errors import ConfigError, DnsError

__all__ = ["DnsService"]

logger = logging.getLogger(__name__)

Reply = Callable[[bytes], None]

MAX_DATAGRAM = 16384
"""No answer over UDP is larger, whatever the client takes: it would come in too many fragments."""
LOCAL_REPEATED = 60.0
"""Seconds for which a static or blocked name need not come here again; a change is told."""
MAX_WAITING_BYTES = 16 << 20
"""Bytes of the queries that wait: 1 KiB for each, where a plain one has less than 300."""
HOSTS_INTERVAL = 2.0
"""Seconds between two looks at whether /etc/hosts has changed."""


class Repeater(Protocol):
    """What answers over UDP what has just been asked and answered, below us."""

    @property
    def hits(self) -> int:
        """How often it did."""
        ...

    def put(
        self, key: bytes, answer: bytes, ttls: Sequence[int], age: float, seconds: float
    ) -> None:
        """Take a query and its answer, both without their ids.

        `ttls` are the offsets of the answer's TTLs, to be counted down; they were true `age`
        seconds ago. After `seconds` it is to be forgotten.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


@dataclass(slots=True, eq=False)
class _Flight:
    """One query that is being asked, and who waits for it."""

    query: Query
    asked: Asked
    waiting: dict[_Waiting, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A client's query, and how to answer it."""

    query: Query
    limit: int
    reply: Reply
    flight: _Flight


class DnsService:
    """Answers DNS messages. One trio thread; :meth:`run` must be running.

    `upstreams` are asked in this order. `static` are texts NAME=ADDRESS, `hosts` is a hosts file
    (None: none), `block` are paths of block lists, `forward` are (domain, resolver) pairs:
    queries for the domain and below go to that resolver alone. `deadline` is the time in seconds
    that one upstream has for one query, `grace` how long a query waits for a tunnel that is down.
    At most `max_flights` different queries are asked or queue to be, and at most `max_waiting`
    clients' queries wait for them; beyond, queries of the source that has most are answered
    SERVFAIL. Raises :class:`~zks_lwip.errors.ConfigError`.
    """

    def __init__(
        self,
        upstreams: Sequence[Resolver],
        *,
        static: Iterable[str] = (),
        hosts: str | os.PathLike[str] | None = "/etc/hosts",
        block: Iterable[str | os.PathLike[str]] = (),
        forward: Iterable[tuple[str, Resolver]] = (),
        cache: Cache | None = None,
        deadline: float = 5.0,
        grace: float = 10.0,
        max_flights: int = 4096,
        max_waiting: int = 16384,
    ) -> None:
        forward = tuple(forward)
        self._local = LocalNames(
            static=static, hosts=hosts, block=block, forward=[domain for domain, _ in forward]
        )
        self._cache = Cache() if cache is None else cache
        self._asker = Asker(upstreams, forward, deadline=deadline, grace=grace)
        self._max_flights = max_flights
        self._max_waiting = max_waiting
        self._flights: dict[bytes, _Flight] = {}
        self._flight_shares: Shares[_Flight] = Shares()
        self._waiting: Shares[_Waiting] = Shares()
        self._waiting_bytes = 0
        self._given_way: deque[tuple[_Waiting, Answer]] = deque()
        self._giving_way = False
        self._counters: Counter[str] = Counter()
        self._repeater: Repeater | None = None
        self._reload = trio.Event()

    def repeat_by(self, repeater: Repeater) -> None:
        """From now on have `repeater` give what we have answered from the cache or by ourselves."""
        self._repeater = repeater

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Who still waits then is answered SERVFAIL."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._asker.run)
                nursery.start_soon(self._watch_files)
                task_status.started()
                await trio.sleep_forever()
        finally:
            for flight in list(self._flights.values()):
                query = flight.query
                self._land(query, servfail(query, Ede.NOT_READY, "shutting down"))

    def answer_now(self, query: bytes, *, transport: str = "udp") -> bytes | None:
        """Answer at once what needs no upstream. None: call :meth:`submit` or :meth:`answer`,
        which may drop it.
        """
        found = self._now(query, transport)
        return found if isinstance(found, bytes) else None

    def submit(
        self, query: bytes, reply: Reply, *, transport: str = "udp", source: Hashable = None
    ) -> None:
        """Answer by calling ``reply(message)``, at once or later, once; not at all for what
        cannot be a query.

        `reply` runs in the trio thread, must neither block nor raise. `source` tells clients apart
        that are to have equal shares: an application's address and port.
        """
        found = self._now(query, transport)
        if isinstance(found, bytes):
            reply(found)
        elif found is not None:
            self._join(found, _limit(found, transport), reply, source)

    async def answer(self, query: bytes, *, transport: str = "udp") -> bytes | None:
        """Answer; None for what is to be dropped in silence. `transport` is "udp" or "tcp"."""
        found = self._now(query, transport)
        if not isinstance(found, Query):
            return found
        done = trio.Event()
        answers: list[bytes] = []

        def reply(message: bytes) -> None:
            answers.append(message)
            done.set()

        self._join(found, _limit(found, transport), reply, None)
        await done.wait()
        return answers[0]

    async def resolve(self, query: bytes) -> bytes:
        """The service as a :class:`Resolver`: answer as over TCP. Raises DnsError where a client
        would get silence.
        """
        answer = await self.answer(query, transport="tcp")
        if answer is None:
            raise DnsError("this is not a DNS query")
        return answer

    def flush(self) -> int:
        """Forget what was cached; how many answers that were.

        Hosts file and block lists are then read again, in a thread. A list that cannot be read is
        logged, and what was read before stays in force.
        """
        count = self._cache.flush()
        if self._repeater is not None:
            self._repeater.clear()
        self._reload.set()
        return count

    def stats(self) -> dict[str, int]:
        """Counters since the start, and a few gauges (cache_entries, in_flight, waiting).

        ``repeated`` are answers of the repeater; they are in no other counter.
        """
        cache = self._cache
        values = dict(self._counters)
        values |= {
            "repeated": 0 if self._repeater is None else self._repeater.hits,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_entries": len(cache),
            "cache_evicted": cache.evicted,
            "blocked_names": self._local.blocked_names,
            "in_flight": len(self._flights),
            "waiting": len(self._waiting),
        }
        values |= self._asker.stats()
        return values

    def _now(self, message: bytes, transport: str) -> bytes | Query | None:
        """An answer; or the query, if it has to be asked; or None, if it is to be dropped."""
        counters = self._counters
        counters[transport] += 1
        query = examine(message)
        if isinstance(query, Rejected):
            counters[f"rejected {query.reason}"] += 1
            return query.reply
        limit = _limit(query, transport)
        local = self._local.lookup(query)
        if local is not None:
            answer, origin = local
            counters[origin] += 1
            if self._repeater is not None and transport == "udp":
                self._repeat(message, query, answer, 0, LOCAL_REPEATED)
            return answer.render(query, limit=limit)
        hit = self._cache.get(query)
        if hit is not None:
            answer, age = hit
            if self._repeater is not None and transport == "udp":
                self._repeat(message, query, answer, age, answer.lifetime - age)
            return answer.render(query, limit=limit, age=int(age))
        return query

    def _repeat(
        self, message: bytes, query: Query, answer: Answer, age: float, seconds: float
    ) -> None:
        """Have an answer repeated for as long as it may be kept."""
        # Only where nothing differs between queries but the id: no cookies, no padding.
        if self._repeater and len(message) == len(query.body) + (11 if query.edns else 0):
            rest, ttls = answer.to_repeat(query, limit=_limit(query, "udp"))
            self._repeater.put(message[2:], rest, ttls, age, seconds)

    def _join(self, query: Query, limit: int, reply: Reply, source: Hashable) -> None:
        """Wait for the flight that asks the same, or start one."""
        if not self._make_room(source, query.key in self._flights):
            self._counters["overload"] += 1
            reply(_overload(query).render(query, limit=limit))
            self._answer_given_way()
            return
        flight = self._flights.get(query.key)
        if flight is not None:
            self._counters["coalesced"] += 1
        else:
            flight = _Flight(query, self._asker.ask(query, self._land, source))
            self._flights[query.key] = flight
            self._flight_shares.add(source, flight)
        waiting = _Waiting(query, limit, reply, flight)
        flight.waiting[waiting] = None
        self._waiting.add(source, waiting)
        self._waiting_bytes += query.held
        self._answer_given_way()

    def _make_room(self, source: Hashable, known: bool) -> bool:
        """Whether `source` may wait for one query more, a `known` one or another; answer SERVFAIL
        to what has to give way to it.
        """
        while self._too_many_wait():
            waiting = self._waiting.gives_way(source)
            if waiting is None:
                return False
            self._forget(waiting)
            del waiting.flight.waiting[waiting]
            self._give_way(waiting)
        if not known and len(self._flights) >= self._max_flights:
            flight = self._flight_shares.gives_way(source)
            if flight is None:
                return False
            self._asker.cancel(flight.asked)
            self._end(flight)
            for waiting in flight.waiting:
                self._give_way(waiting)
        return True

    def _too_many_wait(self) -> bool:
        return len(self._waiting) >= self._max_waiting or self._waiting_bytes >= MAX_WAITING_BYTES

    def _forget(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        self._waiting_bytes -= waiting.query.held

    def _give_way(self, waiting: _Waiting) -> None:
        self._counters["overload"] += 1
        self._given_way.append((waiting, _overload(waiting.query)))

    def _answer_given_way(self) -> None:
        """Answer the queries that had to give way.

        An answer may have a TCP connection ask its next query, for which others give way; they are
        answered by the outer call, lest the stack grow with the number of connections.
        """
        if self._giving_way:
            return
        self._giving_way = True
        try:
            while self._given_way:
                waiting, answer = self._given_way.popleft()
                waiting.reply(answer.render(waiting.query, limit=waiting.limit))
        finally:
            self._giving_way = False

    def _end(self, flight: _Flight) -> None:
        """Take a flight, and all who wait for it, out of the tables."""
        del self._flights[flight.query.key]
        self._flight_shares.remove(flight)
        for waiting in flight.waiting:
            self._forget(waiting)

    def _land(self, query: Query, answer: Answer) -> None:
        """Keep the answer, and give it to everyone who waits, as it suits each."""
        flight = self._flights[query.key]
        self._end(flight)
        self._cache.put(query, answer)
        if answer.rcode == Rcode.SERVFAIL:
            self._counters["servfail"] += 1
        for waiting in flight.waiting:
            waiting.reply(answer.render(waiting.query, limit=waiting.limit))

    async def _watch_files(self) -> None:
        """Read hosts file and block lists when told to, the hosts file also when it has changed."""
        while True:
            with trio.move_on_after(HOSTS_INTERVAL) as waiting:
                await self._reload.wait()
            if waiting.cancelled_caught:
                read = self._local.refresh_hosts
            else:
                self._reload = trio.Event()
                read = self._local.reload
            try:
                changed = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            except ConfigError as error:
                logger.warning("%s; what was read before stays in force", error)
                continue
            if changed:
                self._counters["reloaded"] += 1
                if self._repeater is not None:
                    self._repeater.clear()


def _overload(query: Query) -> Answer:
    return servfail(query, Ede.NOT_READY, "too many queries at once")


def _limit(query: Query, transport: str) -> int:
    """How large the answer may be, in bytes."""
    return min(query.size, MAX_DATAGRAM) if transport == "udp" else MAX_MESSAGE
