"""Who is asked, and which way: ``--dns``, ``--dns-via`` and ``--dns-forward`` made into resolvers.

``direct`` asks from this machine, ``tunnel`` through the worker (which sees only ciphertext, and
the resolver sees the worker's address), ``worker`` lets the worker ask its own name servers.
"""

from __future__ import annotations

import enum
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from zks_lwip.dns.dial import Connect, direct, tls_context
from zks_lwip.dns.doh import DohResolver
from zks_lwip.dns.dot import DotResolver
from zks_lwip.dns.link import LinkedResolver
from zks_lwip.dns.plain import PlainResolver
from zks_lwip.dns.resolver import Gate, NotApplicable, Resolver, WorkerResolver
from zks_lwip.dns.servers import DEFAULT_SERVERS, WORKER, Server, parse_forward
from zks_lwip.errors import ConfigError

__all__ = ["DnsTunnelAccess", "Upstreams", "Via", "choose_via", "make_upstreams", "read_forwards"]

logger = logging.getLogger(__name__)


class Via(enum.Enum):
    """Where queries leave (``--dns-via``)."""

    AUTO = "auto"
    DIRECT = "direct"
    TUNNEL = "tunnel"
    WORKER = "worker"


class DnsTunnelAccess(Gate, Protocol):
    """What is needed of the tunnel."""

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
    resolvers: tuple[Resolver, ...]
    forward: tuple[tuple[str, Resolver], ...]
    direct: tuple[tuple[str, int, str], ...]
    """(address, port, "tcp" or "udp") that are contacted from this machine, outside the tunnel."""


class _WorkerFallback(WorkerResolver):
    """The worker's name servers, once it has failed to connect to every resolver."""

    def __init__(self, tunnel: DnsTunnelAccess, others: Sequence[LinkedResolver]) -> None:
        super().__init__(tunnel, tunnel)
        self._others = others
        self._told = False

    async def resolve(self, query: bytes) -> bytes:
        if not all(other.unreachable for other in self._others):
            raise NotApplicable("the worker can reach a resolver, so its own are not asked")
        if not self._told:
            self._told = True
            logger.warning("the worker cannot reach any DNS resolver; it asks its own for us")
        return await super().resolve(query)


def choose_via(asked: Via, *, embedded: bool, v1: bool = False) -> Via:
    """Decide what `asked` comes to; AUTO in the answer is tunnel with the worker as a last resort.

    `embedded`: the worker is our own child; `v1`: it speaks the first protocol. Raises
    :class:`~zks_lwip.errors.ConfigError` where what was asked for would leak.
    """
    if asked is Via.WORKER and embedded:
        raise ConfigError(
            "--dns-via worker: without --worker the worker is this machine itself, so that every "
            "query would leave it as plain DNS. Leave the option away, or name a worker with "
            "--worker URL."
        )
    if asked is not Via.AUTO:
        return asked
    if embedded:
        return Via.DIRECT
    return Via.WORKER if v1 else Via.AUTO


def read_forwards(texts: Sequence[str], *, embedded: bool) -> list[tuple[str, str, int]]:
    """Read all of ``--dns-forward`` by :func:`~zks_lwip.dns.servers.parse_forward`.

    `embedded`: the worker is our own child. Raises :class:`~zks_lwip.errors.ConfigError` where what
    was asked for would leak.
    """
    forwards = [parse_forward(text) for text in texts]
    for domain, address, _ in forwards:
        if embedded and address == WORKER:
            raise ConfigError(
                f"--dns-forward {domain}=worker: without --worker the worker is this machine "
                "itself. Give the address of a name server, or name a worker with --worker URL."
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
    ca_file: Path | str | None = None,
    forward: Sequence[str] = (),
) -> Upstreams:
    """Build the resolvers; `servers` empty means :data:`~zks_lwip.dns.servers.DEFAULT_SERVERS`.

    `mark` is the firewall mark of sockets that stay outside the TUN, `ca_file` holds roots besides
    the system's, `forward` are texts DOMAIN=ADDRESS or DOMAIN=worker. Raises
    :class:`~zks_lwip.errors.ConfigError`.
    """
    chosen = choose_via(via, embedded=embedded, v1=v1)
    outside = direct(mark)
    forwards: list[tuple[str, Resolver]] = []
    plain: dict[tuple[str, int], PlainResolver] = {}  # several domains may go to one server
    by_worker = WorkerResolver(tunnel, tunnel)
    exempt: list[tuple[str, int, str]] = []
    for domain, address, port in read_forwards(forward, embedded=embedded):
        if address == WORKER:
            forwards.append((domain, by_worker))
            continue
        if (address, port) not in plain:
            plain[address, port] = PlainResolver(address, port, outside, mark=mark)
        forwards.append((domain, plain[address, port]))
        exempt += [(address, port, "udp"), (address, port, "tcp")]
    if chosen is Via.WORKER:
        if servers:
            raise ConfigError(
                "--dns names a resolver, but with --dns-via worker the worker chooses; "
                "use --dns-via tunnel, or leave --dns away"
            )
        worker: tuple[Resolver, ...] = (WorkerResolver(tunnel, tunnel),)
        return Upstreams(chosen, worker, tuple(forwards), tuple(exempt))
    connect: Connect = outside if chosen is Via.DIRECT else tunnel.connect_tcp
    gate = None if chosen is Via.DIRECT else tunnel
    linked: list[LinkedResolver] = []
    contexts: dict[str, ssl.SSLContext] = {}  # reading the system's roots takes 20 ms
    for server in servers or DEFAULT_SERVERS:
        over_https = server.kind == "https"
        alpn = "h2" if over_https else "dot"
        if alpn not in contexts:
            contexts[alpn] = tls_context(alpn, _readable(ca_file))
        make = DohResolver if over_https else DotResolver
        linked.append(make(server, connect, contexts[alpn], gate=gate, slowness=tunnel.slowness))
        if chosen is Via.DIRECT:
            exempt += [(address, server.port, "tcp") for address in server.addresses]
    resolvers: list[Resolver] = list(linked)
    if chosen is Via.AUTO:
        resolvers.append(_WorkerFallback(tunnel, linked))
    return Upstreams(chosen, tuple(resolvers), tuple(forwards), tuple(exempt))


def _readable(ca_file: Path | str | None) -> Path | str | None:
    if ca_file is not None and not Path(ca_file).is_file():
        raise ConfigError(f"--ca-file {ca_file}: there is no such file")
    return ca_file
