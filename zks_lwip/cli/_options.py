"""The tunnel options that ``connect`` and ``run`` share, and the configuration made from them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..config import (
    DEFAULT_HOST_LOOPBACK,
    DEFAULT_KEEPALIVE,
    DEFAULT_MTU,
    HostOptions,
    Icmp,
    Ipv6,
    KillSwitch,
    Protocol,
    VpnConfig,
    parse_host_loopback,
    parse_static_name,
    parse_worker_address,
    parse_worker_url,
    read_token_file,
)
from ..errors import ConfigError
from ..stats import format_summary

__all__ = [
    "EMBEDDED_NOTE",
    "flush_dns",
    "make_config",
    "print_stats",
    "print_stats_json",
    "set_up_logging",
    "tunnel_options",
]

if TYPE_CHECKING:
    from ..vpn import Vpn

_log = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])

EMBEDDED_NOTE = (
    "no --worker given: a worker runs here, as a child process. Everything goes through the "
    "tunnel, but still leaves from this machine and its address."
)

_OPTIONS = (
    click.option(
        "--worker",
        metavar="URL",
        help="The worker: wss://HOST[:PORT][/PATH]; without a path, /tunnel. Left out: a worker "
        "is started here, as a child process.",
    ),
    click.option(
        "--worker-address",
        metavar="IP",
        help="Where the worker is; the name in --worker is then for TLS only, and not looked up.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="A file whose first line is the worker's token, bare or as `NAME TOKEN`.",
    ),
    click.option(
        "--ca-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="PEM certificates to trust for worker and resolvers, besides the system's.",
    ),
    click.option(
        "--plaintext",
        is_flag=True,
        help="Allow ws:// to a worker that is not on loopback: token and traffic can then be "
        "read on the way.",
    ),
    click.option(
        "--protocol",
        type=click.Choice([item.value for item in Protocol]),
        default=Protocol.V2.value,
        show_default=True,
        help="v1 is for an original ZKS-Tunnel Worker: TCP and DNS only, UDP is refused at once. "
        "v1 is never chosen by itself.",
    ),
    click.option(
        "--tun",
        metavar="NAME",
        default="zks0",
        show_default=True,
        help="The name of the TUN device.",
    ),
    click.option(
        "--mtu",
        metavar="N",
        type=int,
        default=DEFAULT_MTU,
        show_default=True,
        help="The MTU of the TUN device, 1280 to 65535.",
    ),
    click.option(
        "--ipv6",
        type=click.Choice([item.value for item in Ipv6]),
        default=Ipv6.AUTO.value,
        show_default=True,
        help="IPv6 is tunnelled, or refused at once so that applications fall back to IPv4. auto: "
        "tunnelled if the worker has it.",
    ),
    click.option(
        "--icmp",
        type=click.Choice([item.value for item in Icmp]),
        default=Icmp.TUNNEL.value,
        show_default=True,
        help="Pings are sent by the worker (if it can), answered here for every address, or "
        "dropped.",
    ),
    click.option(
        "--dns",
        "dns_servers",
        metavar="URL",
        multiple=True,
        help="Ask this resolver: https://NAME/PATH@ADDRESS[,ADDRESS...] (DNS over HTTPS) or "
        "tls://NAME@ADDRESS (over TLS). Repeatable: the next one is asked when one fails.  "
        "[default: Cloudflare, then Quad9]",
    ),
    click.option(
        "--dns-via",
        type=click.Choice(["auto", "direct", "tunnel", "worker"]),
        default="auto",
        show_default=True,
        help="Resolvers are asked from this machine, through the tunnel, or the worker asks its "
        "own. auto: direct without --worker; with v1 worker; else tunnel, and worker if it reaches "
        "none.",
    ),
    click.option(
        "--dns-block",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        multiple=True,
        help="Names that do not exist, one a line (with all below), or lines of a hosts file: "
        "`0.0.0.0 NAME`. Repeatable; `connect` reads it again on SIGHUP.",
    ),
    click.option(
        "--dns-forward",
        metavar="DOMAIN=ADDRESS|worker",
        multiple=True,
        help="Ask the server at ADDRESS[:PORT] for names in this domain, by plain DNS and "
        "outside the tunnel: for the names of a LAN. `worker` has the worker ask its own name "
        "servers, through the tunnel: for names that its network alone knows. Repeatable.",
    ),
    click.option(
        "--dot",
        type=click.Choice(["allow", "block"]),
        default="allow",
        show_default=True,
        help="The applications' own DNS over TLS and QUIC (port 853) goes through the tunnel, or "
        "is refused.",
    ),
    click.option(
        "--dns-static",
        metavar="NAME=ADDRESS",
        multiple=True,
        help="Answer this name here. Repeatable; the same name again adds an address.",
    ),
    click.option(
        "--fast-connect",
        is_flag=True,
        help="Accept TCP connections before the worker has connected: one round trip less, but "
        "every port seems open.",
    ),
    click.option(
        "--max-flows",
        metavar="N",
        type=int,
        default=8192,
        show_default=True,
        help="TCP connections at a time; more are refused, the oldest unanswered first.",
    ),
    click.option(
        "--max-memory",
        metavar="MIB",
        type=int,
        default=256,
        show_default=True,
        help="MiB that all connections together may hold of what applications, or the other ends, "
        "have not taken yet, 16 to 65536; each keeps 48 KiB on top. As it fills, windows shrink.",
    ),
    click.option(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=10.0,
        show_default=True,
        help="For how long a lost tunnel is waited for before connections, datagrams and DNS "
        "queries are refused at once.",
    ),
    click.option(
        "--keepalive",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_KEEPALIVE,
        hidden=True,  # the tests cannot wait; no other user needs another value
    ),
    click.option(
        "--host-loopback",
        metavar="ADDRESS|none",
        default=None,
        help="Only without --worker: this address in the tunnel is the host's own 127.0.0.1.  "
        f"[default: {DEFAULT_HOST_LOOPBACK}]",
    ),
    click.option("--stats", is_flag=True, help="Print counters at the end, on stderr."),
    click.option(
        "-v",
        "--verbose",
        count=True,
        help="Say what happens, on stderr; -vv adds a line for the beginning and one for the end "
        "of every connection, with its addresses and why.",
    ),
)


def tunnel_options(function: _Function) -> _Function:
    """Add the shared options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def make_config(
    *,
    worker: str | None,
    worker_address: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    plaintext: bool,
    protocol: str,
    tun: str,
    mtu: int,
    ipv6: str,
    icmp: str,
    dns_servers: tuple[str, ...],
    dns_via: str,
    dns_block: tuple[Path, ...],
    dns_forward: tuple[str, ...],
    dot: str,
    dns_static: tuple[str, ...],
    fast_connect: bool,
    max_flows: int,
    max_memory: int,
    grace: float,
    keepalive: float,
    host_loopback: str | None,
    host: HostOptions | None = None,
    user: str | None = None,
    netns: str | None = None,
    kill_switch: str = KillSwitch.STRICT.value,
) -> VpnConfig:
    """The configuration that the options, and ``HTTPS_PROXY``, describe.

    Raises :class:`ConfigError`.
    """
    from ..dns.options import DnsOptions
    from ..tunnel.proxy import proxy_for

    dns = DnsOptions.parse(
        servers=dns_servers, via=dns_via, block=dns_block, forward=dns_forward, dot=dot
    )
    v1 = protocol == Protocol.V1.value
    dns.outside(embedded=worker is None, v1=v1)  # refuses what would leak
    if host_loopback is not None and worker is not None:
        raise ConfigError(
            "--host-loopback works only without --worker: a worker elsewhere cannot reach this "
            "host's loopback. Leave one of them out."
        )
    url = None if worker is None else parse_worker_url(worker)
    return VpnConfig(
        worker=url,
        worker_address=None if worker_address is None else parse_worker_address(worker_address),
        proxy=None if url is None else proxy_for(url, os.environ),
        token=None if token_file is None else read_token_file(token_file),
        ca_file=ca_file,
        plaintext=plaintext,
        protocol=Protocol(protocol),
        tun=tun,
        mtu=mtu,
        netns=netns,
        kill_switch=KillSwitch(kill_switch),
        host=HostOptions() if host is None else host,
        user=user,
        ipv6=Ipv6(ipv6),
        icmp=Icmp(icmp),
        dns=dns,
        dns_static=tuple(parse_static_name(text) for text in dns_static),
        fast_connect=fast_connect,
        max_flows=max_flows,
        max_memory=max_memory,
        grace=grace,
        keepalive=keepalive,
        host_loopback=(
            DEFAULT_HOST_LOOPBACK if host_loopback is None else parse_host_loopback(host_loopback)
        ),
    )


def set_up_logging(verbose: int) -> None:
    """Log to stderr: warnings, with ``-v`` what happens, with ``-vv`` all of it."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,  # of the libraries: their debug lines name hosts and headers
        format="zks-lwip: %(message)s" if verbose < 2 else "%(asctime)s %(name)s: %(message)s",
    )
    logging.getLogger("zks_lwip").setLevel(level)


def flush_dns(vpn: Vpn) -> None:
    """What SIGHUP asks for. A block list that cannot be read leaves the old one in force."""
    try:
        count = vpn.flush_dns()
    except ConfigError as error:
        _log.warning("%s", error)
    else:
        _log.info("DNS: %d answers forgotten, hosts file and block lists read again", count)


def print_stats(stats: dict[str, Any]) -> None:
    """The counters in a few lines, on stderr."""
    for line in format_summary(stats):
        click.echo(f"zks-lwip: {line}", err=True)


def print_stats_json(stats: dict[str, Any]) -> None:
    """The counters as one line of JSON, on stderr."""
    click.echo(json.dumps(stats, default=str, sort_keys=True), err=True)
