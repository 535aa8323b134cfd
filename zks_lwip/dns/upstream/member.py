"""An upstream of the pool, and how it does: queries and failures are counted, health is probed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ...errors import DnsError
from ...net.backoff import Backoff
from ..message.answer import Answer, answer_from_upstream
from ..message.query import Query, examine
from ..message.wire import Ede, WireError
from .resolver import NotApplicable, OnResult, ResolverError, Upstream

__all__ = ["Member"]

_log = logging.getLogger(__name__)

MIN_PROBE_INTERVAL, MAX_PROBE_INTERVAL = 0.25, 30.0
"""Seconds before an upstream that failed is probed: at first, and at most."""


class Member:
    """An upstream, with its counters and its health.

    :param deadline: seconds that it has for an answer.
    """

    __slots__ = ("_deadline", "asked", "failed", "suspect", "upstream")

    def __init__(self, upstream: Upstream, deadline: float) -> None:
        self.upstream = upstream
        self._deadline = deadline
        self.suspect = False
        """It failed, and has not answered a probe since: the others are asked first."""
        self.asked = 0
        """Queries that it was given."""
        self.failed = 0
        """Of these, those that it did not answer."""

    @property
    def gate_up(self) -> bool:
        """Whether what must be up before it can be asked is up."""
        gate = self.upstream.gate
        return gate is None or gate.up

    def start_query(self, query: Query, on_result: OnResult) -> Callable[[], None] | None:
        """Ask at once, without a task; the caller sees to the deadline.

        :returns: as :meth:`.Upstream.start_query`; None: nothing has been done.
        """
        upstream = self.upstream
        if self.suspect or not self.gate_up:
            return None
        message = query.upstream(upstream.size, upstream.padding)
        cancel = upstream.start_query(message, on_result)
        if cancel is not None:
            self.asked += 1
        return cancel

    async def ask(self, query: Query) -> Answer:
        """Ask, within the deadline.

        :raises NotApplicable: it is not for this case.
        :raises ResolverError: it did not answer; the failure is counted.
        """
        upstream = self.upstream
        self.asked += 1
        try:
            with trio.fail_after(self._deadline):
                message = await upstream.resolve(query.upstream(upstream.size, upstream.padding))
            return answer_from_upstream(message, query)
        except NotApplicable:
            self.asked -= 1
            raise
        except (trio.TooSlowError, WireError, DnsError) as error:
            raise self.count_failure(error) from error

    def count_failure(self, error: Exception) -> ResolverError:
        """Count a failure, and return it in terms of DNS."""
        self.failed += 1
        name = self.upstream.name
        if isinstance(error, ResolverError):
            problem = error
        elif isinstance(error, trio.TooSlowError):
            text = f"no answer from {name} within {self._deadline:g} s"
            problem = ResolverError(text, Ede.NO_REACHABLE_AUTHORITY)
        elif isinstance(error, WireError):
            problem = ResolverError(f"a bad answer from {name}: {error}", Ede.INVALID_DATA)
        else:
            problem = ResolverError(str(error))
        _log.debug("%s: %s", name, problem)
        return problem

    async def probe(self) -> None:
        """Ask for the root's name servers until that works; it is then no more suspect."""
        probe = examine(b"\0\0\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1")
        if not isinstance(probe, Query):
            raise AssertionError("the probe is a query")
        backoff = Backoff(MIN_PROBE_INTERVAL, MAX_PROBE_INTERVAL, jitter=0.0)
        while self.suspect:
            await trio.sleep(backoff.failed())
            if not self.gate_up:
                continue
            try:
                await self.ask(probe)
            except ResolverError as error:
                _log.debug("%s still fails: %s", self.upstream.name, error)
            else:
                self.suspect = False
                _log.info("DNS resolver %s answers again", self.upstream.name)
