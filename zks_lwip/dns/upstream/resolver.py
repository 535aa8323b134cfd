"""What an upstream is (:class:`Upstream`), and the worker's name servers as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...errors import DnsError
from ..message.wire import AD, HEADER, Ede

__all__ = [
    "CAPACITY",
    "DnsTunnel",
    "Gate",
    "NotApplicable",
    "OnResult",
    "ResolverError",
    "Retryable",
    "Upstream",
    "WorkerResolver",
    "unauthenticated",
]

CAPACITY = 256
"""Queries that an upstream is given at a time where it says nothing else: what a worker takes from
one session by default (PROTOCOL.md §3).
"""


OnResult = Callable[[bytes | DnsError], None]
"""Takes the answer, or what :meth:`Upstream.resolve` would raise, or
:class:`Retryable`.
"""


class ResolverError(DnsError):
    """An upstream did not answer; ``ede`` is the Extended DNS Error that says why (RFC 8914)."""

    def __init__(self, message: str, ede: int = Ede.NETWORK_ERROR) -> None:
        super().__init__(message)
        self.ede = ede


class Retryable(DnsError):
    """The connection could not carry the query to its end; another one may."""


class NotApplicable(ResolverError):
    """This upstream is not for this case; that says nothing about its health."""


class Gate(Protocol):
    """Something that must be up before an upstream can be asked: the tunnel."""

    @property
    def up(self) -> bool:
        """Whether it is."""
        ...

    @property
    def silent(self) -> bool:
        """Whether nothing is heard through it, though it is up: what was asked may be lost."""
        ...

    @property
    def hopeless(self) -> bool:
        """Whether it has been down for so long that no query should wait for it."""
        ...


class Upstream(Protocol):
    """A resolver that is asked. Queries and answers are wire messages with id 0."""

    @property
    def name(self) -> str:
        """What logs and counters call it."""
        ...

    @property
    def size(self) -> int:
        """The UDP payload size that queries to it state."""
        ...

    @property
    def padding(self) -> int:
        """The block size that queries to it are padded to (RFC 8467), 0 for none."""
        ...

    @property
    def capacity(self) -> int:
        """How many queries it can have under way; more would wait there, in no fair order."""
        ...

    @property
    def gate(self) -> Gate | None:
        """What must be up before it can be asked."""
        ...

    async def run(self) -> None:
        """Work in the background for as long as the service lives; may return at once."""
        ...

    def start_query(self, query: bytes, on_result: OnResult) -> Callable[[], None] | None:
        """Ask at once, without a task, where that can be done; ``on_result`` is called later, once.

        :returns: what gives the query up, after which ``on_result`` is not called; None: nothing
            has been done, use :meth:`resolve`.
        """
        ...

    async def resolve(self, query: bytes) -> bytes:
        """Ask; the caller sets the deadline.

        :raises DnsError: no answer came.
        """
        ...


class DnsTunnel(Protocol):
    """What carries a DNS message to the worker (DNS_QUERY, PROTOCOL.md §5)."""

    async def dns_query(self, message: bytes) -> bytes:
        """Ask.

        :raises DnsError: no answer came.
        """
        ...


class QuickDnsTunnel(DnsTunnel, Protocol):
    """One that is also asked without a task."""

    def start_dns_query(
        self, message: bytes, on_answer: Callable[[bytes | None], None]
    ) -> Callable[[], None] | None:
        """Ask at once, without a task, where that can be done; ``on_answer`` is called later, once,
        with None if the query was lost.

        :returns: what gives the query up; None: nothing has been done.
        """
        ...


def unauthenticated(answer: bytes) -> bytes:
    """Return an answer, of 12 bytes at least, with id 0 and without AD: a client of plain DNS does
    not know who has answered (RFC 6840 §5.8), and programs may trust AD (resolv.conf(5),
    ``trust-ad``).
    """
    flags = int.from_bytes(answer[2:4], "big") & ~AD
    return b"\0\0" + flags.to_bytes(2, "big") + answer[4:]


class WorkerResolver:
    """The worker's own name servers, asked by DNS_QUERY frames."""

    name = "worker"
    size = 1232
    padding = 0
    capacity = CAPACITY

    def __init__(self, tunnel: QuickDnsTunnel, gate: Gate | None = None) -> None:
        self._tunnel = tunnel
        self.gate = gate

    async def run(self) -> None:
        """Nothing is to be done in the background."""

    def start_query(self, query: bytes, on_result: OnResult) -> Callable[[], None] | None:
        """Ask the worker without a task, while there is a connection to it."""

        def on_answer(answer: bytes | None) -> None:
            if answer is None:
                on_result(Retryable("the connection to the worker was lost"))
            else:
                on_result(_result(answer))

        return self._tunnel.start_dns_query(query, on_answer)

    async def resolve(self, query: bytes) -> bytes:
        """Ask the worker."""
        return _result(await self._tunnel.dns_query(query))


def _result(answer: bytes) -> bytes:
    """Return an answer with id 0: its frame's request id has matched."""
    return answer if len(answer) < HEADER.size else unauthenticated(answer)
