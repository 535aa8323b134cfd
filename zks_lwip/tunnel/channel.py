"""One channel: a WebSocket that carries one session.

For a worker, this is the server side of the same WebSocket::

    async def accept_websocket(
        nursery, stream, *, authorize, max_message=1 << 20, queue=16, timeout=10.0
    ) -> WsConnection | None

``authorize(request: HttpRequest)`` is called for every HTTP request and returns
``Accept(subprotocol)`` or ``HttpResponse(status, body, headers)``; None comes back when there is
no WebSocket. The :class:`WsConnection` has ``send_message(bytes-like)``, ``receive_message() ->
bytes`` (holds the peer up), ``deliver(on_message)`` (never does), ``keep_alive()``,
``aclose(status, reason)``, ``ping()``, ``subprotocol``, ``closed_status`` and ``closed_reason``.

And this runs a session over it, for either end::

    link = SessionLink(connection)
    session = Session(role, settings, wake=link.wake)
    end = await link.run(session, on_frame)      # link.close(status, reason) ends it
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any, Protocol

import trio

from ._http import Headers, HttpRequest, HttpResponse
from ._text import one_line
from .credit import Budget
from .dial import SUBPROTOCOL, connect_worker
from .frames import (
    Close,
    Connected,
    Data,
    DnsResponse,
    EchoReply,
    Eof,
    Error,
    Frame,
    GoAway,
    Hello,
    Udp,
    UdpClose,
    UdpError,
)
from .link import LinkEnd, SessionLink
from .link_v1 import LinkV1
from .liveness import Others
from .options import TunnelConfig
from .session import Role, Session, Settings
from .session_v1 import MOST_MESSAGE, ClientV1
from .streams import TunnelStream
from .upgrade import Accept, Authorize, accept_websocket
from .websocket import WebSocketClosed, WsConnection

__all__ = [
    "Accept",
    "Authorize",
    "Channel",
    "ChannelOwner",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "LinkEnd",
    "SessionLink",
    "WebSocketClosed",
    "WsConnection",
    "accept_websocket",
]

log = logging.getLogger(__name__)

#: Codes of ERROR that mean: not on this channel (PROTOCOL.md §4).
_ELSEWHERE = (429, 503)
_MOST_TRIES = 3


class ChannelOwner(Protocol):
    """What a channel tells the pool it belongs to."""

    def on_ready(self, channel: Channel) -> None:
        """The worker's HELLO has come."""

    def on_capacity(self, channel: Channel) -> None:
        """A stream has ended."""

    def on_goaway(self, channel: Channel) -> None:
        """The channel takes no new streams any more."""

    def on_elsewhere(self, channel: Channel, stream: TunnelStream) -> None:
        """The worker refused a stream on this channel only; it is the owner's again."""

    @property
    def on_datagram(self) -> Callable[[Udp], None]: ...
    @property
    def on_udp_error(self) -> Callable[[UdpError], None]: ...
    @property
    def on_udp_close(self) -> Callable[[UdpClose], None]: ...

    def on_dns_response(self, frame: DnsResponse) -> None: ...
    def on_echo_reply(self, frame: EchoReply) -> None: ...


class Channel:
    """A client's session over a WebSocket of its own, and the streams that it carries.

    Where no subprotocol was selected, the session is v1's: one stream, or any number of questions.
    """

    def __init__(
        self,
        connection: WsConnection,
        owner: ChannelOwner,
        settings: Settings,
        budget: Budget | None = None,
    ) -> None:
        self.connection = connection
        self.link: SessionLink | LinkV1
        self.session: Session | ClientV1
        if connection.subprotocol is None:
            self.link = link = LinkV1(connection)
            self.session = ClientV1(
                settings,
                clock=trio.current_time,
                wake=link.wake,
                unblock=link.unblock,
                budget=budget,
            )
        else:
            self.link = SessionLink(connection)
            self.session = Session(Role.CLIENT, settings, wake=self.link.wake, budget=budget)
        self.streams: dict[int, TunnelStream] = {}
        #: When it was opened (``trio.current_time``).
        self.since = trio.current_time()
        #: Since when it has had no streams (``trio.current_time``); None while it has.
        self.idle_since: float | None = trio.current_time()
        #: The worker takes no new streams here (GOAWAY).
        self.going_away = False
        #: Holds back what would be more DNS queries in flight than the worker takes.
        self.questions = trio.CapacityLimiter(1)
        self._full = False  # 429 came: wait for a stream to end
        self._owner = owner
        self._handlers: dict[type, Callable[[Any], None]] = {
            Data: self._on_data,
            Hello: self._on_hello,
            Connected: self._on_connected,
            Eof: self._on_eof,
            Close: self._on_close,
            Error: self._on_error,
            GoAway: self._on_goaway,
            Udp: owner.on_datagram,
            UdpError: owner.on_udp_error,
            UdpClose: owner.on_udp_close,
            DnsResponse: owner.on_dns_response,
            EchoReply: owner.on_echo_reply,
        }

    @classmethod
    async def open(
        cls,
        config: TunnelConfig,
        owner: ChannelOwner,
        nursery: trio.Nursery,
        *,
        context: ssl.SSLContext | None = None,
        settings: Settings | None = None,
        budget: Budget | None = None,
        slowness: float = 0.0,
    ) -> Channel:
        """Connect to the worker; :meth:`run` is then to be called. Raises as connect_worker.

        ``slowness`` is the round trip to the worker as far as it is known, in seconds.
        ``budget`` bounds how far the windows of all channels that share it grow.
        """
        settings = settings or Settings()
        v1 = config.protocol == "v1"
        connection = await connect_worker(
            config,
            nursery,
            context=context,
            subprotocol=None if v1 else SUBPROTOCOL,
            max_message=MOST_MESSAGE if v1 else settings.max_message,
            queue=1 if v1 else 16,
            slowness=slowness,
        )
        return cls(connection, owner, settings, budget)

    async def run(
        self, config: TunnelConfig, others: Callable[[], Others] | None = None
    ) -> LinkEnd:
        """Carry the session until it ends, for whatever reason; then all its streams have ended.

        ``others`` is that of :meth:`WsConnection.keep_alive`.
        """
        end = LinkEnd(1006, "the tunnel was stopped")
        try:
            end = await self._run_link(config, others)
        finally:
            self.session.end()
            streams = list(self.streams.values())
            self.streams.clear()
            for stream in streams:
                stream.end(503, f"session lost: {end.reason}")
        return end

    async def _run_link(self, config: TunnelConfig, others: Callable[[], Others] | None) -> LinkEnd:
        self.connection.proxied = config.proxy is not None
        quiet, patience, longest = config.quiet, config.patience, config.longest
        if isinstance(self.link, LinkV1):
            assert isinstance(self.session, ClientV1)
            session = self.session
            return await self.link.run(
                session,
                self._on_frame,
                finished=lambda: session.finished,
                quiet=quiet,
                patience=patience,
                longest=longest,
                others=others,
            )
        assert isinstance(self.session, Session)
        return await self.link.run(
            self.session,
            self._on_frame,
            hello_timeout=config.hello_timeout,
            quiet=quiet,
            patience=patience,
            longest=longest,
            others=others,
        )

    @property
    def carrier(self) -> trio.socket.SocketType | None:
        """The socket below, if it is one."""
        return self.connection.carrier

    @property
    def can_connect(self) -> bool:
        """Whether :meth:`connect` may be called now."""
        return not self._full and not self.going_away and self.session.can_connect

    def connect(self, stream: TunnelStream) -> None:
        """Open ``stream`` on this channel."""
        stream.tries += 1
        stream.identifier = self.session.connect(stream.host, stream.port, stream)
        stream.channel = self
        self.streams[stream.identifier] = stream
        self.idle_since = None
        self.session.mark_ready(stream.identifier)

    def close_stream(self, stream: TunnelStream) -> None:
        """Abort a stream."""
        self.session.close(stream.identifier)
        self.forget(stream)

    def forget(self, stream: TunnelStream) -> None:
        """The stream is gone, in the session too."""
        stream.channel = None
        if self.streams.pop(stream.identifier, None) is not None:
            self._full = False
            if not self.streams:
                self.idle_since = trio.current_time()
            self._owner.on_capacity(self)

    def _on_frame(self, frame: Frame) -> None:
        handler = self._handlers.get(type(frame))
        if handler is not None:
            handler(frame)

    def _on_hello(self, frame: Hello) -> None:
        self.questions.total_tokens = max(1, frame.requests)
        self._owner.on_ready(self)

    def _on_connected(self, frame: Connected) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None:
            stream.connected = True
            stream.peer.on_connected()

    def _on_data(self, frame: Data) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None:
            payload = frame.payload
            stream.peer.on_data(payload if type(payload) is memoryview else memoryview(payload))

    def _on_eof(self, frame: Eof) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None:
            stream.eof_received = True
            if stream.eof_sent:
                self.forget(stream)
            stream.peer.on_eof()

    def _on_close(self, frame: Close) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None:
            self.forget(stream)
            stream.end(0, "")

    def _on_error(self, frame: Error) -> None:
        stream = self.streams.get(frame.stream)
        if stream is None:
            return
        elsewhere = (
            frame.code in _ELSEWHERE
            and not stream.connected
            and not stream.pulled
            and stream.tries < _MOST_TRIES
        )
        if frame.code == 429 and len(self.streams) > 1:
            self.forget(stream)
            self._full = True
        else:
            self.forget(stream)
        if elsewhere:
            self._owner.on_elsewhere(self, stream)
        else:
            stream.end(frame.code, one_line(frame.message))

    def _on_goaway(self, frame: GoAway) -> None:
        if not self.going_away:
            self.going_away = True
            log.info("the worker is going away (%d %s)", frame.code, one_line(frame.reason))
            self._owner.on_goaway(self)
