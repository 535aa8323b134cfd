"""Asking the upstreams: one after the other, each with its deadline, the healthy ones first.

Where an upstream has a connection ready, a query costs no task: it is sent at once, the answer
comes as a call, and one sweeper looks after all deadlines. Everything else (connecting, a tunnel
that is down, a second try, the next upstream) is done by a task of that query.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio

from zks_lwip.dns.answer import Answer, answer_from_upstream, servfail
from zks_lwip.dns.intercept import Query, examine
from zks_lwip.dns.link import Again, LinkedResolver
from zks_lwip.dns.resolver import NotApplicable, Resolver, ResolverError, wait_up
from zks_lwip.dns.wire import Ede, WireError, encode_name
from zks_lwip.errors import DnsError

__all__ = ["Asker", "Landed"]

logger = logging.getLogger(__name__)

Landed = Callable[[Query, Answer], None]
"""Takes the answer to a query; SERVFAIL if nobody had one."""

PROBE_FIRST, PROBE_LAST = 0.25, 30.0
"""Seconds before an upstream that failed is probed for the first time, and at most."""
_SWEEP = 0.25


class _Upstream:
    """A resolver and how it does."""

    __slots__ = ("asked", "failed", "resolver", "suspect")

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.suspect = False
        self.asked = 0
        self.failed = 0


class _Flight:
    """A query that is with its first upstream."""

    __slots__ = ("deadline", "forget", "landed", "query", "upstream")

    def __init__(
        self, query: Query, landed: Landed | None, upstream: _Upstream, deadline: float
    ) -> None:
        self.query = query
        self.landed = landed
        """None once it is over."""
        self.upstream = upstream
        self.deadline = deadline
        self.forget: Callable[[], None] | None = None


class Asker:
    """The upstreams. The arguments are those of :class:`~zks_lwip.dns.service.DnsService`."""

    def __init__(
        self,
        upstreams: Sequence[Resolver],
        forward: Iterable[tuple[str, Resolver]],
        *,
        deadline: float,
        grace: float,
    ) -> None:
        self._upstreams = [_Upstream(resolver) for resolver in upstreams]
        self._forward = {encode_name(domain): [_Upstream(resolver)] for domain, resolver in forward}
        self._deadline = deadline
        self._grace = grace
        self._flights: deque[_Flight] = deque()
        self._some = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; nobody is told of the queries that are then under way."""
        try:
            async with trio.open_nursery() as nursery:
                for upstream in self._all():
                    nursery.start_soon(upstream.resolver.run)
                nursery.start_soon(self._sweep)
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def ask(self, query: Query, landed: Landed) -> None:
        """Ask; `landed` is called once, later. :meth:`run` must be running."""
        if self._nursery is None:
            raise RuntimeError("DnsService.run() is not running")
        upstreams = self._route(query.name)
        if not upstreams or not self._start(query, landed, upstreams[0]):
            self._nursery.start_soon(self._fly, query, landed)

    def stats(self) -> dict[str, int]:
        """``asked NAME`` and ``failed NAME`` of every upstream."""
        values = {}
        for upstream in self._all():
            values[f"asked {upstream.resolver.name}"] = upstream.asked
            values[f"failed {upstream.resolver.name}"] = upstream.failed
        return values

    def _all(self) -> list[_Upstream]:
        return self._upstreams + [one for group in self._forward.values() for one in group]

    def _route(self, name: bytes) -> list[_Upstream]:
        """The upstreams for `name`: those of the longest forwarded domain that it is in."""
        if self._forward:
            position = 0
            while name[position]:
                group = self._forward.get(name[position:])
                if group is not None:
                    return group
                position += name[position] + 1
        return self._upstreams

    def _start(self, query: Query, landed: Landed, upstream: _Upstream) -> bool:
        """Send to `upstream` at once; whether that could be done."""
        resolver = upstream.resolver
        if upstream.suspect or not isinstance(resolver, LinkedResolver):
            return False
        if resolver.gate is not None and not resolver.gate.up:
            return False
        flight = _Flight(query, landed, upstream, trio.current_time() + self._deadline)
        message = query.upstream(resolver.size, resolver.padding)
        flight.forget = resolver.start(message, partial(self._came, flight))
        if flight.forget is None:
            return False
        upstream.asked += 1
        if not self._flights:
            self._some.set()
        self._flights.append(flight)
        return True

    def _came(self, flight: _Flight, result: bytes | DnsError) -> None:
        """An answer, or that there is none, from the upstream that was asked at once."""
        landed, flight.landed = flight.landed, None
        if landed is None:
            raise AssertionError("a query has landed twice")
        try:
            if isinstance(result, DnsError):
                raise result
            answer = answer_from_upstream(result, flight.query)
        except Again as error:
            logger.debug("%s: %s", flight.upstream.resolver.name, error)
            self._go_on(flight.query, landed)
        except (WireError, DnsError) as error:
            self._failed_at_once(flight, landed, error)
        else:
            landed(flight.query, answer)

    def _failed_at_once(self, flight: _Flight, landed: Landed, error: Exception) -> None:
        problem = self._problem(flight.upstream, error)
        self._suspect(flight.upstream, problem)
        self._go_on(flight.query, landed, flight.upstream, problem)

    def _go_on(
        self,
        query: Query,
        landed: Landed,
        failed: _Upstream | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._fly, query, landed, failed, problem)

    async def _sweep(self) -> None:
        """End the first try of each query whose time is up."""
        flights = self._flights
        while True:
            while flights and flights[0].landed is None:
                flights.popleft()
            if not flights:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_SWEEP)
            now = trio.current_time()
            while flights and (flights[0].landed is None or flights[0].deadline <= now):
                flight = flights.popleft()
                landed, flight.landed = flight.landed, None
                if landed is not None:
                    if flight.forget is not None:
                        flight.forget()
                    self._failed_at_once(flight, landed, trio.TooSlowError())

    async def _fly(
        self,
        query: Query,
        landed: Landed,
        failed: _Upstream | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        """Ask one after the other, but not `failed`, which had its turn and said `problem`."""
        problem = problem or ResolverError("no resolver is configured", Ede.NOT_READY)
        waited: set[int] = set()
        for upstream in sorted(self._route(query.name), key=lambda one: one.suspect):
            if upstream is failed:
                continue
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
                self._suspect(upstream, error)
            else:
                landed(query, answer)
                return
        landed(query, servfail(query, problem.ede, str(problem)))

    async def _ask(self, upstream: _Upstream, query: Query) -> Answer:
        resolver = upstream.resolver
        upstream.asked += 1
        try:
            with trio.fail_after(self._deadline):
                message = await resolver.resolve(query.upstream(resolver.size, resolver.padding))
            return answer_from_upstream(message, query)
        except NotApplicable:
            upstream.asked -= 1
            raise
        except (trio.TooSlowError, WireError, DnsError) as error:
            raise self._problem(upstream, error) from error

    def _problem(self, upstream: _Upstream, error: Exception) -> ResolverError:
        """Count a failure, and say it in terms of DNS."""
        upstream.failed += 1
        name = upstream.resolver.name
        if isinstance(error, ResolverError):
            problem = error
        elif isinstance(error, trio.TooSlowError):
            text = f"no answer from {name} within {self._deadline:g} s"
            problem = ResolverError(text, Ede.NO_REACHABLE_AUTHORITY)
        elif isinstance(error, WireError):
            problem = ResolverError(f"a bad answer from {name}: {error}", Ede.INVALID_DATA)
        else:
            problem = ResolverError(str(error))
        logger.debug("%s: %s", name, problem)
        return problem

    def _suspect(self, upstream: _Upstream, error: ResolverError) -> None:
        """Ask it last from now on, until a probe has been answered."""
        if upstream.suspect or self._nursery is None:
            return
        if len(self._upstreams) < 2 or upstream not in self._upstreams:
            return
        upstream.suspect = True
        name = upstream.resolver.name
        logger.warning("DNS resolver %s failed (%s); the next one is asked first", name, error)
        self._nursery.start_soon(self._probe, upstream)

    async def _probe(self, upstream: _Upstream) -> None:
        """Ask for the root's name servers until that works."""
        probe = examine(b"\0\0\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1")
        if not isinstance(probe, Query):
            raise AssertionError("the probe is a query")
        pause = PROBE_FIRST
        while upstream.suspect:
            await trio.sleep(pause)
            pause = min(pause * 2, PROBE_LAST)
            gate = upstream.resolver.gate
            if gate is not None and not gate.up:
                continue
            try:
                await self._ask(upstream, probe)
            except ResolverError as error:
                logger.debug("%s still fails: %s", upstream.resolver.name, error)
            else:
                upstream.suspect = False
                logger.info("DNS resolver %s answers again", upstream.resolver.name)
