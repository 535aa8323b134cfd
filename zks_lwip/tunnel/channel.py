"""One channel: a session of the client, and the streams that it carries."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import trio

from .._util import one_line
from ..carrier.link import LinkEnd, SessionLink
from ..carrier.liveness import Others
from ..carrier.sessions import client_session
from ..carrier.websocket import ABNORMAL, WsConnection
from ..errors import ZksError
from ..protocol import (
    Budget,
    ClientSession,
    Code,
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsAnswerReceived,
    EchoReplyReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    SessionReady,
    SessionResumed,
    Settings,
    StreamConnected,
    StreamReset,
    UdpClosed,
    UdpErrorReceived,
)
from .dialler import Dialler
from .options import TunnelConfig
from .peers import TunnelStream
from .session_runner import SessionRunner

__all__ = ["Channel", "ChannelOwner"]

_log = logging.getLogger(__name__)

_ELSEWHERE = (Code.TOO_MANY_STREAMS, Code.GOING_AWAY)
"""Codes that mean: not on this channel (PROTOCOL.md §4)."""


_REFUSALS = 3
"""Attempts at resuming that are refused in a row, some seconds apart, until others are opened: a
front end may know that this session's worker is dead, and have others."""


class ChannelOwner(Protocol):
    """What a channel tells the pool that it belongs to."""

    def on_ready(self, channel: Channel) -> None:
        """The worker's HELLO has come."""

    def on_lost(self, channel: Channel, why: str) -> None:
        """Its WebSocket was lost; the session is to be resumed over another. ``why`` is a clause.

        Until :meth:`on_resumed` it takes no new streams; datagrams and questions are lost.
        """

    def on_resumed(self, channel: Channel, fresh: bool) -> None:
        """There is another WebSocket. ``fresh``: the worker did not hold the session any more, so
        its streams have ended, and another session has begun."""

    def on_not_resumed(self, channel: Channel, error: ZksError, delay: float | None) -> None:
        """An attempt at another WebSocket has failed; see :data:`~.attempts.Failed`."""

    def on_silent(self, channel: Channel, silent: bool) -> None:
        """Nothing is heard, and another WebSocket is wanted; or something has been heard again."""

    def on_capacity(self, channel: Channel) -> None:
        """A stream has ended."""

    def on_goaway(self, channel: Channel) -> None:
        """The channel takes no new streams any more."""

    def on_refused(self, channel: Channel, stream: TunnelStream, code: int, message: str) -> None:
        """The worker refused a stream on this channel only; it is the owner's again."""

    @property
    def on_datagram(self) -> Callable[[Channel, DatagramReceived], None]: ...
    @property
    def on_datagrams(self) -> Callable[[Channel, DatagramsReceived], None]: ...
    @property
    def on_udp_error(self) -> Callable[[Channel, UdpErrorReceived], None]: ...
    @property
    def on_udp_closed(self) -> Callable[[Channel, UdpClosed], None]: ...
    @property
    def on_dns_answer(self) -> Callable[[DnsAnswerReceived], None]: ...
    @property
    def on_echo_reply(self) -> Callable[[EchoReplyReceived], None]: ...


class Channel:
    """A client's session over a WebSocket of its own, or one after another, and its streams.

    :param connection: the first WebSocket.
    :param dialler: opens the others.
    :param budget: bounds how far the windows of all channels that share it grow.
    :param kept_budget: bounds what they keep together until the worker has acknowledged it.
    """

    def __init__(
        self,
        connection: WsConnection,
        owner: ChannelOwner,
        dialler: Dialler,
        settings: Settings,
        budget: Budget | None = None,
        kept_budget: Budget | None = None,
    ) -> None:
        version = dialler.config.version
        self.session: ClientSession = client_session(version, settings, budget, kept_budget)
        self._runner = SessionRunner(
            self.session,
            connection,
            dialler,
            on_lost=lambda why: owner.on_lost(self, why),
            on_failed=lambda error, delay: owner.on_not_resumed(self, error, delay),
            on_silent=self._on_silent,
        )
        self._begun = False  # a first HELLO has come
        self._silent = False
        self.streams: dict[int, TunnelStream] = {}
        #: When it was opened (``trio.current_time``).
        self.since = trio.current_time()
        #: Since when it has had no streams (``trio.current_time``); None while it has.
        self.idle_since: float | None = trio.current_time()
        #: The worker takes no new streams here (GOAWAY).
        self.going_away = False
        #: Holds back what would be more DNS queries in flight than the worker takes.
        self.requests = trio.CapacityLimiter(1)
        self._owner = owner
        self._handlers: dict[type, Callable[[Any], None]] = {
            DataReceived: self._on_data,
            SessionReady: self._on_ready,
            SessionResumed: self._on_resumed,
            StreamConnected: self._on_connected,
            EofReceived: self._on_eof,
            StreamReset: self._on_reset,
            GoAwayReceived: self._on_goaway,
            DatagramReceived: partial(owner.on_datagram, self),
            DatagramsReceived: partial(owner.on_datagrams, self),
            UdpErrorReceived: partial(owner.on_udp_error, self),
            UdpClosed: partial(owner.on_udp_closed, self),
            DnsAnswerReceived: owner.on_dns_answer,
            EchoReplyReceived: owner.on_echo_reply,
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
        kept_budget: Budget | None = None,
        slowness: float = 0.0,
        outage: float | None = None,
        on_connected: Callable[[float], None] | None = None,
    ) -> Channel:
        """Connect to the worker; :meth:`run` is then to be called.

        :param nursery: where the readers of its WebSockets run.
        :param budget: as ``kept_budget``, of :class:`Channel`.
        :param outage: since when the worker has not answered (``trio.current_time``): then, until
            it does, many attempts are made; None: one is.
        :param slowness: the round trip to the worker as far as it is known, in seconds.
        :param on_connected: as of :func:`~.dial.connect_worker`.
        :raises ZksError: as :func:`~.dial.connect_worker`.
        """
        settings = settings or Settings()
        dialler = Dialler(
            config,
            nursery,
            context=context,
            settings=settings,
            slowness=slowness,
            on_connected=on_connected,
        )
        if outage is None:
            connection = await dialler.connect()
        else:
            connection = await dialler.connect_after_outage(outage)
        return cls(connection, owner, dialler, settings, budget, kept_budget)

    async def run(
        self, config: TunnelConfig, others: Callable[[], Others] | None = None
    ) -> LinkEnd:
        """Carry the session until it ends, for whatever reason; then all its streams have ended.

        :param others: see :meth:`WsConnection.keep_alive`.
        """
        end = LinkEnd(ABNORMAL, "the tunnel was stopped")
        try:
            end = await self._runner.run(self._on_event, config, others)
        finally:
            streams = list(self.streams.values())
            self.streams.clear()
            for stream in streams:
                stream.end(503, f"session lost: {end.reason}")
        return end

    def close(self, status: int = 1000, reason: str = "") -> None:
        """End the session, and take no new streams until then; :meth:`run` then returns."""
        self.going_away = True
        self._runner.close(status, reason)

    def reconnect(self, why: str) -> None:
        """Give up the WebSocket, and resume the session over another; if it cannot be, it ends."""
        if not self._runner.reconnect(why):
            self.going_away = True

    def renew(self, config: TunnelConfig, context: ssl.SSLContext | None) -> None:
        """Use another token, and trust other certificates, for further WebSockets."""
        self._runner.renew(config, context)

    def retry(self) -> None:
        """If it has no WebSocket, try now to open one, not when the next attempt is due."""
        self._runner.retry()

    @property
    def connection(self) -> WsConnection:
        """The WebSocket that it uses, or used last."""
        return self._runner.connection

    @property
    def link(self) -> SessionLink[ClientSession]:
        """The session's link to that."""
        return self._runner.link

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire, of all its WebSockets."""
        return self._runner.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire, of all its WebSockets."""
        return self._runner.bytes_sent

    @property
    def lost_since(self) -> float | None:
        """Since when it has no WebSocket, and tries to open one (``trio.current_time``)."""
        return self._runner.lost_since

    @property
    def shut_out(self) -> bool:
        """What answers for the worker does not let it resume: new streams go elsewhere."""
        runner = self._runner
        return runner.lost_since is not None and runner.refusals >= _REFUSALS

    @property
    def carrier(self) -> trio.socket.SocketType | None:
        """The socket below, if there is one now."""
        return None if self.lost_since is not None else self.connection.carrier

    @property
    def queued(self) -> int:
        """Bytes that have been written and that the peer's TCP has not acknowledged."""
        return self.connection.outstanding

    @property
    def delivered(self) -> bool:
        """The worker has all that was to be sent, as far as can be known."""
        return self.link.delivered and not self.session.unacknowledged

    @property
    def can_connect(self) -> bool:
        """Whether :meth:`connect` may be called now."""
        return not self.going_away and self.session.can_connect

    def connect(self, stream: TunnelStream) -> None:
        """Open ``stream`` on this channel."""
        asked = stream.request
        stream.identifier = self.session.connect(asked.host, asked.port, stream)
        stream.channel = self
        self.streams[stream.identifier] = stream
        self.idle_since = None
        if stream.marked:
            self.session.mark_ready(stream.identifier)

    def close_stream(self, stream: TunnelStream) -> None:
        """Abort a stream."""
        self.session.close(stream.identifier)
        self.forget(stream)

    def take_untouched(self) -> list[TunnelStream]:
        """Abort the streams that have neither been connected nor sent anything; return them."""
        found = [stream for stream in self.streams.values() if stream.untouched]
        for stream in found:
            self.session.close(stream.identifier)
            self._remove(stream)
        return found

    def forget(self, stream: TunnelStream) -> None:
        """Let go of a stream that is gone in the session too."""
        stream.channel = None
        if self._remove(stream):
            self._owner.on_capacity(self)

    def _remove(self, stream: TunnelStream) -> bool:
        if self.streams.pop(stream.identifier, None) is None:
            return False
        if not self.streams:
            self.idle_since = trio.current_time()
        return True

    def _on_event(self, event: Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    @property
    def silent(self) -> bool:
        """Nothing is heard from the worker, which is awaited, or there is no WebSocket."""
        return self._silent or self.lost_since is not None

    def _on_silent(self, silent: bool) -> None:
        self._silent = silent
        self._owner.on_silent(self, silent)

    def _on_ready(self, event: SessionReady) -> None:
        self.requests.total_tokens = max(1, event.peer.requests)
        self._silent = False
        self._runner.confirmed()
        if self._begun:
            self.going_away = False
            self._owner.on_resumed(self, True)
        else:
            self._begun = True
            self._owner.on_ready(self)

    def _on_resumed(self, event: SessionResumed) -> None:
        self._silent = False
        self._runner.confirmed()
        self._owner.on_resumed(self, False)

    def _on_connected(self, event: StreamConnected) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            stream.on_connected()

    def _on_data(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            stream.peer.on_data(event.payload)

    def _on_eof(self, event: EofReceived) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            stream.eof_received = True
            if stream.eof_sent:
                self.forget(stream)
            stream.peer.on_eof()

    def _on_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream)
        if stream is None:
            return
        if event.code in _ELSEWHERE and not stream.connected:
            self._remove(stream)
            self._owner.on_refused(self, stream, event.code, one_line(event.message))
        elif self.lost_since is not None:  # before HELLO says so, none but ours can end
            self.forget(stream)
            stream.end(503, "session lost: the worker does not hold it any more")
        else:
            self.forget(stream)
            stream.end(event.code, one_line(event.message))

    def _on_goaway(self, event: GoAwayReceived) -> None:
        if not self.going_away:
            self.going_away = True
            _log.info("the worker is going away (%d %s)", event.code, one_line(event.reason))
            self._owner.on_goaway(self)
