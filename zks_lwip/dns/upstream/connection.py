"""One lasting connection to a resolver: queries in flight, and how a silent server is found out.

A :class:`Connection` moves the bytes of one stream; a subclass speaks the protocol, sans-IO. What
opens connections, and asks again when one dies, is :class:`~.encrypted.EncryptedResolver`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import trio

from ...errors import DnsError
from .resolver import CAPACITY, OnResult, Retryable

__all__ = ["Connection", "Retryable"]

QUIET = 1.0
"""Seconds without a byte, while an answer is due, after which a connection is probed."""
PROBE_TIMEOUT = 1.0
"""Seconds that a probe may take, if three round trips are not more."""
IDLE = 10.0
"""Seconds without traffic after which the next query probes the connection at once."""
MAX_UNSENT = 1 << 20
"""Bytes that a server may leave unread before its connection is given up."""
MAX_SLOW = 30.0
"""Seconds that a probe, or TCP and TLS, may take at most where the path is known to be slow. (A
full queue of 200 kB takes 25 s on 64 kbit/s.)"""
_TICK = 0.25


def unknown_rtt() -> float:
    """Return 0: the round trip of the path below is not known."""
    return 0.0


class Connection(ABC):
    """One connection. :meth:`run` moves the bytes until it dies.

    A protocol implements the abstract members. Queries and answers have id 0.

    :param rtt: how long TCP and TLS took, in seconds.
    :param slowness: returns the round trip of the path below as it is now, in seconds; 0: unknown.
    :param probe_timeout: seconds that a probe may take, if three round trips are not more.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        rtt: float,
        *,
        slowness: Callable[[], float] = unknown_rtt,
        probe_timeout: float = PROBE_TIMEOUT,
    ) -> None:
        self._stream = stream
        self._probe_timeout = max(probe_timeout, 3 * rtt)
        self._slowness = slowness
        self._output = bytearray()
        self._output_ready = trio.Event()
        self._query_started = trio.Event()
        self._last_receive = trio.current_time()
        self._probed_at: float | None = None
        self._scope = trio.CancelScope()
        self._retired = False
        self.dead = ""
        """Why the connection is of no use any more; empty while it is."""

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether another query may be sent here."""

    @property
    def capacity(self) -> int:
        """How many queries may be in flight."""
        return CAPACITY

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """How many queries wait for an answer."""

    @abstractmethod
    def send_query(self, query: bytes, on_result: OnResult) -> Callable[[], None]:
        """Queue a query; call ``on_result`` later, once.

        :returns: what gives the query up; ``on_result`` is not called after that.
        """

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server; call :meth:`close` on nonsense."""

    @abstractmethod
    def data_to_send(self) -> bytes:
        """Take what the protocol has to send."""

    @abstractmethod
    def send_probe(self) -> None:
        """Queue what makes a living server send something, such as a PING."""

    @abstractmethod
    def fail_queries(self, reason: str) -> None:
        """End every query with :class:`Retryable`."""

    def start_query(self, query: bytes, on_result: OnResult) -> Callable[[], None]:
        """Send a query; the connection must be :attr:`usable`. ``on_result`` is called later, once.

        :returns: what gives the query up; ``on_result`` is not called after that.
        """
        cancel = self.send_query(query, on_result)
        if self.in_flight == 1:
            now = trio.current_time()
            if now - self._last_receive > IDLE and self._probed_at is None:
                self._probed_at = now
                self.send_probe()
            elif self._probed_at is None:
                self._last_receive = now
            self._query_started.set()
        self._output_ready.set()
        return cancel

    async def query(self, query: bytes) -> bytes:
        """Send a query and return its answer.

        :raises Retryable: the connection died over it.
        :raises ResolverError: the server did not answer it.
        """
        if not self.usable:
            raise Retryable(self.dead or "the connection takes no more queries")
        results: list[bytes | DnsError] = []
        finished = trio.Event()

        def on_result(result: bytes | DnsError) -> None:
            results.append(result)
            finished.set()

        cancel = self.start_query(query, on_result)
        try:
            await finished.wait()
        except trio.Cancelled:
            cancel()
            self._output_ready.set()
            raise
        result = results[0]
        if isinstance(result, DnsError):
            raise result
        return result

    def close(self, reason: str) -> None:
        """Give the connection up, and every query on it."""
        if not self.dead:
            self.dead = reason
            self.fail_queries(reason)
            self._scope.cancel()

    def retire(self) -> None:
        """Close with the last answer: another connection has taken over."""
        self._retired = True
        self._query_started.set()

    async def run(self) -> None:
        """Work until the connection dies."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
        finally:
            self.close("the client is shutting down")
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while True:
            try:
                data = bytes(await self._stream.receive_some(65536))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.close("the server has closed the connection")
                return
            self._last_receive = trio.current_time()
            self._probed_at = None
            self.receive_data(data)
            self._output += self.data_to_send()
            self._output_ready.set()
            if len(self._output) > MAX_UNSENT:
                self.close("the server does not read")

    async def _write(self) -> None:
        while True:
            self._output += self.data_to_send()
            if not self._output:
                await self._output_ready.wait()
                self._output_ready = trio.Event()
                continue
            data, self._output = self._output, bytearray()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.close("the server has closed the connection")
                return

    async def _watch(self) -> None:
        """Find out when the server has fallen silent."""
        while True:
            if not self.in_flight:
                if self._retired:
                    self.close("another connection has taken over")
                self._probed_at = None
                await self._query_started.wait()
                self._query_started = trio.Event()
            await trio.sleep(_TICK)
            now = trio.current_time()
            if self._probed_at is not None:
                limit = max(self._probe_timeout, min(2 * self._slowness(), MAX_SLOW))
                if now - self._probed_at > limit:
                    self.close("the server has fallen silent")
            elif self.in_flight and now - self._last_receive > QUIET:
                self._probed_at = now
                self.send_probe()
                self._output_ready.set()
