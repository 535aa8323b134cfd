"""The service that answers every query: local names → cache → forwarder → upstreams.

Nothing is ever left unanswered but what cannot be a query.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import trio

from ..errors import ConfigError, DnsError
from ..net.histogram import Histogram
from .cache import Cache
from .forwarder import Forwarder, Reply
from .local import LocalNames, StaticName
from .message.answer import Answer
from .message.query import Query, Rejected, examine
from .message.wire import MAX_MESSAGE
from .names import AddressNames
from .upstream.resolver import Upstream

__all__ = ["DnsService"]

_log = logging.getLogger(__name__)

MAX_DATAGRAM = 16384
"""No answer over UDP is larger, whatever the client takes: it would come in too many fragments."""
LOCAL_SECONDS = 60.0
"""Seconds for which the packet cache keeps a static or blocked name; a change clears it."""


class PacketCacheLike(Protocol):
    """What answers over UDP, below the service, a query that differs from an answered one only in
    its two id bytes: :class:`zks_lwip.stack.PacketCache`.
    """

    @property
    def hits(self) -> int:
        """How many queries it answered."""
        ...

    def put(
        self, key: bytes, answer: bytes, ttls: Sequence[int], age: float, seconds: float
    ) -> None:
        """Keep an answer.

        :param key: the query without its id.
        :param answer: the answer without its id.
        :param ttls: offsets of the answer's TTLs, to be counted down.
        :param age: seconds since the TTLs were true.
        :param seconds: how long to keep it.
        """
        ...

    def clear(self) -> None:
        """Forget every answer."""
        ...


class DnsService:
    """Answers DNS messages. One trio thread; :meth:`run` must be running.

    :param upstreams: asked in this order.
    :param static: names that are answered here.
    :param hosts: a hosts file; None: none.
    :param block: paths of block lists.
    :param forward: pairs of a domain and the upstream that alone is asked for it and below.
    :param deadline: seconds that one upstream has for one query.
    :param grace: seconds that a query waits for a tunnel that is down.
    :param max_in_flight: different queries that are asked or queue to be; beyond, queries of the
        source that has most are answered SERVFAIL.
    :param max_waiting: clients' queries that wait for them; beyond, the same.
    :param hosts_interval: seconds between two looks at whether the hosts file has changed.
    :raises ConfigError: a text or a list cannot be read.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        static: Iterable[StaticName] = (),
        hosts: str | os.PathLike[str] | None = "/etc/hosts",
        block: Iterable[str | os.PathLike[str]] = (),
        forward: Iterable[tuple[str, Upstream]] = (),
        cache: Cache | None = None,
        deadline: float = 5.0,
        grace: float = 10.0,
        max_in_flight: int = 4096,
        max_waiting: int = 16384,
        hosts_interval: float = 2.0,
    ) -> None:
        forward = tuple(forward)
        self._local = LocalNames(
            static=static, hosts=hosts, block=block, forward=[domain for domain, _ in forward]
        )
        self._cache = Cache() if cache is None else cache
        self._forwarder = Forwarder(
            upstreams,
            forward,
            self._answered,
            deadline=deadline,
            grace=grace,
            max_in_flight=max_in_flight,
            max_waiting=max_waiting,
        )
        self._counters: Counter[str] = Counter()
        self.names = AddressNames()
        """Which names addresses were resolved from."""
        self._packet_cache: PacketCacheLike | None = None
        self._hosts_interval = hosts_interval
        self._reload = trio.Event()

    def _answered(self, query: Query, answer: Answer, seconds: float) -> None:
        self._cache.put(query, answer)
        self.names.note(query, answer, seconds)

    def use_packet_cache(self, packet_cache: PacketCacheLike) -> None:
        """From now on give ``packet_cache`` what was answered from the cache or from local names,
        for it to answer the same again.
        """
        self._packet_cache = packet_cache

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; what still waits then is answered SERVFAIL."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._forwarder.run)
            nursery.start_soon(self._watch_files)
            task_status.started()
            await trio.sleep_forever()

    def answer_now(self, query: bytes, *, transport: str = "udp") -> bytes | None:
        """Answer at once what needs no upstream.

        :returns: None: call :meth:`submit` or :meth:`answer`, which may drop it.
        """
        found = self._now(query, transport)
        return found if isinstance(found, bytes) else None

    def submit(
        self, query: bytes, reply: Reply, *, transport: str = "udp", source: Hashable = None
    ) -> None:
        """Answer by calling ``reply``, at once or later, once; never for what cannot be a query.

        :param reply: runs in the trio thread; must neither block nor raise.
        :param transport: "udp" or "tcp".
        :param source: tells clients apart that have equal shares: an application's socket.
        """
        found = self._now(query, transport)
        if isinstance(found, bytes):
            reply(found)
        elif found is not None:
            self._forwarder.join(found, _limit(found, transport), reply, source)

    async def answer(self, query: bytes, *, transport: str = "udp") -> bytes | None:
        """Answer; None for what is to be dropped in silence. ``transport`` is "udp" or "tcp"."""
        found = self._now(query, transport)
        if not isinstance(found, Query):
            return found
        done = trio.Event()
        answers: list[bytes] = []

        def reply(message: bytes) -> None:
            answers.append(message)
            done.set()

        self._forwarder.join(found, _limit(found, transport), reply, None)
        await done.wait()
        return answers[0]

    async def resolve(self, query: bytes) -> bytes:
        """Answer as over TCP.

        :raises DnsError: a client would get silence.
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
        if self._packet_cache is not None:
            self._packet_cache.clear()
        self._reload.set()
        return count

    @property
    def latency(self) -> Histogram:
        """Seconds until queries that had to be asked upstream had an answer."""
        return self._forwarder.latency

    def stats(self) -> dict[str, int]:
        """Return counters since the start, and a few gauges (cache_entries, in_flight, waiting).

        ``repeated`` are answers of the packet cache; they are in no other counter.
        """
        cache = self._cache
        values = dict(self._counters)
        values |= {
            "repeated": 0 if self._packet_cache is None else self._packet_cache.hits,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_entries": len(cache),
            "cache_evicted": cache.evicted,
            "blocked_names": self._local.blocked_names,
        }
        return values | self._forwarder.stats()

    def _now(self, message: bytes, transport: str) -> bytes | Query | None:
        """Return an answer; the query, if it has to be asked; None, if it is to be dropped."""
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
            if self._packet_cache is not None and transport == "udp":
                self._keep_packet(message, query, answer, 0, LOCAL_SECONDS)
            return answer.render(query, limit=limit)
        hit = self._cache.get(query)
        if hit is not None:
            answer, age = hit
            if self._packet_cache is not None and transport == "udp":
                self._keep_packet(message, query, answer, age, answer.lifetime - age)
            return answer.render(query, limit=limit, age=int(age))
        return query

    def _keep_packet(
        self, message: bytes, query: Query, answer: Answer, age: float, seconds: float
    ) -> None:
        """Give the packet cache an answer, for as long as it may be kept."""
        # Only where nothing differs between queries but the id: no cookies, no padding.
        if self._packet_cache and len(message) == len(query.body) + (11 if query.edns else 0):
            rest, ttls = answer.for_packet_cache(query, limit=_limit(query, "udp"))
            self._packet_cache.put(message[2:], rest, ttls, age, seconds)

    async def _watch_files(self) -> None:
        """Read hosts file and block lists when told to, the hosts file also when it has changed."""
        while True:
            with trio.move_on_after(self._hosts_interval) as waiting:
                await self._reload.wait()
            if waiting.cancelled_caught:
                read = self._local.refresh_hosts
            else:
                self._reload = trio.Event()
                read = self._local.reload
            try:
                changed = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            except ConfigError as error:
                _log.warning("%s; what was read before stays in force", error)
                continue
            if changed:
                self._counters["reloaded"] += 1
                if self._packet_cache is not None:
                    self._packet_cache.clear()


def _limit(query: Query, transport: str) -> int:
    """Return how large the answer may be, in bytes."""
    return min(query.size, MAX_DATAGRAM) if transport == "udp" else MAX_MESSAGE
