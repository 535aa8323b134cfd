"""The options that ``connect``, ``run`` and ``proxy`` share.

They come in groups: ``proxy`` has no TUN, and answers no DNS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..device.options import DEFAULT_MTU, DEFAULT_TUN
from ..gateway.options import DEFAULT_HOST_LOOPBACK, Icmp, Ipv6
from ..stack.options import DEFAULT_KEEPALIVE
from ..tunnel.endpoint import Protocol
from ._configured import settings_options
from ._environment import echo_or_go_on
from ._help import option_group
from ._logging import log_format_option
from ._metrics import metrics_option
from ._summary import format_summary
from .show import NO_UDP

if TYPE_CHECKING:
    from ..vpn import RunningProxy, Vpn

__all__ = [
    "EMBEDDED_NOTE",
    "bootstrap_options",
    "examined_worker_options",
    "print_stats",
    "print_stats_json",
    "proxy_options",
    "show_worker",
    "tunnel_options",
    "worker_options",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

EMBEDDED_NOTE = (
    "no --worker given: a worker runs here, as a child process. Everything goes through the "
    "tunnel, but still leaves from this machine and its address."
)


def _worker_option(several: str, left_out: str) -> Callable[[_Function], _Function]:
    return click.option(
        "--worker",
        metavar="URL",
        multiple=True,
        help="The worker: wss://HOST[:PORT][/PATH]; without a path, /tunnel. Repeatable: "
        f"{several} Left out: {left_out}",
    )


_REACHED = (
    click.option(
        "--worker-address",
        metavar="IP",
        multiple=True,
        help="Where the worker is; the name in --worker is then for TLS only, and not looked up. "
        "With several workers: one for each, in their order; `-` for one that is looked up.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        multiple=True,
        help="A file whose first line is the worker's token, bare or as `NAME TOKEN`. Others must "
        "not be able to read it. With several workers: one file for all of them, or one for each, "
        "in their order.",
    ),
    click.option(
        "--ca-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="PEM certificates to trust for worker and resolvers, besides the system's.",
    ),
    click.option(
        "--plaintext/--no-plaintext",
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
)
"""How a worker is reached."""

_DNS = click.option(
    "--dns",
    "dns_servers",
    metavar="URL",
    multiple=True,
    help="Ask this resolver: https://NAME/PATH@ADDRESS[,ADDRESS...] (DNS over HTTPS) or "
    "tls://NAME@ADDRESS (over TLS). Repeatable: the next one is asked when one fails.  "
    "[default: Cloudflare, then Quad9]",
)
_DNS_FORWARD = click.option(
    "--dns-forward",
    metavar="DOMAIN=ADDRESS|worker",
    multiple=True,
    help="Ask the server at ADDRESS[:PORT] for names in this domain, by plain DNS and "
    "outside the tunnel: for the names of a LAN. `worker` has the worker ask its own name "
    "servers, through the tunnel: for names that its network alone knows. Repeatable.",
)
_DNS_STATIC = click.option(
    "--dns-static",
    metavar="NAME=ADDRESS",
    multiple=True,
    help="Answer this name here. Repeatable; the same name again adds an address.",
)

_CAPTURE = (
    click.option(
        "--tun",
        metavar="NAME",
        default=DEFAULT_TUN,
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
    _DNS,
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
        "`0.0.0.0 NAME`. Repeatable; `reload` has `connect` read it again.",
    ),
    _DNS_FORWARD,
    click.option(
        "--dot",
        type=click.Choice(["allow", "block"]),
        default="allow",
        show_default=True,
        help="The applications' own DNS over TLS and QUIC (port 853) goes through the tunnel, or "
        "is refused.",
    ),
    _DNS_STATIC,
    click.option(
        "--fast-connect/--no-fast-connect",
        help="Accept TCP connections before the worker has connected: one round trip less, but "
        "every port seems open.",
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
)
"""What is captured, and how its packets and its DNS are treated."""

_LIMITS = (
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
        "--channels",
        metavar="N",
        type=int,
        default=1,
        show_default=True,
        help="Spread connections over so many WebSockets, 1 to 16: over a path that is long and "
        "loses packets several carry more than one. More are opened by themselves where the worker "
        "takes few connections on each.",
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
        "--resume",
        metavar="SECONDS",
        type=int,
        default=60,
        show_default=True,
        help="For how long open connections outlive a lost tunnel: they stall, and go on when "
        "there is a network again, or another one. Then they are reset. 0: they are reset at once. "
        "The worker may say less.",
    ),
    click.option(
        "--fast-open/--no-fast-open",
        help="Save a round trip when a lost tunnel is resumed, by TCP Fast Open (Linux), where the "
        "worker's system has sysctl net.ipv4.tcp_fastopen=3. An observer of several networks can "
        "tell by its cookie that they have the same client.",
    ),
)
"""How much there may be of what, and for how long it waits."""

_OUTPUT = (
    metrics_option,
    click.option("--stats/--no-stats", help="Print counters at the end, on stderr."),
    click.option(
        "-v",
        "--verbose",
        count=True,
        help="Say what happens, on stderr; -vv adds a line for the beginning and one for the end "
        "of every connection, with its addresses and why.",
    ),
    log_format_option,
)


worker_options = option_group(
    "The worker",
    _worker_option(
        "the nearest that is well carries new connections, and another when it fails.",
        "a worker is started here, as a child process.",
    ),
    *_REACHED,
)
"""Adds the options that name workers."""
examined_worker_options = option_group(
    "The worker",
    _worker_option("each is looked at.", "those of the settings."),
    *_REACHED,
)
"""Adds those that name workers to look at."""
bootstrap_options = option_group("How its name is looked up", _DNS, _DNS_FORWARD, _DNS_STATIC)
"""Adds the options that say what a worker's name resolves to."""
_CAPTURE_GROUP = option_group("What is captured, and its DNS", *_CAPTURE)
_LIMITS_GROUP = option_group("Limits", *_LIMITS)
_OUTPUT_GROUP = option_group("Output", *_OUTPUT)


def tunnel_options(function: _Function) -> _Function:
    """Add the shared options to a command that has a TUN."""
    for add in (_OUTPUT_GROUP, settings_options, _LIMITS_GROUP, _CAPTURE_GROUP, worker_options):
        function = add(function)
    return function


def proxy_options(function: _Function) -> _Function:
    """Add those of the shared options that need no TUN."""
    for add in (_OUTPUT_GROUP, settings_options, _LIMITS_GROUP, worker_options):
        function = add(function)
    return function


def show_worker(running: Vpn | RunningProxy) -> str:
    """Return the worker that is in use, and whether it lacks UDP, as the line "ready" has it."""
    several = len(running.workers())
    worker = str(running.worker) if several == 1 else f"{running.worker} (of {several} workers)"
    return worker if running.abilities().get("udp", True) else f"{worker}, which carries {NO_UDP}"


def print_stats(stats: dict[str, Any]) -> None:
    """Print the counters in a few lines, on stderr."""
    for line in format_summary(stats):
        echo_or_go_on(f"zks-lwip: {line}", err=True)


def print_stats_json(stats: dict[str, Any]) -> None:
    """Print the counters as one line of JSON, on stderr."""
    echo_or_go_on(json.dumps(stats, default=str, sort_keys=True), err=True)
