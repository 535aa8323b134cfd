"""The service that answers every query: static → blocked → cache → upstreams.

Identical queries in flight are one query upstream. An upstream that fails gives way to the next
one and is asked again only when a probe in the background has been answered. Nothing is ever left
unanswered but what cannot be a query.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from zks_lwip.dns.answer import Answer, answer_from_upstream, servfail
from zks_lwip.dns.cache import Cache
from zks_lwip.dns.intercept import Query, Rejected, examine
from zks_lwip.dns.local import LocalNames
from zks_lwip.dns.resolver import Gate, NotApplicable, Resolver, ResolverError, wait_up
from zks_lwip.dns.wire import MAX_MESSAGE, Ede, WireError, encode_name
from zks_lwip.errors import DnsError

__all__ = ["DnsService"]

logger = logging.getLogger(__name__)

Reply = Callable[[bytes], None]

HOSTS_INTERVAL = 2.0
"""Seconds between two looks at whether /etc/hosts has changed."""
PROBE_FIRST, PROBE_LAST = 0.25, 30.0
"""Seconds before an upstream that failed is probed for the first time, and at most."""


@dataclass(slots=True)
class _Upstream:
    resolver: Resolver
    suspect: bool = False
    asked: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Flight:
    """One query that is being asked, and who waits for it."""

    query: Query
    waiting: list[tuple[Query, int, Reply]] = field(default_factory=list)


class DnsService:
    """Answers DNS messages. One trio thread; :meth:`run` must be running.

    `upstreams` are asked in this order. `static` are texts NAME=ADDRESS, `hosts` is a hosts file
    (None: none), `block` are paths of block lists, `forward` are (domain, resolver) pairs:
    queries for the domain and below go to that resolver alone. `deadline` is the time in seconds
    that one upstream has for one query, `grace` how long a query waits for a tunnel that is down.
    At most `max_flights` different queries are asked at a time, and at most `max_waiting`
    clients' queries wait; more are answered SERVFAIL. Raises
    :class:`~zks_lwip.errors.ConfigError`.
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
        self._local = LocalNames(static=static, hosts=hosts, block=block)
        self._cache = Cache() if cache is None else cache
        self._upstreams = [_Upstream(resolver) for resolver in upstreams]
        self._forward = {encode_name(domain): [_Upstream(resolver)] for domain, resolver in forward}
        self._deadline = deadline
        self._grace = grace
        self._max_flights = max_flights
        self._max_waiting = max_waiting
        self._flights: dict[bytes, _Flight] = {}
        self._waiting = 0
        self._nursery: trio.Nursery | None = None
        self._counters: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Who still waits then is answered SERVFAIL."""
        try:
            async with trio.open_nursery() as nursery:
                for upstream in self._all_upstreams():
                    nursery.start_soon(upstream.resolver.run)
                self._nursery = nursery
                nursery.start_soon(self._watch_hosts)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for flight in list(self._flights.values()):
                self._land(flight, servfail(flight.query, Ede.NOT_READY, "shutting down"))

    def answer_now(self, query: bytes, *, transport: str = "udp") -> bytes | None:
        """Answer at once what needs no upstream. None: call :meth:`submit` or :meth:`answer`,
        which may drop it.
        """
        found = self._now(query, transport)
        return found if isinstance(found, bytes) else None

    def submit(self, query: bytes, reply: Reply, *, transport: str = "udp") -> None:
        """Answer by calling ``reply(message)``, at once or later, once; not at all for what
        cannot be a query.

        `reply` runs in the trio thread, must neither block nor raise.
        """
        found = self._now(query, transport)
        if isinstance(found, bytes):
            reply(found)
        elif found is not None:
            limit = found.size if transport == "udp" else MAX_MESSAGE
            self._board(found, limit, reply)

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

        self._board(found, found.size if transport == "udp" else MAX_MESSAGE, reply)
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
        """Forget what was cached and read the hosts file and block lists again; how many answers
        were forgotten.

        Raises :class:`~zks_lwip.errors.ConfigError` if a block list cannot be read; the old one
        stays in force.
        """
        count = self._cache.flush()
        self._local.reload()
        return count

    def stats(self) -> dict[str, int]:
        """Counters since the start, and a few gauges (cache_entries, in_flight, waiting)."""
        cache = self._cache
        values = dict(self._counters)
        values |= {
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_entries": len(cache),
            "cache_evicted": cache.evicted,
            "blocked_names": self._local.blocked_names,
            "in_flight": len(self._flights),
            "waiting": self._waiting,
        }
        for upstream in self._all_upstreams():
            values[f"asked {upstream.resolver.name}"] = upstream.asked
            values[f"failed {upstream.resolver.name}"] = upstream.failed
        return values

    def _all_upstreams(self) -> list[_Upstream]:
        return self._upstreams + [
            upstream for group in self._forward.values() for upstream in group
        ]

    def _now(self, message: bytes, transport: str) -> bytes | Query | None:
        """An answer; or the query, if it has to be asked; or None, if it is to be dropped."""
        counters = self._counters
        counters[transport] += 1
        query = examine(message)
        if isinstance(query, Rejected):
            counters[f"rejected {query.reason}"] += 1
            return query.reply
        limit = query.size if transport == "udp" else MAX_MESSAGE
        local = self._local.lookup(query)
        if local is not None:
            answer, origin = local
            counters[origin] += 1
            return answer.render(query, limit=limit)
        hit = self._cache.get(query)
        if hit is not None:
            return hit[0].render(query, limit=limit, age=hit[1])
        return query

    def _board(self, query: Query, limit: int, reply: Reply) -> None:
        """Join the flight that asks the same, or start one."""
        flight = self._flights.get(query.key)
        if self._waiting >= self._max_waiting or (
            flight is None and len(self._flights) >= self._max_flights
        ):
            self._counters["overload"] += 1
            reply(servfail(query, Ede.OTHER, "too many queries at once").render(query, limit=limit))
            return
        if flight is not None:
            self._counters["coalesced"] += 1
        elif self._nursery is None:
            raise RuntimeError("DnsService.run() is not running")
        else:
            flight = self._flights[query.key] = _Flight(query)
            self._nursery.start_soon(self._fly, flight)
        flight.waiting.append((query, limit, reply))
        self._waiting += 1

    def _land(self, flight: _Flight, answer: Answer) -> None:
        """Give everyone who waits the answer, as it suits each."""
        del self._flights[flight.query.key]
        self._waiting -= len(flight.waiting)
        if answer.rcode == 2:
            self._counters["servfail"] += 1
        for query, limit, reply in flight.waiting:
            reply(answer.render(query, limit=limit))

    async def _fly(self, flight: _Flight) -> None:
        query = flight.query
        upstreams = self._route(query.name)
        problem = ResolverError("no resolver is configured", Ede.NOT_READY)
        waited: set[int] = set()
        for upstream in sorted(upstreams, key=lambda one: one.suspect):
            gate = upstream.resolver.gate
            if gate is not None and not gate.up and id(gate) not in waited:
                waited.add(id(gate))
                await wait_up(gate, self._grace)
            if gate is not None and not gate.up:
                problem = ResolverError("the tunnel is down", Ede.NETWORK_ERROR)
                continue
            try:
                answer = await self._ask(upstream, query)
            except NotApplicable as error:
                logger.debug("%s: %s", upstream.resolver.name, error)
            except ResolverError as error:
                problem = error
                logger.debug("%s: %s", upstream.resolver.name, error)
                self._suspect(upstream, error)
            else:
                self._cache.put(query, answer)
                self._land(flight, answer)
                return
        self._land(flight, servfail(query, problem.ede, str(problem)))

    async def _ask(self, upstream: _Upstream, query: Query) -> Answer:
        resolver = upstream.resolver
        upstream.asked += 1
        try:
            with trio.fail_after(self._deadline):
                message = await resolver.resolve(query.upstream(resolver.size, resolver.padding))
            return answer_from_upstream(message, query)
        except trio.TooSlowError:
            upstream.failed += 1
            text = f"no answer from {resolver.name} within {self._deadline:g} s"
            raise ResolverError(text, Ede.NO_REACHABLE_AUTHORITY) from None
        except WireError as error:
            upstream.failed += 1
            raise ResolverError(
                f"a bad answer from {resolver.name}: {error}", Ede.INVALID_DATA
            ) from error
        except NotApplicable:
            upstream.asked -= 1
            raise
        except ResolverError:
            upstream.failed += 1
            raise
        except DnsError as error:
            upstream.failed += 1
            raise ResolverError(str(error)) from error

    def _route(self, name: bytes) -> list[_Upstream]:
        """The upstreams for `name`: those of the longest forwarded domain that it is in, else the
        general ones.
        """
        if self._forward:
            position = 0
            while name[position]:
                group = self._forward.get(name[position:])
                if group is not None:
                    return group
                position += name[position] + 1
        return self._upstreams

    def _suspect(self, upstream: _Upstream, error: ResolverError) -> None:
        """Ask it last from now on, until a probe has been answered."""
        if upstream.suspect or self._nursery is None or len(self._upstreams) < 2:
            return
        if upstream not in self._upstreams:
            return
        upstream.suspect = True
        logger.warning(
            "DNS resolver %s failed (%s); the next one is asked first",
            upstream.resolver.name,
            error,
        )
        self._nursery.start_soon(partial(self._probe, upstream))

    async def _probe(self, upstream: _Upstream) -> None:
        """Ask for the root's name servers until that works."""
        probe = examine(b"\0\0\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1")
        if not isinstance(probe, Query):
            raise AssertionError("the probe is a query")
        pause = PROBE_FIRST
        while upstream.suspect:
            await trio.sleep(pause)
            pause = min(pause * 2, PROBE_LAST)
            gate: Gate | None = upstream.resolver.gate
            if gate is not None and not gate.up:
                continue
            try:
                await self._ask(upstream, probe)
            except ResolverError as error:
                logger.debug("%s still fails: %s", upstream.resolver.name, error)
            else:
                upstream.suspect = False
                logger.info("DNS resolver %s answers again", upstream.resolver.name)

    async def _watch_hosts(self) -> None:
        while True:
            await trio.sleep(HOSTS_INTERVAL)
            if await trio.to_thread.run_sync(self._local.refresh_hosts, abandon_on_cancel=True):
                self._counters["hosts_reloaded"] += 1
