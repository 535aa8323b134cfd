"""What the encrypted transports share: one lasting connection, opened when needed, asked again.

An :class:`EncryptedResolver` keeps at most one :class:`~.connection.Connection` that takes queries.
A query that meets a dying connection is sent once more on a fresh one (DNS queries may be
repeated).
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import trio

from ...errors import DnsError
from .connection import MAX_SLOW, PROBE_TIMEOUT, Connection, Retryable, unknown_rtt
from .dial import ATTEMPT_DELAY, Connect, dial
from .resolver import CAPACITY, Gate, OnResult, ResolverError
from .server import Server

__all__ = ["EncryptedResolver", "Timeouts"]

_log = logging.getLogger(__name__)

MAX_RETIRED = 4
"""Connections of one server that wind down at a time, each for as long as the deadline of a query:
one that says GOAWAY to every query, and answers none, would have the client hold hundreds.
"""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a server has; more where the path is known to be slow."""

    connect: float = 4.5
    """For TCP and TLS; a little less than a query has, so that it learns why."""
    probe: float = PROBE_TIMEOUT
    """To answer a probe, if three round trips are not more."""


class EncryptedResolver(ABC):
    """An :class:`~.resolver.Upstream` over one lasting connection.

    A transport gives the class variables and :meth:`make_connection`, and is entered in
    :data:`~.transports.TRANSPORTS`.

    :param connect: makes the TCP connections.
    :param context: a verifying TLS context that offers :attr:`alpn`.
    :param gate: what must be up before the server can be asked.
    :param slowness: returns the round trip, in seconds, of the path that is shared with much else:
        while its queues are full, an answer is later than when the connection was opened.
    """

    title: ClassVar[str]
    """What error messages call the transport."""
    default_port: ClassVar[int]
    default_path: ClassVar[str] = ""
    """The path of a URL that has none; empty where the transport has no paths."""
    alpn: ClassVar[str]
    """The application protocol that TLS offers."""
    alpn_required: ClassVar[bool] = True
    """Whether a server must agree to it."""

    size = 4096
    padding = 128

    def __init__(
        self,
        server: Server,
        connect: Connect,
        context: ssl.SSLContext,
        *,
        gate: Gate | None = None,
        slowness: Callable[[], float] = unknown_rtt,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (it is frozen)
    ) -> None:
        self.name = str(server)
        self.server = server
        self.gate = gate
        self.slowness = slowness
        self.timeouts = timeouts
        self.attempt_delay = ATTEMPT_DELAY
        """Seconds until the next address is tried beside the last."""
        self.connections = 0
        """How many connections have been opened so far."""
        self.unreachable = False
        """Whether no address took the last TCP connection that was tried, with the gate up."""
        self._connect_tcp = connect
        self._context = context
        self._address: str | None = None
        self._reached = False
        self._connection: Connection | None = None
        self._retired: list[Connection] = []
        self._attempt: _Opening | None = None
        self._nursery: trio.Nursery | None = None
        self._started = trio.Event()

    @abstractmethod
    def make_connection(self, stream: trio.abc.Stream, rtt: float) -> Connection:
        """Return what speaks the transport's protocol over a new TLS stream.

        :param rtt: how long TCP and TLS took, in seconds.
        """

    async def open_connection(self) -> Connection:
        """Connect over TCP and TLS, at the address that answered last or at the first to answer.

        :raises ResolverError: no address gave a verified stream.
        """
        start = trio.current_time()
        self._address, stream = await dial(
            self._connect,
            self.server,
            self._context,
            alpn=self.alpn if self.alpn_required else None,
            first=self._address,
            delay=self.attempt_delay,
        )
        return self.make_connection(stream, trio.current_time() - start)

    @property
    def capacity(self) -> int:
        """How many queries may be in flight: as many as the server allows, once that is known."""
        connection = self._connection
        return connection.capacity if connection is not None and connection.usable else CAPACITY

    async def run(self) -> None:
        """Hold the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._started.set()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._connection = None

    def start_query(self, query: bytes, on_result: OnResult) -> Callable[[], None] | None:
        """Send a query at once, without a task, if a connection is ready.

        :returns: as :meth:`.Connection.start_query`; None: nothing has been done, use
            :meth:`resolve`.
        """
        connection = self._connection
        if connection is None or not connection.usable:
            return None
        return connection.start_query(query, on_result)

    async def resolve(self, query: bytes) -> bytes:
        """Send a query, once more on a fresh connection if the first one dies over it."""
        problem: DnsError | None = None
        for _ in range(2):
            connection = await self._usable()
            try:
                return await connection.query(query)
            except Retryable as error:
                _log.debug("%s: %s", self.name, error)
                problem = error
        raise ResolverError(f"{self.name}: {problem}") from problem

    async def _usable(self) -> Connection:
        """Return the connection that takes queries; it is opened for all that wait for it."""
        connection = self._connection
        if connection is not None and connection.usable:
            return connection
        await self._started.wait()
        attempt = self._attempt
        if attempt is None:
            if self._nursery is None:
                raise ResolverError(f"{self.name}: shutting down")
            attempt = self._attempt = _Opening()
            self._nursery.start_soon(self._connect_once, attempt)
        await attempt.done.wait()
        if attempt.connection is None:
            raise ResolverError(str(attempt.problem)) from attempt.problem
        return attempt.connection

    async def _connect(self, host: str, port: int) -> trio.abc.Stream:
        """Connect TCP, and note that it could be done."""
        stream = await self._connect_tcp(host, port)
        self._reached = True
        return stream

    def _gate_up(self) -> bool:
        return self.gate is None or self.gate.up

    async def _connect_once(self, attempt: _Opening) -> None:
        limit = max(self.timeouts.connect, min(4 * self.slowness(), MAX_SLOW))
        try:
            self._reached = False
            with trio.fail_after(limit):
                connection = await self.open_connection()
        except trio.TooSlowError:
            self.unreachable = not self._reached and self._gate_up()
            attempt.problem = ResolverError(f"{self.name}: no connection in {limit:.3g} s")
        except ResolverError as error:
            self.unreachable = not self._reached and self._gate_up()
            attempt.problem = error
        else:
            self.unreachable = False
            self._retire()
            self._connection = attempt.connection = connection
            self.connections += 1
            if self._nursery is not None:
                self._nursery.start_soon(connection.run)
        finally:
            self._attempt = None
            attempt.done.set()

    def _retire(self) -> None:
        """Let the connection end with its last answer; the oldest of too many ends at once."""
        if self._connection is not None:
            self._connection.retire()
            self._retired.append(self._connection)
        self._retired = [connection for connection in self._retired if not connection.dead]
        while len(self._retired) > MAX_RETIRED:
            self._retired.pop(0).close("too many connections are winding down")


class _Opening:
    """A connection that is being opened."""

    __slots__ = ("connection", "done", "problem")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.connection: Connection | None = None
        self.problem = ResolverError("the attempt to connect was given up")
