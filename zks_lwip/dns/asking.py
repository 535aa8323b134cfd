"""Asking the upstreams: one after the other, each with its deadline, the healthy ones first.

Where an upstream has a connection ready, a query costs no task: it is sent at once, the answer
comes as a call, and one sweeper looks after all deadlines. Everything else (connecting, a tunnel
that is down, a second try, the next upstream) is done by a task of that query.

A group of upstreams is asked no more at a time than it can carry. More queries wait here, where
their sources take turns: a program that asks thousands of names does not hold up the others.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial

import trio

from zks_lwip.dns.answer import Answer, answer_from_upstream, servfail
from zks_lwip.dns.fairness import FairQueue
from zks_lwip.dns.intercept import Query, examine
from zks_lwip.dns.link import Again, LinkedResolver
from zks_lwip.dns.resolver import CAPACITY, Gate, NotApplicable, Resolver, ResolverError
from zks_lwip.dns.wire import Ede, WireError, encode_name
from zks_lwip.errors import DnsError

__all__ = ["Asked", "Asker", "Landed"]

logger = logging.getLogger(__name__)

Landed = Callable[[Query, Answer], None]
"""Takes the answer to a query; SERVFAIL if nobody had one."""

PROBE_FIRST, PROBE_LAST = 0.25, 30.0
"""Seconds before an upstream that failed is probed for the first time, and at most."""
_SWEEP = 0.25
_LOOK = 0.05
"""Seconds between two looks at a gate that is waited for: it has no event."""


class _Upstream:
    """A resolver and how it does."""

    __slots__ = ("asked", "failed", "resolver", "suspect")

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.suspect = False
        self.asked = 0
        self.failed = 0


class _Group:
    """Upstreams that are asked one after the other, and the queries that wait for their turn."""

    def __init__(self, upstreams: list[_Upstream]) -> None:
        self.upstreams = upstreams
        self.queue: FairQueue[Asked] = FairQueue()
        self.active = 0

    @property
    def full(self) -> bool:
        """Whether the upstream that is asked first has all that it can carry."""
        first = next((one.resolver for one in self.upstreams if not one.suspect), None)
        return self.active >= (CAPACITY if first is None else max(1, first.capacity))


class Asked:
    """A query that waits for its turn, or is being asked."""

    __slots__ = (
        "begun", "forget", "group", "landed", "over", "patience", "query", "scope", "since",
        "source", "upstream",
    )  # fmt: skip

    def __init__(
        self, query: Query, landed: Landed, source: Hashable, group: _Group, patience: float
    ) -> None:
        self.since = 0.0
        """When it began to wait for its turn, if it had to."""
        self.patience = patience
        """Seconds that it may wait for a gate."""
        self.query = query
        self.landed = landed
        self.source = source
        self.group = group
        self.begun = False
        self.over = False
        self.upstream: _Upstream | None = None
        """The one that was asked at once."""
        self.forget: Callable[[], None] | None = None
        """Tells that upstream that the answer is not waited for any more."""
        self.scope: trio.CancelScope | None = None
        """Holds the task that asks, where there is one."""


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
        self._general = _Group(self._upstreams)
        self._forward: dict[bytes, _Group] = {}
        groups: dict[int, _Group] = {}
        for domain, resolver in forward:
            if id(resolver) not in groups:
                groups[id(resolver)] = _Group([_Upstream(resolver)])
            self._forward[encode_name(domain)] = groups[id(resolver)]
        self._groups = [self._general, *groups.values()]
        self._deadline = deadline
        self._grace = grace
        # Those before it may have to wait for the tunnel.
        self._turn = max(deadline, grace)
        self._first: OrderedDict[Asked, float] = OrderedDict()
        self._queued: OrderedDict[Asked, float] = OrderedDict()
        self._some = trio.Event()
        self._gates: dict[Gate, trio.Event] = {}
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

    def ask(self, query: Query, landed: Landed, source: Hashable = None) -> Asked:
        """Ask for `source`, now or in its turn; `landed` is called once, later.

        :meth:`run` must be running.
        """
        if self._nursery is None:
            raise RuntimeError("DnsService.run() is not running")
        asked = Asked(query, landed, source, self._route(query.name), self._grace)
        if not asked.group.full:
            self._begin(asked)
        else:
            asked.since = trio.current_time()
            asked.group.queue.push(source, asked)
            self._note(self._queued, asked, self._turn)
        return asked

    def cancel(self, asked: Asked) -> None:
        """Give up; `landed` is not called any more."""
        if asked.over:
            return
        forget, scope = asked.forget, asked.scope
        self._finish(asked)
        if forget is not None:
            forget()
        if scope is not None:
            scope.cancel()

    def stats(self) -> dict[str, int]:
        """``asked NAME`` and ``failed NAME`` of every upstream; ``queued``: not asked yet."""
        values = {"queued": sum(len(group.queue) for group in self._groups)}
        for upstream in self._all():
            values[f"asked {upstream.resolver.name}"] = upstream.asked
            values[f"failed {upstream.resolver.name}"] = upstream.failed
        return values

    def _all(self) -> list[_Upstream]:
        return [upstream for group in self._groups for upstream in group.upstreams]

    def _route(self, name: bytes) -> _Group:
        """The upstreams for `name`: those of the longest forwarded domain that it is in."""
        if self._forward:
            position = 0
            while name[position]:
                group = self._forward.get(name[position:])
                if group is not None:
                    return group
                position += name[position] + 1
        return self._general

    def _begin(self, asked: Asked) -> None:
        group = asked.group
        asked.begun = True
        group.active += 1
        if not group.upstreams or not self._start(asked, group.upstreams[0]):
            self._go_on(asked)

    def _finish(self, asked: Asked) -> None:
        """Nothing more comes of it: the next one of its group may be asked."""
        asked.over = True
        asked.forget = asked.scope = None
        self._first.pop(asked, None)
        self._queued.pop(asked, None)
        group = asked.group
        if not asked.begun:
            group.queue.discard(asked.source, asked)
            return
        group.active -= 1
        while group.queue and not group.full and self._nursery is not None:
            following = group.queue.pop()
            del self._queued[following]
            following.patience = max(0.0, self._grace - (trio.current_time() - following.since))
            self._begin(following)

    def _land(self, asked: Asked, answer: Answer) -> None:
        if not asked.over:
            self._finish(asked)
            asked.landed(asked.query, answer)

    def _note(self, table: OrderedDict[Asked, float], asked: Asked, seconds: float) -> None:
        table[asked] = trio.current_time() + seconds
        self._some.set()

    def _start(self, asked: Asked, upstream: _Upstream) -> bool:
        """Send to `upstream` at once; whether that could be done."""
        resolver = upstream.resolver
        if upstream.suspect or not isinstance(resolver, LinkedResolver):
            return False
        if resolver.gate is not None and not resolver.gate.up:
            return False
        message = asked.query.upstream(resolver.size, resolver.padding)
        asked.forget = resolver.start(message, partial(self._came, asked))
        if asked.forget is None:
            return False
        asked.upstream = upstream
        upstream.asked += 1
        self._note(self._first, asked, self._deadline)
        return True

    def _came(self, asked: Asked, result: bytes | DnsError) -> None:
        """An answer, or that there is none, from the upstream that was asked at once."""
        upstream = asked.upstream
        if asked.forget is None or upstream is None:
            raise AssertionError("a query has landed twice")
        asked.forget = None
        self._first.pop(asked, None)
        try:
            if isinstance(result, DnsError):
                raise result
            answer = answer_from_upstream(result, asked.query)
        except Again as error:
            logger.debug("%s: %s", upstream.resolver.name, error)
            self._go_on(asked)
        except (WireError, DnsError) as error:
            self._failed_at_once(asked, upstream, error)
        else:
            self._land(asked, answer)

    def _failed_at_once(self, asked: Asked, upstream: _Upstream, error: Exception) -> None:
        problem = self._problem(upstream, error)
        self._suspect(upstream, problem)
        self._go_on(asked, upstream, problem)

    def _go_on(
        self,
        asked: Asked,
        failed: _Upstream | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        if self._nursery is not None:
            asked.scope = trio.CancelScope()
            self._nursery.start_soon(self._fly, asked, asked.scope, failed, problem)

    async def _sweep(self) -> None:
        """End the first try of each query whose time is up, and those that never had their turn."""
        while True:
            if not self._first and not self._queued:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_SWEEP)
            for asked in _expired(self._first):
                forget, asked.forget = asked.forget, None
                if forget is not None:
                    forget()
                if asked.upstream is not None:
                    self._failed_at_once(asked, asked.upstream, trio.TooSlowError())
            for asked in _expired(self._queued):
                self._land(asked, self._never_asked(asked))

    def _never_asked(self, asked: Asked) -> Answer:
        """Say why a query had no turn in time."""
        group = asked.group
        gate = group.upstreams[0].resolver.gate if group.upstreams else None
        if gate is not None and not gate.up:
            return servfail(asked.query, Ede.NETWORK_ERROR, "the tunnel is down")
        text = f"{group.active} queries before this one wait for their answers"
        return servfail(asked.query, Ede.NO_REACHABLE_AUTHORITY, text)

    async def _fly(
        self,
        asked: Asked,
        scope: trio.CancelScope,
        failed: _Upstream | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        """Ask in a task, which :meth:`cancel` ends."""
        with scope:
            self._land(asked, await self._ask_all(asked, failed, problem))

    async def _ask_all(
        self, asked: Asked, failed: _Upstream | None, problem: ResolverError | None
    ) -> Answer:
        """Ask one after the other, but not `failed`, which had its turn and said `problem`."""
        query = asked.query
        problem = problem or ResolverError("no resolver is configured", Ede.NOT_READY)
        waited: set[int] = set()
        for upstream in sorted(asked.group.upstreams, key=lambda one: one.suspect):
            if upstream is failed:
                continue
            gate = upstream.resolver.gate
            if gate is not None and not gate.up and id(gate) not in waited:
                waited.add(id(gate))
                await self._wait_up(gate, asked.patience)
            if gate is not None and not gate.up:
                problem = ResolverError("the tunnel is down", Ede.NETWORK_ERROR)
                continue
            try:
                return await self._ask(upstream, query)
            except NotApplicable as error:
                logger.debug("%s: %s", upstream.resolver.name, error)
            except ResolverError as error:
                problem = error
                self._suspect(upstream, error)
        return servfail(query, problem.ede, str(problem))

    async def _wait_up(self, gate: Gate, seconds: float) -> None:
        """Wait until `gate` is up or hopeless, at most `seconds`."""
        decided = self._gates.get(gate)
        if decided is None:
            if self._nursery is None:
                return
            decided = self._gates[gate] = trio.Event()
            self._nursery.start_soon(self._look, gate, decided)
        with trio.move_on_after(seconds):
            await decided.wait()

    async def _look(self, gate: Gate, decided: trio.Event) -> None:
        """Look at `gate` for all queries that wait for it."""
        while not gate.up and not gate.hopeless and decided.statistics().tasks_waiting:
            await trio.sleep(_LOOK)
        del self._gates[gate]
        decided.set()

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


def _expired(table: OrderedDict[Asked, float]) -> Iterator[Asked]:
    """Take out those whose time is up; they were added in the order of their deadlines."""
    now = trio.current_time()
    while table:
        asked, deadline = next(iter(table.items()))
        if deadline > now:
            return
        del table[asked]
        yield asked
