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

from ...errors import DnsError
from ...net.fairness import RoundRobinQueue
from ..message.answer import Answer, answer_from_upstream, servfail
from ..message.query import Query
from ..message.wire import Ede, WireError, encode_name
from .connection import Retryable
from .gates import GateWatcher, is_open
from .member import Member
from .resolver import CAPACITY, Gate, NotApplicable, ResolverError, Upstream

__all__ = ["OnAnswer", "PendingQuery", "UpstreamPool"]

_log = logging.getLogger(__name__)

OnAnswer = Callable[[Query, Answer], None]
"""Takes the answer to a query; SERVFAIL if no upstream had one."""

SWEEP_INTERVAL = 0.25
"""Seconds between two looks for queries whose time is up."""


class _Group:
    """Upstreams that are asked one after the other, and the queries that wait for their turn."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.queue: RoundRobinQueue[PendingQuery] = RoundRobinQueue()
        self.active = 0

    @property
    def full(self) -> bool:
        """Whether the upstream that is asked first has all that it can carry."""
        for member in self.members:
            if not member.suspect:
                return self.active >= max(1, member.upstream.capacity)
        return self.active >= CAPACITY


class PendingQuery:
    """A query that waits for its turn, or is being asked."""

    __slots__ = (
        "begun", "cancel_request", "finished", "group", "member", "on_answer", "patience", "query",
        "scope", "source", "started",
    )  # fmt: skip

    def __init__(
        self, query: Query, on_answer: OnAnswer, source: Hashable, group: _Group, patience: float
    ) -> None:
        self.query = query
        self.on_answer = on_answer
        self.source = source
        self.group = group
        self.patience = patience
        """Seconds that it may wait for a gate."""
        self.begun = trio.current_time()
        """When it was asked, or began to wait for its turn (``trio.current_time``)."""
        self.started = False
        self.finished = False
        self.member: Member | None = None
        """The one that was asked at once."""
        self.cancel_request: Callable[[], None] | None = None
        """Gives up what that one was asked."""
        self.scope: trio.CancelScope | None = None
        """Holds the task that asks, where there is one."""


class UpstreamPool:
    """The upstreams, asked one after the other.

    :param upstreams: for every name that is in no domain of ``forward``; may be empty.
    :param forward: domains, each with the upstream that is asked for its names.
    :param deadline: seconds that each upstream has for an answer.
    :param grace: seconds that a query may wait for a tunnel that is down.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        forward: Iterable[tuple[str, Upstream]],
        *,
        deadline: float,
        grace: float,
    ) -> None:
        self._general = _Group([Member(upstream, deadline) for upstream in upstreams])
        self._forward: dict[bytes, _Group] = {}
        groups: dict[int, _Group] = {}
        for domain, upstream in forward:
            if id(upstream) not in groups:
                groups[id(upstream)] = _Group([Member(upstream, deadline)])
            self._forward[encode_name(domain)] = groups[id(upstream)]
        self._groups = [self._general, *groups.values()]
        self._deadline = deadline
        self._grace = grace
        # In seconds. The queries before it may have to wait for the tunnel.
        self._queue_time = max(deadline, grace)
        self._asked: OrderedDict[PendingQuery, float] = OrderedDict()  # at once; by deadline
        self._queued: OrderedDict[PendingQuery, float] = OrderedDict()  # by deadline
        self._deadline_added = trio.Event()
        self._gates = GateWatcher()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; the queries that are then under way get no answer."""
        try:
            async with trio.open_nursery() as nursery:
                for member in self._all():
                    nursery.start_soon(member.upstream.run)
                nursery.start_soon(self._sweep)
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def query(self, query: Query, on_answer: OnAnswer, source: Hashable = None) -> PendingQuery:
        """Ask for ``source``, now or in its turn; ``on_answer`` is called once, later.

        :raises RuntimeError: :meth:`run` is not running.
        """
        if self._nursery is None:
            raise RuntimeError("UpstreamPool.run() is not running")
        pending = PendingQuery(query, on_answer, source, self._route(query.name), self._grace)
        if not pending.group.full:
            self._begin(pending, pending.begun)
        else:
            pending.group.queue.push(source, pending)
            self._add_deadline(self._queued, pending, pending.begun + self._queue_time)
        return pending

    def cancel(self, pending: PendingQuery) -> None:
        """Give a query up; its ``on_answer`` is not called any more."""
        if pending.finished:
            return
        cancel_request, scope = pending.cancel_request, pending.scope
        self._finish(pending)
        if cancel_request is not None:
            cancel_request()
        if scope is not None:
            scope.cancel()

    def stats(self) -> dict[str, int]:
        """Return ``asked NAME`` and ``failed NAME`` of each upstream; ``queued``: not asked yet."""
        values = {"queued": sum(len(group.queue) for group in self._groups)}
        for member in self._all():
            values[f"asked {member.upstream.name}"] = member.asked
            values[f"failed {member.upstream.name}"] = member.failed
        return values

    def _all(self) -> list[Member]:
        return [member for group in self._groups for member in group.members]

    def _route(self, name: bytes) -> _Group:
        """Return the group for ``name``: that of the longest forwarded domain that it is in."""
        if self._forward:
            position = 0
            while name[position]:
                group = self._forward.get(name[position:])
                if group is not None:
                    return group
                position += name[position] + 1
        return self._general

    def _begin(self, pending: PendingQuery, now: float) -> None:
        group = pending.group
        pending.started = True
        group.active += 1
        if not group.members or not self._ask_at_once(pending, group.members[0], now):
            self._ask_in_task(pending)

    def _finish(self, pending: PendingQuery) -> None:
        """Take a query out of the tables, and begin with the next ones of its group."""
        pending.finished = True
        pending.cancel_request = pending.scope = None
        self._asked.pop(pending, None)
        self._queued.pop(pending, None)
        group = pending.group
        if not pending.started:
            group.queue.discard(pending.source, pending)
            return
        group.active -= 1
        while group.queue and not group.full and self._nursery is not None:
            following = group.queue.pop()
            del self._queued[following]
            now = trio.current_time()
            following.patience = max(0.0, self._grace - (now - following.begun))
            self._begin(following, now)

    def _complete(self, pending: PendingQuery, answer: Answer) -> None:
        if not pending.finished:
            self._finish(pending)
            pending.on_answer(pending.query, answer)

    def _add_deadline(
        self, table: OrderedDict[PendingQuery, float], pending: PendingQuery, deadline: float
    ) -> None:
        table[pending] = deadline
        self._deadline_added.set()

    def _ask_at_once(self, pending: PendingQuery, member: Member, now: float) -> bool:
        """Ask without a task, if there is a connection; return whether that could be done."""
        pending.cancel_request = member.start_query(
            pending.query, partial(self._on_result, pending)
        )
        if pending.cancel_request is None:
            return False
        pending.member = member
        self._add_deadline(self._asked, pending, now + self._deadline)
        return True

    def _on_result(self, pending: PendingQuery, result: bytes | DnsError) -> None:
        """Take what the upstream that was asked at once answers."""
        member = pending.member
        if pending.cancel_request is None or member is None:
            raise AssertionError("a query was answered twice")
        pending.cancel_request = None
        self._asked.pop(pending, None)
        try:
            if isinstance(result, DnsError):
                raise result
            answer = answer_from_upstream(result, pending.query)
        except Retryable as error:
            _log.debug("%s: %s", member.upstream.name, error)
            self._ask_in_task(pending)
        except (WireError, DnsError) as error:
            self._fail_at_once(pending, member, error)
        else:
            self._complete(pending, answer)

    def _fail_at_once(self, pending: PendingQuery, member: Member, error: Exception) -> None:
        problem = member.count_failure(error)
        self._suspect(member, problem)
        self._ask_in_task(pending, member, problem)

    def _ask_in_task(
        self,
        pending: PendingQuery,
        failed: Member | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        if self._nursery is not None:
            pending.scope = trio.CancelScope()
            self._nursery.start_soon(self._run_query, pending, pending.scope, failed, problem)

    async def _sweep(self) -> None:
        """End the first try of each query whose time is up, and those that had no turn."""
        while True:
            if not self._asked and not self._queued:
                self._deadline_added = trio.Event()
                await self._deadline_added.wait()
            await trio.sleep(SWEEP_INTERVAL)
            for pending in _expired(self._asked):
                cancel_request, pending.cancel_request = pending.cancel_request, None
                if cancel_request is not None:
                    cancel_request()
                member = pending.member
                if member is None:
                    continue
                gate = member.upstream.gate
                if gate is None or is_open(gate):
                    self._fail_at_once(pending, member, trio.TooSlowError())
                else:  # not that member's fault: it is asked again when it can be
                    pending.patience = max(0.0, pending.patience - self._deadline)
                    self._ask_in_task(pending)
            for pending in _expired(self._queued):
                self._complete(pending, self._never_asked(pending))

    def _never_asked(self, pending: PendingQuery) -> Answer:
        """Say why a query had no turn in time."""
        group = pending.group
        gate = group.members[0].upstream.gate if group.members else None
        if gate is not None and not gate.up:
            return servfail(pending.query, Ede.NETWORK_ERROR, "the tunnel is down")
        text = f"{group.active} queries before this one wait for their answers"
        return servfail(pending.query, Ede.NO_REACHABLE_AUTHORITY, text)

    async def _run_query(
        self,
        pending: PendingQuery,
        scope: trio.CancelScope,
        failed: Member | None = None,
        problem: ResolverError | None = None,
    ) -> None:
        """Ask in a task, which :meth:`cancel` ends."""
        with scope:
            self._complete(pending, await self._ask_all(pending, failed, problem))

    async def _ask_all(
        self, pending: PendingQuery, failed: Member | None, problem: ResolverError | None
    ) -> Answer:
        """Ask one after the other, but not ``failed``, which had its turn and said ``problem``."""
        query = pending.query
        problem = problem or ResolverError("no resolver is configured", Ede.NOT_READY)
        waited: set[int] = set()
        for member in sorted(pending.group.members, key=lambda one: one.suspect):
            if member is failed:
                continue
            gate = member.upstream.gate
            if gate is not None and not is_open(gate) and id(gate) not in waited:
                waited.add(id(gate))
                await self._wait_for(gate, pending)
            if gate is not None and not gate.up:
                problem = ResolverError("the tunnel is down", Ede.NETWORK_ERROR)
                continue
            if gate is not None and gate.silent and pending.member is not None:
                problem = ResolverError("nothing is heard by the tunnel", Ede.NETWORK_ERROR)
                continue
            try:
                return await self._ask_member(member, pending)
            except NotApplicable as error:
                _log.debug("%s: %s", member.upstream.name, error)
            except ResolverError as error:
                problem = error
                self._suspect(member, error)
        return servfail(query, problem.ede, str(problem))

    async def _ask_member(self, member: Member, pending: PendingQuery) -> Answer:
        """Ask one, and once more where the tunnel was silent meanwhile, when that is over.

        :raises ResolverError: as :meth:`Member.ask`.
        """
        gate, begun = member.upstream.gate, trio.current_time()
        try:
            return await member.ask(pending.query)
        except ResolverError as error:
            if gate is None or is_open(gate) or isinstance(error, NotApplicable):
                raise
            pending.patience = max(0.0, pending.patience - (trio.current_time() - begun))
            await self._wait_for(gate, pending)
            if not is_open(gate):
                raise
        return await member.ask(pending.query)

    async def _wait_for(self, gate: Gate, pending: PendingQuery) -> None:
        """Wait for a gate, as long as the query still may."""
        begun = trio.current_time()
        if self._nursery is not None:
            await self._gates.wait(self._nursery, gate, pending.patience)
        pending.patience = max(0.0, pending.patience - (trio.current_time() - begun))

    def _suspect(self, member: Member, error: ResolverError) -> None:
        """Ask it last from now on, until a probe has been answered."""
        if member.suspect or self._nursery is None:
            return
        general = self._general.members
        if len(general) < 2 or member not in general:
            return
        member.suspect = True
        name = member.upstream.name
        _log.warning("DNS resolver %s failed (%s); the next one is asked first", name, error)
        self._nursery.start_soon(member.probe)


def _expired(table: OrderedDict[PendingQuery, float]) -> Iterator[PendingQuery]:
    """Take out the queries whose time is up; they are in the order of their deadlines."""
    now = trio.current_time()
    while table:
        pending, deadline = next(iter(table.items()))
        if deadline > now:
            return
        del table[pending]
        yield pending
