"""``run -- CMD``: one program, without privilege."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from .._descriptors import raise_descriptor_limit
from ..config import StaticName, VpnConfig, parse_static_name
from ..errors import ConfigError
from ._environment import caller_environment
from ._options import EMBEDDED_NOTE, make_config, print_stats, set_up_logging, tunnel_options

if TYPE_CHECKING:
    from ..host.rootless import Rootless

__all__ = ["run"]

_HOSTS = Path("/etc/hosts")


@click.command(context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --")
@tunnel_options
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context, /, *, cmd: tuple[str, ...], stats: bool, verbose: int, **options: Any
) -> None:
    """Run a command whose only way to the network is the tunnel. Needs no privilege.

    CMD runs in a user, a mount and a network namespace of its own, with your uid, environment,
    directory and terminal. It sees a TUN device and nothing else, so nothing of it can leave
    beside the tunnel; nothing of the machine is changed. Names are resolved through the tunnel,
    whatever name servers /etc/resolv.conf has. Signals go to CMD, its exit code becomes ours (127:
    no such command, 126: it cannot be run), and the tunnel ends when it does.

    \b
    A first look, with a worker that is started here:
      python -m zks_lwip run -- curl http://example.com/
    The counters of what went through, at the end:
      python -m zks_lwip run --stats -- git clone https://example.com/repo.git
    Through a worker elsewhere:
      python -m zks_lwip run --worker wss://worker.example --token-file token.txt -- ssh host

    Needs Linux with user namespaces and a /dev/net/tun that one may open; where something is
    missing, the error names the setting. Services that CMD reaches by unix sockets (a container
    engine, a desktop's D-Bus) run outside, and what they do goes outside.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine.
    """
    set_up_logging(verbose)
    config = make_config(**options)
    config = replace(config, dns_static=(*config.dns_static, *_own_names(config)))
    if config.embedded:
        click.echo(f"zks-lwip: {EMBEDDED_NOTE}", err=True)
    from ..host.rootless import spawn

    # Before trio and any thread: a threaded process cannot make a user namespace.
    with spawn(name=config.tun, mtu=config.mtu, vnet_hdr=True) as child:
        raise_descriptor_limit()  # ours: the process of the command keeps the caller's
        code = trio.run(_run, config, child, cmd, stats, verbose)
    ctx.exit(code)


async def _run(
    config: VpnConfig, child: Rootless, cmd: tuple[str, ...], stats: bool, verbose: int
) -> int:
    from ..vpn import open_vpn

    async with open_vpn(config, device=child.device) as vpn:
        if verbose:
            click.echo(f"zks-lwip: ready: {vpn.interface} → {vpn.worker}", err=True)
        child.start(cmd, env=caller_environment())
        code = await child.wait()
        if stats:
            print_stats(vpn.stats())
    return code


def _own_names(config: VpnConfig) -> list[StaticName]:
    """This machine's name, with the TUN's addresses, lest it be asked of a resolver outside.

    For systems without nss-myhostname(8), as which it answers. A name with a dot may be one of the
    public DNS, and is left to it.
    """
    from ..host.addresses import TUN_IPV4, TUN_IPV6

    name = socket.gethostname().lower()
    if "." in name or name in _hosts_names() or name in {item.name for item in config.dns_static}:
        return []
    try:
        return [parse_static_name(f"{name}={tun.ip}") for tun in (TUN_IPV4, TUN_IPV6)]
    except ConfigError:
        return []  # no name of DNS: it cannot be asked for


def _hosts_names() -> set[str]:
    try:
        text = _HOSTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()  # what the resolver library makes of it, too
    lines = (line.partition("#")[0].lower().split() for line in text.splitlines())
    return {name for fields in lines for name in fields[1:]}
