"""What DNS over HTTPS and over TLS share: one lasting connection, opened when needed, asked again.

A :class:`Link` is one connection; a :class:`LinkedResolver` keeps at most one that takes queries.
A query that meets a dying connection is sent once more on a fresh one (DNS queries may be
repeated); a connection that has fallen silent is found out by the link itself.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable

import trio

from zks_lwip.dns.dial import Connect, dial
from zks_lwip.dns.resolver import CAPACITY, Gate, ResolverError
from zks_lwip.dns.servers import Server
from zks_lwip.errors import DnsError

__all__ = ["Again", "Done", "Link", "LinkedResolver"]

logger = logging.getLogger(__name__)

QUIET = 1.0
"""Seconds without a byte, while an answer is due, after which a connection is put to the test."""
SILENCE = 1.0
"""Seconds that the test may take, if three round trips are not more."""
IDLE = 10.0
"""Seconds without traffic after which the next query puts the connection to the test at once."""
MAX_UNSENT = 1 << 20
"""Bytes that a server may leave unread before its connection is given up."""
CONNECT_TIME = 4.5
"""Seconds that TCP and TLS may take; a little less than a query has, so that it learns why."""
MAX_SLOW = 30.0
"""Seconds that the test, or TCP and TLS, may take at most where the path is known to be slow. (A
full queue of 200 kB takes 25 s on 64 kbit/s.)"""
_TICK = 0.25


MAX_RETIRED = 4
"""Connections of one server that wind down at a time, each for as long as the deadline of a query:
one that says GOAWAY to every query, and answers none, would have us hold hundreds.
"""


class Again(DnsError):
    """The connection could not carry the query to its end; another one may."""


Done = Callable[[bytes | DnsError], None]
"""What is called with the answer, or with :class:`Again` or :class:`ResolverError`."""


def _unknown() -> float:
    return 0.0


class Link(ABC):
    """One connection. :meth:`run` moves the bytes until it dies; `rtt` is how long TCP took, in
    s.
    """

    def __init__(self, stream: trio.abc.Stream, rtt: float) -> None:
        self._stream = stream
        self._silence = max(SILENCE, 3 * rtt)
        #: Returns the round trip of the path below as it is now, in seconds; 0: not known.
        self.slowness: Callable[[], float] = _unknown
        self._due: dict[int, Done] = {}
        self._out = bytearray()
        self._news = trio.Event()
        self._busy = trio.Event()
        self._heard = trio.current_time()
        self._tested: float | None = None
        self._scope = trio.CancelScope()
        self.retired = False
        self.dead = ""

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether another query may be sent here."""

    @property
    def capacity(self) -> int:
        """How many queries may be under way."""
        return CAPACITY

    @abstractmethod
    def _send(self, query: bytes, done: Done) -> Callable[[], None]:
        """Queue a query; return what to call if nobody waits for the answer any more."""

    @abstractmethod
    def _received(self, data: bytes) -> None:
        """Take bytes. Calls :meth:`die` on nonsense."""

    @abstractmethod
    def _pending(self) -> bytes:
        """Take what the protocol has to send."""

    @abstractmethod
    def _test(self) -> None:
        """Ask for a sign of life, where the protocol can."""

    @abstractmethod
    def _lost(self, reason: str) -> None:
        """End every query with :class:`Again`."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many queries wait for an answer."""

    def start(self, query: bytes, done: Done) -> Callable[[], None]:
        """Send a query if :attr:`usable`; `done` is called later, once.

        Returns what to call if nobody waits for the answer any more; `done` is not called then.
        """
        forget = self._send(query, done)
        if self.waiting == 1:
            now = trio.current_time()
            if now - self._heard > IDLE and self._tested is None:
                self._tested = now
                self._test()
            elif self._tested is None:
                self._heard = now
            self._busy.set()
        self._news.set()
        return forget

    async def ask(self, query: bytes) -> bytes:
        """Ask. Raises :class:`Again` and :class:`ResolverError`."""
        if not self.usable:
            raise Again(self.dead or "the connection takes no more queries")
        results: list[bytes | DnsError] = []
        finished = trio.Event()

        def done(result: bytes | DnsError) -> None:
            results.append(result)
            finished.set()

        forget = self.start(query, done)
        try:
            await finished.wait()
        except trio.Cancelled:
            forget()
            self._news.set()
            raise
        result = results[0]
        if isinstance(result, DnsError):
            raise result
        return result

    def die(self, reason: str) -> None:
        """Give the connection up."""
        if not self.dead:
            self.dead = reason
            self._lost(reason)
            self._scope.cancel()

    def retire(self) -> None:
        """Another connection has taken over: end with the last answer."""
        self.retired = True
        self._busy.set()

    async def run(self) -> None:
        """Work until the connection dies."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
        finally:
            self.die("we are shutting down")
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while True:
            try:
                data = bytes(await self._stream.receive_some(65536))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.die("the server has closed the connection")
                return
            self._heard = trio.current_time()
            self._tested = None
            self._received(data)
            self._out += self._pending()
            self._news.set()
            if len(self._out) > MAX_UNSENT:
                self.die("the server does not read")

    async def _write(self) -> None:
        while True:
            self._out += self._pending()
            if not self._out:
                await self._news.wait()
                self._news = trio.Event()
                continue
            data, self._out = self._out, bytearray()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.die("the server has closed the connection")
                return

    async def _watch(self) -> None:
        """Find out when the server has fallen silent."""
        while True:
            if not self.waiting:
                if self.retired:
                    self.die("another connection has taken over")
                self._tested = None
                await self._busy.wait()
                self._busy = trio.Event()
            await trio.sleep(_TICK)
            now = trio.current_time()
            if self._tested is not None:
                if now - self._tested > max(self._silence, min(2 * self.slowness(), MAX_SLOW)):
                    self.die("the server has fallen silent")
            elif self.waiting and now - self._heard > QUIET:
                self._tested = now
                self._test()
                self._news.set()


class LinkedResolver(ABC):
    """An upstream over one lasting connection; a :class:`~zks_lwip.dns.resolver.Resolver`.

    `connect` makes the TCP connections, `context` is a verifying TLS context
    (:func:`~zks_lwip.dns.dial.tls_context`), `gate` what must be up before it can be asked.
    `slowness` returns the round trip of the path that is shared with much else, in seconds: while
    its queues are full, an answer is later than it was when the connection was opened.
    """

    size = 4096
    padding = 128
    _alpn: str | None = None
    """What the server must agree to speak; None: it need not say."""

    def __init__(
        self,
        server: Server,
        connect: Connect,
        context: ssl.SSLContext,
        *,
        gate: Gate | None = None,
        slowness: Callable[[], float] = _unknown,
    ) -> None:
        self.name = str(server)
        self.gate = gate
        self._slowness = slowness
        self._server = server
        self._connect_tcp = connect
        self._context = context
        self._address: str | None = None
        self._reached = False
        self.connections = 0
        """How many connections have been opened so far."""
        self.unreachable = False
        """Whether no address took the last TCP connection that was tried, with the gate up."""
        self._link: Link | None = None
        self._retired: list[Link] = []
        self._attempt: _Attempt | None = None
        self._nursery: trio.Nursery | None = None
        self._started = trio.Event()

    @abstractmethod
    def _make_link(self, stream: trio.abc.Stream, rtt: float) -> Link:
        """What speaks over a new TLS stream."""

    @property
    def capacity(self) -> int:
        """How many queries may be under way: as many as the server allows, once that is known."""
        link = self._link
        return link.capacity if link is not None and link.usable else CAPACITY

    async def _open(self) -> Link:
        start = trio.current_time()
        self._address, stream = await dial(
            self._connect, self._server, self._context, alpn=self._alpn, first=self._address
        )
        link = self._make_link(stream, trio.current_time() - start)
        link.slowness = self._slowness
        return link

    async def run(self) -> None:
        """Hold the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._started.set()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._link = None

    def start(self, query: bytes, done: Done) -> Callable[[], None] | None:
        """Ask at once, without a task, if a connection is ready; see :meth:`Link.start`.

        None: nothing has been done, :meth:`resolve` is to be used.
        """
        link = self._link
        return link.start(query, done) if link is not None and link.usable else None

    async def resolve(self, query: bytes) -> bytes:
        """Ask, once more on a fresh connection if the first one dies over it."""
        problem: DnsError | None = None
        for _ in range(2):
            link = await self._usable()
            try:
                return await link.ask(query)
            except Again as error:
                logger.debug("%s: %s", self.name, error)
                problem = error
        raise ResolverError(f"{self.name}: {problem}") from problem

    async def _usable(self) -> Link:
        """The connection that takes queries; opened for all who need it, whoever gives up."""
        link = self._link
        if link is not None and link.usable:
            return link
        await self._started.wait()
        attempt = self._attempt
        if attempt is None:
            if self._nursery is None:
                raise ResolverError(f"{self.name}: shutting down")
            attempt = self._attempt = _Attempt()
            self._nursery.start_soon(self._connect_once, attempt)
        await attempt.done.wait()
        if attempt.link is None:
            raise ResolverError(str(attempt.problem)) from attempt.problem
        return attempt.link

    async def _connect(self, host: str, port: int) -> trio.abc.Stream:
        """Connect TCP, and note that it could be done."""
        stream = await self._connect_tcp(host, port)
        self._reached = True
        return stream

    def _gate_up(self) -> bool:
        return self.gate is None or self.gate.up

    async def _connect_once(self, attempt: _Attempt) -> None:
        limit = max(CONNECT_TIME, min(4 * self._slowness(), MAX_SLOW))
        try:
            self._reached = False
            with trio.fail_after(limit):
                link = await self._open()
        except trio.TooSlowError:
            self.unreachable = not self._reached and self._gate_up()
            attempt.problem = ResolverError(f"{self.name}: no connection in {limit:.3g} s")
        except ResolverError as error:
            self.unreachable = not self._reached and self._gate_up()
            attempt.problem = error
        else:
            self.unreachable = False
            self._retire()
            self._link = attempt.link = link
            self.connections += 1
            if self._nursery is not None:
                self._nursery.start_soon(link.run)
        finally:
            self._attempt = None
            attempt.done.set()

    def _retire(self) -> None:
        """Let the connection end with its last answer; the oldest of too many ends at once."""
        if self._link is not None:
            self._link.retire()
            self._retired.append(self._link)
        self._retired = [link for link in self._retired if not link.dead]
        while len(self._retired) > MAX_RETIRED:
            self._retired.pop(0).die("too many connections are winding down")


class _Attempt:
    """A connection that is being opened."""

    __slots__ = ("done", "link", "problem")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.link: Link | None = None
        self.problem = ResolverError("the attempt to connect was given up")
