"""Make upstreams of ``--dns``, ``--dns-via`` and ``--dns-forward``.

``direct`` asks from this machine, ``tunnel`` through the worker (which sees only ciphertext, and
the resolver sees the worker's address), ``worker`` lets the worker ask its own name servers.
"""

from __future__ import annotations

import enum
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from ...errors import ConfigError
from ...net.tls import client_context
from .dial import Connect, direct
from .encrypted import EncryptedResolver, Timeouts
from .parse import DEFAULT_SERVERS, WORKER, parse_forward
from .plain import PlainResolver
from .resolver import Gate, NotApplicable, OnResult, Upstream, WorkerResolver
from .server import Server
from .transports import TRANSPORTS

__all__ = ["DnsTunnelAccess", "Upstreams", "Via", "choose_via", "make_upstreams", "read_forwards"]

_log = logging.getLogger(__name__)


class Via(enum.Enum):
    """Where queries leave (``--dns-via``)."""

    AUTO = "auto"
    DIRECT = "direct"
    TUNNEL = "tunnel"
    WORKER = "worker"


class DnsTunnelAccess(Gate, Protocol):
    """What is needed of the tunnel."""

    def start_dns_query(
        self, message: bytes, on_answer: Callable[[bytes | None], None]
    ) -> Callable[[], None] | None:
        """Ask the worker's name servers: see :class:`.QuickDnsTunnel`."""
        ...

    async def dns_query(self, message: bytes) -> bytes:
        """Ask the worker's name servers."""
        ...

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """Connect at the worker."""
        ...

    def slowness(self) -> float:
        """Return the round trip to the worker now, in seconds, queues included; 0: not known."""
        ...


@dataclass(frozen=True, slots=True)
class Upstreams:
    """What :class:`~zks_lwip.dns.service.DnsService` is given."""

    via: Via
    """AUTO here means: through the tunnel, and by the worker if it cannot reach any resolver."""
    resolvers: tuple[Upstream, ...]
    forward: tuple[tuple[str, Upstream], ...]


class _WorkerFallback(WorkerResolver):
    """The worker's name servers, once it has failed to connect to every resolver."""

    def __init__(self, tunnel: DnsTunnelAccess, others: Sequence[EncryptedResolver]) -> None:
        super().__init__(tunnel, tunnel)
        self._others = others
        self._told = False

    def start_query(self, query: bytes, on_result: OnResult) -> None:
        """Nothing is asked at once: whether it is for this case is up to :meth:`resolve`."""

    async def resolve(self, query: bytes) -> bytes:
        if not all(other.unreachable for other in self._others):
            raise NotApplicable("the worker can reach a resolver, so its own are not asked")
        if not self._told:
            self._told = True
            _log.warning("the worker cannot reach any DNS resolver; its own name servers are asked")
        return await super().resolve(query)


def choose_via(asked: Via, *, embedded: bool, v1: bool = False) -> Via:
    """Decide what ``asked`` comes to; AUTO then means: tunnel, with the worker as a last resort.

    :param embedded: the worker is this process's own child.
    :param v1: it speaks the first protocol.
    :raises ConfigError: what was asked for would leak.
    """
    if asked is Via.WORKER and embedded:
        raise ConfigError(
            "worker: without `worker` the worker is this machine itself, so that every query would "
            "leave it as plain DNS. Leave the option away, or name a worker with `worker` URL.",
            "dns.via",
        )
    if asked is not Via.AUTO:
        return asked
    if embedded:
        return Via.DIRECT
    return Via.WORKER if v1 else Via.AUTO


def read_forwards(texts: Sequence[str], *, embedded: bool) -> list[tuple[str, str, int]]:
    """Read all of ``--dns-forward`` by :func:`~.parse.parse_forward`.

    :param embedded: the worker is this process's own child.
    :raises ConfigError: a text is malformed, or what was asked for would leak.
    """
    forwards = [parse_forward(text) for text in texts]
    for domain, address, _ in forwards:
        if embedded and address == WORKER:
            raise ConfigError(
                f"{domain}=worker: without `worker` the worker is this machine itself. Give the "
                "address of a name server, or name a worker with `worker` URL.",
                "dns.forward",
            )
    return forwards


def make_upstreams(
    servers: Sequence[Server] = (),
    *,
    tunnel: DnsTunnelAccess,
    via: Via = Via.AUTO,
    embedded: bool,
    v1: bool = False,
    mark: int | None = None,
    ca_file: Path | None = None,
    forward: Sequence[str] = (),
    timeouts: Timeouts = Timeouts(),  # noqa: B008 (it is frozen)
) -> Upstreams:
    """Build the upstreams.

    :param servers: empty means :data:`~.parse.DEFAULT_SERVERS`.
    :param mark: the firewall mark of sockets that stay outside the TUN.
    :param ca_file: roots besides the system's.
    :param forward: texts DOMAIN=ADDRESS or DOMAIN=worker.
    :raises ConfigError: the options contradict each other, or a file cannot be read.
    """
    chosen = choose_via(via, embedded=embedded, v1=v1)
    outside = direct(mark)
    forwards: list[tuple[str, Upstream]] = []
    plain: dict[tuple[str, int], PlainResolver] = {}  # several domains may go to one server
    by_worker = WorkerResolver(tunnel, tunnel)
    for domain, address, port in read_forwards(forward, embedded=embedded):
        if address == WORKER:
            forwards.append((domain, by_worker))
            continue
        if (address, port) not in plain:
            plain[address, port] = PlainResolver(address, port, outside, mark=mark)
        forwards.append((domain, plain[address, port]))
    if chosen is Via.WORKER:
        if servers:
            raise ConfigError(
                "names a resolver, but with `dns.via` worker the worker chooses; "
                "use `dns.via` tunnel, or leave `dns.servers` away",
                "dns.servers",
            )
        worker: tuple[Upstream, ...] = (WorkerResolver(tunnel, tunnel),)
        return Upstreams(chosen, worker, tuple(forwards))
    connect: Connect = outside if chosen is Via.DIRECT else tunnel.connect_tcp
    gate = None if chosen is Via.DIRECT else tunnel
    encrypted: list[EncryptedResolver] = []
    contexts: dict[str, ssl.SSLContext] = {}  # reading the system's roots takes 20 ms
    for server in servers or DEFAULT_SERVERS:
        transport = TRANSPORTS[server.scheme]
        if transport.alpn not in contexts:
            contexts[transport.alpn] = client_context(transport.alpn, ca_file)
        encrypted.append(
            transport(
                server,
                connect,
                contexts[transport.alpn],
                gate=gate,
                slowness=tunnel.slowness,
                timeouts=timeouts,
            )
        )
    resolvers: list[Upstream] = list(encrypted)
    if chosen is Via.AUTO:
        resolvers.append(_WorkerFallback(tunnel, encrypted))
    return Upstreams(chosen, tuple(resolvers), tuple(forwards))
