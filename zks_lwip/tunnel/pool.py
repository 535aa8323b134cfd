"""The tunnel as its user sees it: streams, datagrams and questions, over a pool of channels.

There is one channel as long as that is enough; another is opened when all are full, and closed
when it has been idle (PROTOCOL.md §3). Lost channels are replaced, with growing delays; what is
asked for meanwhile waits for a bounded time.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import Any

import trio

from ..errors import WorkerUnreachable, ZksError
from ._associations import Associations
from ._downtime import Downtime
from ._https_v1 import PORT as HTTPS
from ._https_v1 import HttpsStream
from ._questions import Questions
from .backoff import Backoff
from .channel import Channel
from .credit import Budget
from .dial import tls_context
from .frames import Hello, encode_host
from .link import LinkEnd
from .neighbours import Neighbours
from .options import TunnelConfig
from .session import SessionStats, Settings
from .streams import Association, StreamPeer, TunnelStream, UdpPeer
from .tcpstream import TcpStream
from .websocket import ABNORMAL

__all__ = [
    "Association",
    "StreamPeer",
    "Tunnel",
    "TunnelConfig",
    "TunnelStream",
    "UdpPeer",
]

log = logging.getLogger(__name__)

_LINGER = 30.0  # seconds that a stream may take to end by itself after it was closed here
_LOOK = 0.2  # seconds between two looks at whether everything has been delivered
_NOT_NEEDED = "not needed"
_AT_ONCE = 4  # channels that may be opening at the same time
_V1_FACTOR = 32  # times that many of them, and of all, in v1
_LEAST_WINDOW = 16 << 10  # bytes of credit that every stream has
_OPENING = 1 << 20  # bytes of credit, at most, that one starts with
_STABLE = 10.0  # seconds after which a channel counts as a success


class Tunnel:
    """Streams, UDP associations, DNS and ICMP echo through a worker.

    Everything but :meth:`run` is for use while that runs, in the same trio thread.
    """

    def __init__(self, config: TunnelConfig, *, settings: Settings | None = None) -> None:
        self.config = config
        self._settings = settings or Settings(window=_LEAST_WINDOW)
        self._budget = Budget(config.max_memory, opening=_OPENING)
        self._v1 = config.protocol == "v1"
        factor = _V1_FACTOR if self._v1 else 1
        self._most_channels = factor * config.max_channels
        self._at_once = factor * _AT_ONCE
        self._context = tls_context(config.ca_file) if config.worker.secure else None
        self._channels: list[Channel] = []  # those whose HELLO has come, oldest first
        self._neighbours = Neighbours(lambda: ((None, each.connection) for each in self._channels))
        self._opening = 0
        self._waiting: dict[TunnelStream, None] = {}
        self._refused: list[TunnelStream] = []  # to be told 503, but not from inside open_stream
        self._changed = trio.Event()
        self._up = trio.Event()
        self._first = trio.Event()  # up for the first time, or never to be
        self._peer: Hello | None = None
        self._associations = Associations(self._primary)
        self.on_datagram = self._associations.on_datagram
        self.on_udp_error = self._associations.on_udp_error
        self.on_udp_close = self._associations.on_udp_close
        self._questions = Questions(
            self._primary, lambda: self._up.wait(), lambda channel: channel in self._channels
        )
        self.on_dns_response = self._questions.on_dns_response
        self.on_echo_reply = self._questions.on_echo_reply
        #: Have the worker answer a DNS message, or ping a host.
        self.dns_query = self._questions.dns_query
        self.echo = self._questions.echo
        self._downtime = Downtime(config.grace)
        self._dialling: set[trio.CancelScope] = set()
        self._backoff = Backoff(*config.backoff)
        self._not_before = -math.inf
        self._lingering: dict[TunnelStream, float] = {}
        self._told_no_tls = False
        self._fatal: ZksError | None = None
        self._started = False
        self._stopped = False
        self._totals = SessionStats()
        self._counters = {"channels_opened": 0, "channels_lost": 0, "connect_failures": 0}
        self._counters |= {"streams_refused_here": 0, "wire_in": 0, "wire_out": 0}

    # what is known

    @property
    def up(self) -> bool:
        """Whether there is a channel now."""
        return bool(self._channels)

    @property
    def hopeless(self) -> bool:
        """Down for longer than the grace time: what is asked for now is refused at once."""
        return self._downtime.hopeless

    @property
    def memory(self) -> int:
        """Bytes that the worker may send, or has sent and nobody has taken, above the least."""
        return self._budget.used

    @property
    def downtime(self) -> Downtime:
        """Since when it is up or down, and why."""
        return self._downtime

    @property
    def carriers(self) -> list[trio.socket.SocketType]:
        """The sockets of the channels."""
        carriers = (channel.carrier for channel in self._channels)
        return [carrier for carrier in carriers if carrier is not None]

    @property
    def peer(self) -> Hello | None:
        """The HELLO of the worker, the last known one while the tunnel is down."""
        return self._peer

    def slowness(self) -> float:
        """Return the longest round trip of a channel now, in seconds, queues included.

        On a slow link whose queue is full this is how late an answer may be; 0: not known.
        """
        return self._neighbours.of(None).round_trip

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and gauges (``channels``, ``streams``, ``waiting``)."""
        totals = asdict(self._totals)
        wire_in, wire_out = self._counters["wire_in"], self._counters["wire_out"]
        for channel in self._channels:
            for name, value in asdict(channel.session.stats).items():
                totals[name] += value
            wire_in += channel.connection.bytes_received
            wire_out += channel.connection.bytes_sent
        return (
            totals
            | self._counters
            | {
                "wire_in": wire_in,
                "wire_out": wire_out,
                "channels": len(self._channels),
                "streams": sum(len(channel.streams) for channel in self._channels),
                "waiting": len(self._waiting),
                "associations": len(self._associations),
                "datagrams_malformed": self._associations.malformed,
            }
        )

    # running

    async def run(self, *, task_status: trio.TaskStatus[Hello] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the tunnel up until cancelled; started, with the worker's HELLO, when it first is.

        Before that, what will not pass by itself is raised: AuthError, CertificateError,
        WorkerNotFound, ConfigError, PrivilegeError. An unreachable worker is tried again, with
        delays, for ever. After the start nothing is raised for what worker and network do.
        """
        self._downtime.up = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._supervise, nursery)
                await self._first.wait()
                if self._fatal is None:
                    self._started = True
                    assert self._peer is not None
                    task_status.started(self._peer)
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self._stopped = True
            for stream in [*self._waiting, *self._refused]:
                stream.end(503, "the tunnel was stopped")
            self._waiting.clear()
        raise self._fatal

    def reconnect(self, why: str) -> None:
        """Give up every WebSocket and open another at once: the network is not the same any more.

        Who waits for the tunnel waits ``grace`` seconds from now.
        """
        log.info("%s: connecting to the worker again", why)
        for channel in self._channels:
            channel.going_away = True
            channel.link.close(ABNORMAL, why)
        self.retry()

    def retry(self) -> None:
        """If the tunnel is down, try now, not when the next attempt is due."""
        for dialling in self._dialling:
            dialling.cancel()
        self._backoff.succeeded()
        self._not_before = -math.inf
        self._downtime.begin_again()
        self._changed.set()

    async def _supervise(self, nursery: trio.Nursery) -> None:
        """Decide, whenever something has changed or is due, what to do about it."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            due = min(self._close_idle(now), self._end_lingering(now), self._assign(now))
            for _ in range(self._lacking()):
                if now < self._not_before:
                    due = min(due, self._not_before)
                    break
                self._opening += 1
                nursery.start_soon(self._run_channel, nursery)
            with trio.move_on_at(due):
                await self._changed.wait()

    def _assign(self, now: float) -> float:
        """Give the streams that wait to channels that have room; refuse those that are late."""
        refused, self._refused = self._refused, []
        for stream in refused:
            stream.end(503, "too many streams wait for a channel")
        for stream in list(self._waiting):
            channel = self._with_room()
            late = stream.deadline <= now
            if channel is not None or late:
                self._waiting.pop(stream, None)
            if stream.over:
                continue
            if channel is not None:
                channel.connect(stream)
            elif late:
                self._counters["streams_refused_here"] += 1
                stream.end(503, "no channel to the worker")
        return min((stream.deadline for stream in self._waiting), default=math.inf)

    def _with_room(self) -> Channel | None:
        # In v1 a channel carries one stream or the questions, and the primary one the questions.
        primary = self._primary() if self._v1 else None
        usable = (each for each in self._channels if each.can_connect and each is not primary)
        return next(usable, None)

    def _primary(self) -> Channel | None:
        """The channel for datagrams and questions."""
        usable = (each for each in self._channels if not each.going_away)
        return next(usable, self._channels[0] if self._channels else None)

    def _lacking(self) -> int:
        """How many channels to open now."""
        if all(channel.going_away for channel in self._channels):
            return 0 if self._opening else 1
        if not self._waiting or self._peer is None or not self._peer.streams:
            return 0
        wanted = min(math.ceil(len(self._waiting) / self._peer.streams), self._at_once)
        room = self._most_channels - len(self._channels)
        return max(0, min(wanted, room) - self._opening)

    def _close_idle(self, now: float) -> float:
        """Close the channels that nobody needs; when to look again."""
        due = math.inf
        primary = self._primary()
        for channel in self._channels:
            if channel.idle_since is None or (channel is primary and not channel.going_away):
                continue
            expiry = channel.idle_since + self.config.idle_channel
            if expiry <= now or (channel.going_away and channel.link.delivered):
                channel.link.close(1000, _NOT_NEEDED)
            elif channel.going_away:  # the end of an upload may still be on its way
                due = min(due, expiry, now + _LOOK)
            else:
                due = min(due, expiry)
        return due

    def _end_lingering(self, now: float) -> float:
        for stream, expiry in list(self._lingering.items()):
            if stream.over or stream.ended or expiry <= now:
                del self._lingering[stream]
                stream.close()
        return min(self._lingering.values(), default=math.inf)

    async def _run_channel(self, nursery: trio.Nursery) -> None:
        """Open one channel, and carry it until it ends."""
        channel = None
        try:
            with trio.CancelScope() as dialling:
                self._dialling.add(dialling)
                channel = await Channel.open(
                    self.config,
                    self,
                    nursery,
                    context=self._context,
                    settings=self._settings,
                    budget=self._budget,
                    slowness=self.slowness(),
                )
            self._dialling.discard(dialling)
            if channel is None:
                return  # reconnect() came in between
            end = await channel.run(self.config, lambda: self._neighbours.of(None))
            self._lost(channel, end)
        except ZksError as error:
            self._counters["connect_failures"] += 1
            if isinstance(error, WorkerUnreachable) or self._started:
                self._try_again(str(error))
            else:
                self._fatal = error
                self._first.set()
        finally:
            self._dialling.discard(dialling)
            if channel in self._channels:
                self._drop(channel)
            else:
                self._opening -= 1
            self._changed.set()

    def _drop(self, channel: Channel) -> None:
        """A channel has ended."""
        self._channels.remove(channel)
        if not self._channels:
            self._up = trio.Event()
            self._downtime.up = False
        for name, value in asdict(channel.session.stats).items():
            setattr(self._totals, name, getattr(self._totals, name) + value)
        self._counters["wire_in"] += channel.connection.bytes_received
        self._counters["wire_out"] += channel.connection.bytes_sent
        self._questions.lost(channel)

    def _lost(self, channel: Channel, end: LinkEnd) -> None:
        if end.ours:
            log.debug("closed a channel that was not needed")
            return
        self._counters["channels_lost"] += 1
        if self._v1 and channel is not self._primary():
            log.info("a stream's channel was lost: %s", end.reason)
            return
        if trio.current_time() - channel.since >= _STABLE:
            self._backoff.succeeded()
        what = "the worker broke the protocol" if end.error else "lost a channel to the worker"
        # A breach of the protocol, found by whichever end, is never usual.
        level = logging.WARNING if end.error or end.status == 1002 else logging.INFO
        self._try_again(f"{what}: {end.reason}.", channel, level)

    def _try_again(self, why: str, lost: Channel | None = None, level: int = logging.INFO) -> None:
        now = trio.current_time()
        if any(now - channel.since >= _STABLE for channel in self._channels):
            self._backoff.succeeded()
        delay = self._backoff.failed()
        self._not_before = now + delay
        if all(channel.going_away or channel is lost for channel in self._channels):
            self._downtime.problem = why
            log.warning("%s Trying again in %.1f s.", why, delay)
        else:
            log.log(level, "%s Another channel is still up.", why)

    # what a channel tells

    def on_ready(self, channel: Channel) -> None:
        self._opening -= 1
        if self._v1 and self._channels:  # most live for one stream only, and prove as much
            self._backoff.succeeded()
        self._channels.append(channel)
        self._counters["channels_opened"] += 1
        self._peer = channel.session.peer
        if self._started and not self._up.is_set():
            log.info("the tunnel to %s is up again", self.config.worker)
        self._up.set()
        self._downtime.up = True
        self._first.set()
        self._changed.set()

    def on_capacity(self, channel: Channel) -> None:
        if self._waiting or channel.going_away or len(self._channels) > 1:
            self._changed.set()

    def on_goaway(self, channel: Channel) -> None:
        now = trio.current_time()
        if now - channel.since < _STABLE:  # the next one may do the same
            self._not_before = max(self._not_before, now + self._backoff.failed())
        self._changed.set()

    def on_elsewhere(self, channel: Channel, stream: TunnelStream) -> None:
        self._waiting[stream] = None
        self._changed.set()

    # what it is for

    def open_stream(self, host: str, port: int, peer: StreamPeer) -> TunnelStream:
        """Open a TCP stream to ``host`` (an IP literal or a name) and ``port``; never blocks.

        Without a channel it waits for one until the tunnel has been down for ``grace`` seconds.
        ``peer`` is told what becomes of it, not before this has returned, except that a tunnel that
        was stopped ends it at once. Raises ValueError for what cannot be a host or a port.
        """
        encode_host(host)
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        deadline = self._downtime.over
        if self._v1 and port == HTTPS:
            stream: TunnelStream = HttpsStream(
                host, port, peer, deadline, self._forget_waiting, self._no_tls
            )
        else:
            stream = TunnelStream(host, port, peer, deadline, self._forget_waiting)
        channel = None if self._waiting else self._with_room()
        if self._stopped:
            stream.end(503, "the tunnel was stopped")
        elif channel is not None:
            channel.connect(stream)
        else:
            if len(self._waiting) < self.config.max_waiting:
                self._waiting[stream] = None
            else:
                self._counters["streams_refused_here"] += 1
                self._refused.append(stream)
            self._changed.set()
        return stream

    def _no_tls(self) -> None:
        """TLS got no TLS back through a v1 worker."""
        if not self._told_no_tls:
            self._told_no_tls = True
            log.warning(
                "TLS on port 443 was not answered by TLS: an original Worker serves ports 80 and "
                "443 by an HTTP fetch, so HTTPS cannot work through it. Deploy a v2 worker "
                "(python -m zks_lwip worker), and leave --protocol v1 away."
            )

    def _forget_waiting(self, stream: TunnelStream) -> None:
        self._waiting.pop(stream, None)

    def _linger(self, stream: TunnelStream) -> None:
        """Reset a stream that was closed here, unless it ends by itself in time."""
        self._lingering[stream] = trio.current_time() + _LINGER
        self._changed.set()

    async def connect_tcp(self, host: str, port: int) -> TcpStream:
        """Connect through the tunnel. Raises OSError with the errno that a socket would have."""
        stream = TcpStream(self._linger)
        stream.attach(self.open_stream(host, port, stream))
        try:
            await stream.wait_connected()
        except BaseException:
            stream.abort()
            raise
        return stream

    def open_association(self, peer: UdpPeer) -> Association:
        """A new UDP association. It outlives channels: the worker's end of it may change."""
        return self._associations.open(peer)
