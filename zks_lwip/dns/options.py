"""The DNS options of a tunnel, checked, and the service made from them."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .._util import choice
from ..errors import ConfigError
from .local import LocalNames, StaticName, parse_static_name
from .service import DnsService
from .upstream.parse import DEFAULT_SERVERS, WORKER, parse_forward, parse_server
from .upstream.select import DnsTunnelAccess, Via, choose_via, make_upstreams, read_forwards
from .upstream.server import Server

__all__ = [
    "DnsOptions",
    "Dot",
    "StaticName",
    "load_service",
    "make_service",
    "parse_static_name",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DOT_PORT = 853
_PUT_OFF = ("dns.message",)
_PUT_OFF_DOH = ("zks_lwip.dns.upstream.doh_connection",)
"""What is loaded with the service, not with the options: it takes long. And not when it is needed:
by then privileges may have been given away, or descriptors run out, and files not be read."""


class Dot(enum.Enum):
    """What happens to the applications' own DNS over TLS and over QUIC."""

    ALLOW = "allow"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    """Who is asked, which way, and which names are not.

    :raises ConfigError: a forward or a block list cannot be used, or options contradict each other.
    """

    servers: tuple[Server, ...] = ()
    """Resolvers over HTTPS or TLS, the next asked when one fails; empty: Cloudflare and Quad9."""
    via: Via = Via.AUTO
    """Who asks: this machine, through the tunnel, or the worker its own name servers."""
    block: tuple[Path, ...] = ()
    """Files of names that do not exist, with all below them."""
    forward: tuple[str, ...] = ()
    """Texts DOMAIN=ADDRESS[:PORT] or DOMAIN=worker: who is asked for the names of a domain."""
    dot: Dot = Dot.ALLOW

    if TYPE_CHECKING:
        # Texts are read, as `parse` does; what the fields hold has been.
        def __init__(
            self,
            *,
            servers: Iterable[Server | str] = ...,
            via: Via | str = ...,
            block: Iterable[Path | str] = ...,
            forward: tuple[str, ...] = ...,
            dot: Dot | str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "via", choice(Via, self.via, "dns.via"))
        object.__setattr__(self, "dot", choice(Dot, self.dot, "dns.dot"))
        servers = (parse_server(s) if isinstance(s, str) else s for s in self.servers)
        object.__setattr__(self, "servers", tuple(servers))
        object.__setattr__(self, "block", tuple(Path(path) for path in self.block))
        for text in self.forward:
            parse_forward(text)
        if self.block:
            LocalNames(hosts=None, block=self.block)
        if self.servers and self.via is Via.WORKER:
            raise ConfigError(
                "names a resolver, but with `dns.via` worker the worker chooses; "
                "use `dns.via` tunnel, or leave `dns.servers` away",
                "dns.servers",
            )

    @classmethod
    def parse(
        cls,
        *,
        servers: Iterable[str] = (),
        via: str = "auto",
        block: Iterable[Path] = (),
        forward: Iterable[str] = (),
        dot: str = "allow",
    ) -> DnsOptions:
        """Read the options as texts.

        :raises ConfigError: one cannot be read.
        """
        return cls(
            servers=tuple(parse_server(text) for text in servers),
            via=Via(via),
            block=tuple(block),
            forward=tuple(forward),
            dot=Dot(dot),
        )

    def outside(self, *, embedded: bool, v1: bool = False) -> tuple[Network, ...]:
        """Return the addresses that will be asked from this machine, outside the tunnel.

        :param embedded: the worker is our own child.
        :param v1: the worker speaks the first protocol.
        :raises ConfigError: ``via``, ``forward`` or ``servers`` does not go with the worker.
        """
        forwards = read_forwards(self.forward, embedded=embedded)
        addresses = [address for _, address, _ in forwards if address != WORKER]
        chosen = choose_via(self.via, embedded=embedded, v1=v1)
        if chosen is Via.WORKER and self.servers:
            raise ConfigError(
                "names a resolver, but with `protocol` v1 the worker's own are asked: TLS on "
                "port 443 does not get through an original Worker. Leave `dns.servers` away, or "
                "insist with `dns.via` tunnel or direct.",
                "dns.servers",
            )
        if chosen is Via.DIRECT:
            for server in self.servers or DEFAULT_SERVERS:
                addresses += server.addresses
        # A link-local address has a zone, which the firewall does not know.
        plain = dict.fromkeys(address.partition("%")[0] for address in addresses)
        return tuple(map(ipaddress.ip_network, plain))

    def refuses(self, port: int) -> bool:
        """Return whether flows to ``port``, TCP or UDP, are refused as applications' own DNS."""
        return port == DOT_PORT and self.dot is Dot.BLOCK


def load_service(options: DnsOptions, *, embedded: bool, v1: bool = False) -> None:
    """Load what takes long of what :func:`make_service` needs with these options.

    :param embedded: the worker is our own child.
    :param v1: the worker speaks the first protocol.
    :raises ConfigError: an option does not go with the worker.
    """
    asked = choose_via(options.via, embedded=embedded, v1=v1)
    for module in (*_PUT_OFF, *(() if asked is Via.WORKER else _PUT_OFF_DOH)):
        import_module(module)


def make_service(
    options: DnsOptions,
    tunnel: DnsTunnelAccess,
    *,
    embedded: bool,
    v1: bool = False,
    mark: int | None = None,
    ca_file: Path | None = None,
    static: Sequence[StaticName] = (),
    hosts: Path | str | None = "/etc/hosts",
    grace: float = 10.0,
) -> DnsService:
    """Build the service.

    :param embedded: the worker is our own child.
    :param v1: the worker speaks the first protocol.
    :param mark: SO_MARK of sockets that stay outside the TUN.
    :param ca_file: PEM file of certificates that are trusted for resolvers, besides the system's.
    :param static: names that are answered here.
    :param grace: seconds for which a lost tunnel is waited for.
    :raises ConfigError: an option cannot be used, or does not go with the worker.
    """
    load_service(options, embedded=embedded, v1=v1)
    upstreams = make_upstreams(
        options.servers,
        tunnel=tunnel,
        via=options.via,
        embedded=embedded,
        v1=v1,
        mark=mark,
        ca_file=ca_file,
        forward=options.forward,
    )
    return DnsService(
        upstreams.resolvers,
        static=static,
        hosts=hosts,
        block=options.block,
        forward=upstreams.forward,
        grace=grace,
    )
