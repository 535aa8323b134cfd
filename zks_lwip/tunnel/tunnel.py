"""The tunnel as its user sees it: streams, datagrams and requests, over a pool of channels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import trio

from ..protocol import Hello, Settings, encode_host
from .availability import Downtime
from .endpoint import WorkerUrl
from .https_v1 import PORT as HTTPS
from .https_v1 import HttpsStream
from .options import TunnelConfig
from .peers import Association, DatagramSink, StreamPeer, TunnelStream, UdpPeer
from .pool import Pool
from .requests import OnAnswer
from .tcp_stream import TunnelTcpStream

__all__ = [
    "Association",
    "StreamPeer",
    "Tunnel",
    "TunnelConfig",
    "TunnelStream",
    "UdpPeer",
]

_log = logging.getLogger(__name__)


class Tunnel:
    """Streams, UDP associations, DNS and ICMP echo through a worker.

    Everything but :meth:`run` is for use while that runs, in the same trio thread.
    """

    def __init__(self, config: TunnelConfig, *, settings: Settings | None = None) -> None:
        self._pool = Pool(config, settings)
        self._forget = self._pool.forget  # one for all streams: each would make its own
        self._told_no_tls = False

    # what is known

    @property
    def config(self) -> TunnelConfig:
        """What it was told. A changed one holds for the channels that are opened from then on."""
        return self._pool.config

    @config.setter
    def config(self, config: TunnelConfig) -> None:
        self._pool.configure(config)

    @property
    def worker(self) -> WorkerUrl:
        """The worker that new streams go to, or would; of several, the one in use."""
        return self._pool.channels.worker.config.worker

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker, in the order in which they were named.

        ``worker`` is its URL, ``in_use`` whether new streams go to it, ``channels`` how many there
        are, ``connect_seconds`` how long it takes to connect (None: not known), and ``problem`` why
        it is not well, empty if it is.
        """
        return self._pool.channels.known_workers()

    def sessions(self) -> list[dict[str, Any]]:
        """Return what is known of each session, the oldest first; none of v1, which are many.

        ``worker`` is the worker's URL, ``seconds`` the age, ``resumes`` how often it was resumed,
        ``resumable`` for how many seconds it can be (0: not at all), ``lost_seconds`` for how long
        it has had no WebSocket (None: it has one), ``round_trip`` its round trip in seconds (0.0:
        not known), ``unacknowledged`` the bytes that the worker has not acknowledged, and
        ``streams`` how many there are.
        """
        version = self._pool.config.version
        return [] if version.one_stream else self._pool.channels.known_sessions()

    @property
    def up(self) -> bool:
        """Whether there is a channel now, with a WebSocket."""
        return self._pool.channels.up

    @property
    def silent(self) -> bool:
        """Whether the worker that is awaited says nothing, on the channel of datagrams and
        questions: its path may have died, and another WebSocket is being opened."""
        primary = self._pool.channels.primary()
        return primary is not None and primary.silent

    @property
    def hopeless(self) -> bool:
        """Down for longer than the grace time: what is asked for now is refused at once."""
        return self._pool.outcomes.downtime.hopeless

    @property
    def memory(self) -> int:
        """Bytes that the worker may send, or has sent and no peer has taken, above the least; and
        those that are kept until the worker acknowledges them."""
        return self._pool.opener.budget.used + self._pool.opener.kept_budget.used

    @property
    def downtime(self) -> Downtime:
        """Since when it is up or down, and why."""
        return self._pool.outcomes.downtime

    @property
    def carriers(self) -> list[trio.socket.SocketType]:
        """The sockets of the channels."""
        carriers = (channel.carrier for channel in self._pool.channels)
        return [carrier for carrier in carriers if carrier is not None]

    @property
    def peer(self) -> Hello | None:
        """The HELLO of the worker, the last known one while the tunnel is down."""
        return self._pool.peer

    def abilities(self) -> dict[str, bool]:
        """Return what the worker in use carries: ``udp``, ``icmp``, ``dns``, ``ipv6``.

        Empty until its HELLO has come; while the tunnel is down, what the last one said.
        """
        peer = self.peer
        if peer is None:
            return {}
        return {"udp": peer.udp, "icmp": peer.icmp, "dns": peer.dns, "ipv6": peer.ipv6}

    def slowness(self) -> float:
        """Return the longest round trip of a channel now, in seconds, queues included.

        On a slow link whose queue is full this is how late an answer may be; 0: not known.
        """
        return self._pool.channels.slowness

    def stats(self) -> dict[str, Any]:
        """Return counters since the start, and gauges (``channels``, ``streams``, ``waiting``).

        ``streams_moved`` counts how often a channel refused a stream, which then went to another;
        ``streams_refused_here`` the streams that none has taken in time.
        """
        return self._pool.stats()

    # running

    async def run(self, *, task_status: trio.TaskStatus[Hello] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the tunnel up until cancelled; started, with the worker's HELLO, when it first is.

        An unreachable worker is tried again, with delays, for ever. After the start nothing is
        raised for what worker and network do.

        :raises ZksError: before the start, for what will not pass by itself: AuthError,
            CertificateError, WorkerNotFound, ConfigError, PrivilegeError.
        """
        await self._pool.run(task_status=task_status)

    def reconnect(self, why: str) -> None:
        """Give up every WebSocket and open another at once: the network is not the same any more.

        A stream that waits for the tunnel waits ``grace`` seconds from now.

        :param why: for the log.
        """
        self._pool.reconnect(why)

    def renew(self, tokens: Sequence[str | None]) -> None:
        """Use other tokens, and read the file of certificates that are trusted again.

        What there is goes on: a session keeps its token until the worker refuses that.

        :param tokens: one for each worker, in the order in which they were named.
        :raises ConfigError: the file of certificates cannot be used; nothing is changed.
        """
        self._pool.renew(tokens)

    def retry(self) -> None:
        """If the tunnel is down, try now, not when the next attempt is due."""
        self._pool.retry()

    # what it is for

    def open_stream(
        self, host: str, port: int, peer: StreamPeer, *, marked: bool = True
    ) -> TunnelStream:
        """Open a TCP stream to ``host`` (an IP literal or a name) and ``port``; never blocks.

        Without a channel it waits for one until the tunnel has been down for ``grace`` seconds.

        :param peer: is told what becomes of the stream, not before this has returned, except that a
            tunnel that was stopped ends it at once.
        :param marked: the peer may have bytes already; False: it calls ``mark_ready`` when it has.
        :raises ValueError: for what cannot be a host or a port.
        """
        encode_host(host)
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        now = trio.current_time()
        deadline = self._pool.outcomes.downtime.over(now)
        if port == HTTPS and self.config.version.fetches_https:
            stream: TunnelStream = HttpsStream(
                host,
                port,
                peer,
                deadline,
                self._forget,
                self._no_tls,
                self.config.tls_patience,
            )
        else:
            stream = TunnelStream(host, port, peer, deadline, self._forget, marked=marked)
        self._pool.open(stream, now)
        return stream

    def _no_tls(self) -> None:
        """Warn, once, that TLS got no TLS back through a v1 worker."""
        if not self._told_no_tls:
            self._told_no_tls = True
            _log.warning(
                "TLS on port 443 was not answered by TLS: an original Worker serves ports 80 and "
                "443 by an HTTP fetch, so HTTPS cannot work through it. Deploy a v2 worker "
                "(python -m zks_lwip worker), and leave `protocol` v1 away."
            )

    async def connect_tcp(self, host: str, port: int) -> TunnelTcpStream:
        """Connect through the tunnel.

        :raises OSError: with the errno that a socket would have.
        """
        stream = TunnelTcpStream(self.linger)
        stream.attach(self.open_stream(host, port, stream))
        try:
            await stream.wait_connected()
        except BaseException:
            stream.abort()
            raise
        return stream

    def linger(self, stream: TunnelStream) -> None:
        """Let a stream that was closed here end by itself; reset it if it does not, in time."""
        self._pool.linger(stream)

    def open_association(self, peer: UdpPeer, sink: DatagramSink | None = None) -> Association:
        """Open a UDP association. It outlives channels: the worker's end of it may change.

        :param sink: takes its datagrams with those of others, where they come so; None: ``peer``
            takes them all.
        """
        return self._pool.associations.open(peer, sink)

    def send_datagrams(
        self, frames: bytes, count: int, size: int, associations: Sequence[int]
    ) -> tuple[int, int]:
        """Send datagrams of several associations: see :meth:`Associations.send_frames`."""
        return self._pool.associations.send_frames(frames, count, size, associations)

    def start_dns_query(self, message: bytes, on_answer: OnAnswer) -> Callable[[], None] | None:
        """Have the worker resolve a DNS message, without a task: see
        :meth:`Requests.start_dns_query`.
        """
        return self._pool.requests.start_dns_query(message, on_answer)

    async def dns_query(self, message: bytes) -> bytes:
        """Have the worker resolve a DNS message, and return its answer.

        :raises DnsError: as :meth:`Requests.dns_query`.
        """
        return await self._pool.requests.dns_query(message)

    async def echo(self, host: str, payload: bytes, timeout: float = 10.0) -> bytes:
        """Have the worker ping a host, and return the payload of the reply.

        :param host: an IP literal.
        :param timeout: seconds.
        :raises TunnelError: if the worker does not ping, or no reply came in time.
        """
        return await self._pool.requests.echo(host, payload, timeout)
