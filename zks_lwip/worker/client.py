"""One client's session at the worker: what its events ask for, done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import trio

from ..net.histogram import Histogram
from ..net.readiness import Readiness
from ..protocol import (
    Code,
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsQueryReceived,
    EchoReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    SessionReady,
    SessionResumed,
    StreamClosed,
    StreamOpened,
    StreamReset,
    UdpClosed,
    WorkerSession,
    datagrams_of,
)
from .dial import Dialer
from .dns_forwarder import DnsForwarder, DnsQuestion
from .icmp import Echoes, Pinger
from .limits import Account
from .policy import Policy
from .rate import datagram_passes, limit_session
from .targets import TargetLog
from .tcp import FarEndStream
from .udp import UdpAssociations
from .udp_sockets import DatagramSockets

__all__ = ["Client", "Shared"]

_log = logging.getLogger(__name__)


class Shared(Protocol):
    """What all clients of a worker share."""

    policy: Policy
    dialer: Dialer
    dns_forwarder: DnsForwarder
    datagrams: DatagramSockets
    readiness: Readiness
    pinger: Pinger
    mark: int | None
    dns_latency: Histogram

    def keep_until_delivered(self, stream: FarEndStream) -> None:
        """Keep a stream that its session is done with until the far end has taken everything.

        Called again whenever the far end has taken some.
        """

    def forget_stream(self, stream: FarEndStream) -> None:
        """Forget a stream, kept or not: it has closed."""


class Client:
    """Acts on the events of a session, in its :attr:`session`'s name.

    It lives as long as the session, whichever WebSocket carries that.

    :param nursery: where connects run, which :meth:`close` ends.
    :param account: what the client's token uses.
    :param targets: is told of what the client reaches; None: nothing is noted.
    """

    __slots__ = (
        "_asking",
        "_echoes",
        "_nursery",
        "_shared",
        "_streams",
        "_targets",
        "_udp",
        "_unlimited",
        "account",
        "attempts",
        "datagrams",
        "descriptors",
        "dialer",
        "mark",
        "pinger",
        "policy",
        "readiness",
        "session",
        "udp_descriptors",
    )

    def __init__(
        self,
        shared: Shared,
        session: WorkerSession,
        account: Account,
        nursery: trio.Nursery,
        targets: TargetLog | None = None,
    ) -> None:
        self._unlimited = self.session = session
        self.account = account
        self._targets = targets
        self.policy = shared.policy
        self.dialer = shared.dialer
        self.datagrams = shared.datagrams
        self.readiness = shared.readiness
        self.pinger = shared.pinger
        self.descriptors = account.descriptors
        self.udp_descriptors = account.udp
        self.mark = shared.mark
        self._shared = shared
        self._nursery = nursery
        self._streams: dict[int, FarEndStream] = {}
        #: See :class:`~zks_lwip.worker.tcp.StreamOwner`.
        self.attempts: dict[FarEndStream, float] = {}
        self._udp = UdpAssociations(self, session.settings.idle_udp)
        self._echoes = Echoes(self)
        self._asking: dict[DnsQuestion, None] = {}
        self.limits_changed()

    def limits_changed(self) -> None:
        """Have streams keep to the rate that their token has now, if any."""
        rate = self.account.rate
        if rate is None and self.session is self._unlimited:
            return
        if rate is None:
            self.session = self._unlimited
        else:
            rate.nursery = self._nursery
            self.session = limit_session(self._unlimited, rate)
        for stream in self._streams.values():
            stream.limits_changed()

    @property
    def open_streams(self) -> int:
        """Streams that the session has, or that still connect."""
        return len(self._streams)

    def on_event(self, event: Event) -> None:
        """Act on one event of the session. Never blocks."""
        _HANDLERS[type(event)](self, event)

    def _on_ready(self, event: SessionReady) -> None:
        _log.debug("HELLO: %r", event.peer)

    def _on_resumed(self, event: SessionResumed) -> None:
        _log.debug("the session goes on; %d streams are open", len(self._streams))

    def _on_goaway(self, event: GoAwayReceived) -> None:
        _log.debug("GOAWAY %d: %s", event.code, event.reason)

    # TCP

    def _on_opened(self, event: StreamOpened) -> None:
        refusal = self.account.refusal()
        if refusal is not None:
            self.session.error(event.stream, Code.TOO_MANY_STREAMS, refusal)
            return
        stream = self._streams[event.stream] = FarEndStream(self, event.stream)
        if self._targets is not None:
            self._targets.opened(event.stream, event.host, event.port)
        if not stream.begin(event.host, event.port):
            self._nursery.start_soon(self._connect, stream, event.host, event.port)

    async def _connect(self, stream: FarEndStream, host: str, port: int) -> None:
        try:
            if self.account.rate is not None:
                await self.account.rate.wait_up()
        finally:  # it has to be called, and ends at once in a scope that is cancelled
            await stream.connect(host, port)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.on_data(event.payload)

    def _on_eof(self, event: EofReceived) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.on_eof()

    def _on_closed(self, event: StreamClosed) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.finish()

    def _on_reset(self, event: StreamReset) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.abort()

    def stream_ended(self, stream: FarEndStream, *, undelivered: bool) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        del self._streams[stream.id]
        if self._targets is not None:
            self._targets.closed(stream.id)
        if undelivered:
            self._shared.keep_until_delivered(stream)

    def stream_delivers(self, stream: FarEndStream) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        self._shared.keep_until_delivered(stream)

    def stream_closed(self, stream: FarEndStream) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        self._shared.forget_stream(stream)

    # UDP, DNS, ICMP

    def _on_datagram(self, event: DatagramReceived) -> None:
        rate = self.account.rate
        if rate is not None and not datagram_passes(rate.up, len(event.payload)):
            self.session.stats.datagrams_dropped += 1
            return
        if self._targets is not None:
            self._targets.datagram(event.association, event.host, event.port)
        self._udp.send(event)

    def _on_datagrams(self, event: DatagramsReceived) -> None:
        if self.account.rate is None and self._targets is None:
            self._udp.send_all(event)
            return
        for datagram, _ in datagrams_of(event.frames):
            self._on_datagram(datagram)

    def _on_echo(self, event: EchoReceived) -> None:
        self._echoes.send(event)

    def _on_udp_closed(self, event: UdpClosed) -> None:
        self._udp.close(event.association)

    def _on_dns_query(self, event: DnsQueryReceived) -> None:
        begun = trio.current_time()
        question: DnsQuestion | None = None

        def reply(answer: bytes) -> None:
            if question is not None:
                del self._asking[question]
            self._shared.dns_latency.add(trio.current_time() - begun)
            self.session.dns_response(event.request, answer)

        question = self._shared.dns_forwarder.forward(event.message, self.account.queries, reply)
        if question is not None:
            self._asking[question] = None

    # the whole

    def sweep(self) -> None:
        """Every second or so: drop what is idle."""
        self._udp.sweep()
        now = trio.current_time()
        for stream in [one for one, until in self.attempts.items() if until <= now]:
            stream.give_up()

    def detached(self) -> None:
        """Give up what is lost with a WebSocket, and asked for again: DNS queries and echoes.

        Streams and associations stay. What the client has sent goes on to their far ends; what
        these send waits for as long as the session takes none: in the kernel, at most.
        """
        for question in self._asking:
            question.cancel()
        self._asking.clear()
        self._echoes.close_all()

    def close(self) -> None:
        """Reset every stream and close every socket: the session is over."""
        for stream in list(self._streams.values()):
            stream.abort()
        self._udp.close_all()
        self.detached()


_HANDLERS: dict[type, Callable[[Client, Any], None]] = {
    DataReceived: Client._on_data,
    DatagramReceived: Client._on_datagram,
    DatagramsReceived: Client._on_datagrams,
    StreamOpened: Client._on_opened,
    EofReceived: Client._on_eof,
    StreamClosed: Client._on_closed,
    StreamReset: Client._on_reset,
    UdpClosed: Client._on_udp_closed,
    DnsQueryReceived: Client._on_dns_query,
    EchoReceived: Client._on_echo,
    SessionReady: Client._on_ready,
    SessionResumed: Client._on_resumed,
    GoAwayReceived: Client._on_goaway,
}
"""By type of event. One table: a bound method for each and session would be a kilobyte of it."""
