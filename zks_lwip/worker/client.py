"""One client's session at the worker: what its frames ask for, done."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import trio

from ..tunnel.frames import (
    Close,
    Code,
    Connect,
    Data,
    DnsQuery,
    Echo,
    Eof,
    Frame,
    GoAway,
    Hello,
    Udp,
    UdpClose,
)
from ..tunnel.session import Session
from ..tunnel.session_v1 import WorkerV1
from .dial import Dialer
from .dnsclient import DnsClient, forward
from .icmp import Echoes, Pinger
from .limits import Account
from .policy import Policy
from .readiness import Readiness
from .tcp import TcpStream
from .udp import UdpAssociations

__all__ = ["Client", "Shared"]

log = logging.getLogger(__name__)


class Shared(Protocol):
    """What all clients of a worker share."""

    policy: Policy
    dialer: Dialer
    dns: DnsClient
    readiness: Readiness
    pinger: Pinger
    mark: int | None

    def linger(self, stream: TcpStream) -> None:
        """Its session is done with the stream, but the far end has not taken everything yet. Called
        again when it has taken some.
        """

    def lingered(self, stream: TcpStream) -> None:
        """A stream has closed; one that lingered does no longer."""


class Client:
    """Acts on the frames of a session, in its :attr:`session`'s name.

    :param nursery: where connects and DNS queries run; they end with the session.
    :param account: what the client's token uses.
    """

    def __init__(
        self,
        shared: Shared,
        session: Session | WorkerV1,
        account: Account,
        nursery: trio.Nursery,
    ) -> None:
        self.session = session
        self.account = account
        self.policy = shared.policy
        self.dialer = shared.dialer
        self.readiness = shared.readiness
        self.pinger = shared.pinger
        self.descriptors = account.descriptors
        self.udp_descriptors = account.udp
        self.mark = shared.mark
        self._shared = shared
        self._nursery = nursery
        self._streams: dict[int, TcpStream] = {}
        self._udp = UdpAssociations(self, session.settings.idle_udp)
        self._echoes = Echoes(self)
        self._handlers: dict[type, Any] = {
            Data: self._on_data,
            Udp: self._udp.send,
            Connect: self._on_connect,
            Eof: self._on_eof,
            Close: self._on_close_v1 if isinstance(session, WorkerV1) else self._on_close,
            UdpClose: self._on_udp_close,
            DnsQuery: self._on_dns_query,
            Echo: self._echoes.send,
            Hello: self._on_hello,
            GoAway: self._on_goaway,
        }

    @property
    def open_streams(self) -> int:
        """Streams that the session has, or that still connect."""
        return len(self._streams)

    def on_frame(self, frame: Frame) -> None:
        """Act on one frame that the session has let through. Never blocks."""
        self._handlers[type(frame)](frame)

    def _on_hello(self, frame: Hello) -> None:
        log.debug("HELLO: %r", frame)

    def _on_goaway(self, frame: GoAway) -> None:
        log.debug("GOAWAY %d: %s", frame.code, frame.reason)

    # TCP

    def _on_connect(self, frame: Connect) -> None:
        refusal = self.account.refusal()
        if refusal is not None:
            self.session.error(frame.stream, Code.TOO_MANY_STREAMS, refusal)
            return
        stream = self._streams[frame.stream] = TcpStream(self, frame.stream)
        self._nursery.start_soon(stream.connect, frame.host, frame.port)

    def _on_data(self, frame: Data) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.on_data(memoryview(frame.payload))

    def _on_eof(self, frame: Eof) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.on_eof()

    def _on_close(self, frame: Close) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            if stream.eof_taken:
                stream.finish()
            else:
                stream.abort()

    def _on_close_v1(self, frame: Close) -> None:
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.finish()

    def stream_ended(self, stream: TcpStream, *, lingers: bool) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        del self._streams[stream.id]
        if lingers:
            self._shared.linger(stream)

    def stream_lingers(self, stream: TcpStream) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        self._shared.linger(stream)

    def stream_closed(self, stream: TcpStream) -> None:
        """See :class:`~zks_lwip.worker.tcp.StreamOwner`."""
        self._shared.lingered(stream)

    # UDP, DNS

    def _on_udp_close(self, frame: UdpClose) -> None:
        self._udp.close(frame.association)

    def _on_dns_query(self, frame: DnsQuery) -> None:
        self._nursery.start_soon(self._answer, frame.request, bytes(frame.message))

    async def _answer(self, request: int, query: bytes) -> None:
        answer = await forward(self._shared.dns, query, self.account.queries)
        self.session.dns_response(request, answer)

    # the whole

    def sweep(self) -> None:
        """Every second or so: drop what is idle."""
        self._udp.sweep()

    def close(self) -> None:
        """The session is over: reset every stream, close every socket."""
        for stream in list(self._streams.values()):
            stream.abort()
        self._udp.close_all()
        self._echoes.close_all()
