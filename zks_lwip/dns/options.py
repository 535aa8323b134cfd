"""The DNS options of a tunnel, checked, and the service made from them."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zks_lwip.dns.local import LocalNames
from zks_lwip.dns.servers import DEFAULT_SERVERS, WORKER, Server, parse_forward, parse_server
from zks_lwip.dns.service import DnsService
from zks_lwip.dns.upstreams import (
    DnsTunnelAccess,
    Via,
    choose_via,
    make_upstreams,
    read_forwards,
)
from zks_lwip.errors import ConfigError

__all__ = ["DnsOptions", "Dot", "make_service"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DOT_PORT = 853


class Dot(enum.Enum):
    """What happens to the applications' own DNS over TLS and over QUIC (``--dot``)."""

    ALLOW = "allow"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    """``--dns``, ``--dns-via``, ``--dns-block``, ``--dns-forward`` and ``--dot``.

    Raises :class:`~zks_lwip.errors.ConfigError` for a forward or a block list that is no good.
    """

    servers: tuple[Server, ...] = ()
    """Empty: Cloudflare and Quad9."""
    via: Via = Via.AUTO
    block: tuple[Path, ...] = ()
    forward: tuple[str, ...] = ()
    """Texts DOMAIN=ADDRESS or DOMAIN=worker."""
    dot: Dot = Dot.ALLOW

    def __post_init__(self) -> None:
        for text in self.forward:
            parse_forward(text)
        if self.block:
            LocalNames(hosts=None, block=self.block)
        if self.servers and self.via is Via.WORKER:
            raise ConfigError(
                "--dns names a resolver, but with --dns-via worker the worker chooses; "
                "use --dns-via tunnel, or leave --dns away"
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
        """Read what was written on the command line."""
        return cls(
            servers=tuple(parse_server(text) for text in servers),
            via=Via(via),
            block=tuple(block),
            forward=tuple(forward),
            dot=Dot(dot),
        )

    def outside(self, *, embedded: bool, v1: bool = False) -> tuple[Network, ...]:
        """Return the addresses that will be asked from this machine, outside the tunnel.

        Raises :class:`~zks_lwip.errors.ConfigError` if `via` or `forward` does not go with the
        worker.
        """
        forwards = read_forwards(self.forward, embedded=embedded)
        addresses = [address for _, address, _ in forwards if address != WORKER]
        chosen = choose_via(self.via, embedded=embedded, v1=v1)
        if chosen is Via.WORKER and self.servers:
            raise ConfigError(
                "--dns names a resolver, but with --protocol v1 the worker's own are asked: TLS on "
                "port 443 does not get through an original Worker. Leave --dns away, or insist "
                "with --dns-via tunnel or direct."
            )
        if chosen is Via.DIRECT:
            for server in self.servers or DEFAULT_SERVERS:
                addresses += server.addresses
        # A link-local address has a zone, which the firewall does not know.
        plain = dict.fromkeys(address.partition("%")[0] for address in addresses)
        return tuple(map(ipaddress.ip_network, plain))

    def refuses(self, port: int) -> bool:
        """Whether a flow of an application to `port`, TCP or UDP, is refused as DNS of its own."""
        return port == DOT_PORT and self.dot is Dot.BLOCK


def make_service(
    options: DnsOptions,
    tunnel: DnsTunnelAccess,
    *,
    embedded: bool,
    v1: bool = False,
    mark: int | None = None,
    ca_file: Path | None = None,
    static: Sequence[str] = (),
    hosts: Path | str | None = "/etc/hosts",
    grace: float = 10.0,
) -> DnsService:
    """Build the service; `mark` is the firewall mark of sockets that stay outside the TUN, and
    `ca_file` holds certificates to trust for resolvers, besides the system's.

    Raises :class:`~zks_lwip.errors.ConfigError`.
    """
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
