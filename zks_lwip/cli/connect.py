"""``connect``: the whole machine, or one network namespace."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import click
import trio

from ..config import KillSwitch, VpnConfig
from ..vpn import Vpn, open_vpn
from ._notify import notify
from ._options import (
    EMBEDDED_NOTE,
    flush_dns,
    make_config,
    print_stats,
    print_stats_json,
    set_up_logging,
    tunnel_options,
)

__all__ = ["connect"]

_STOP = {signal.SIGINT, signal.SIGTERM}
_TELL = {signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set()
_FLUSH = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()


@click.command()
@tunnel_options
@click.option(
    "--netns",
    metavar="NAME",
    help="Capture this network namespace (of `ip netns`) only; the worker is reached from the "
    "one we are in.",
)
@click.option(
    "--kill-switch",
    type=click.Choice([item.value for item in KillSwitch]),
    default=KillSwitch.STRICT.value,
    show_default=True,
    help="What holds the traffic when the tunnel does not. strict: routes that refuse, and a "
    "firewall (needs nft); route: only the routes; off: nothing, the machine falls back to its "
    "own network when we stop or die.",
)
def connect(*, stats: bool, verbose: int, **options: Any) -> None:
    """Carry all traffic of this machine, or of one network namespace, through a worker.

    Needs root or CAP_NET_ADMIN. A TUN device, a routing table of our own and a few rules are set
    up, and taken down again when it ends. Prints one line when it is ready, tells systemd, and
    then works until SIGINT or SIGTERM, which end it with exit code 0. SIGUSR1 prints the counters
    as one line of JSON on stderr.

    \b
    Through a worker elsewhere, its token in a file:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt
    One namespace only, with a private certificate authority:
      python -m zks_lwip connect --netns blue --worker wss://10.0.0.7:8443 --ca-file ca.pem

    At the start, a worker that refuses the token, whose certificate does not verify, or that is
    none, ends this with one sentence and an exit code of its own (see `zks_lwip --help`), and the
    machine is as before. A worker that cannot be reached is tried again and again. Once ready,
    nothing of that ends it: while the tunnel is down, traffic is refused rather than let out, and
    the reason is logged.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine.
    """
    set_up_logging(verbose)
    config = make_config(**options)
    if config.embedded:
        click.echo(f"zks-lwip: {EMBEDDED_NOTE}", err=True)
    trio.run(_connect, config, stats)


async def _connect(config: VpnConfig, stats: bool) -> None:
    # What is restored when the receiver is closed: nothing that asks us to stop while we are
    # stopping may cut that short, or change the exit code.
    early: list[int] = []
    for number in _STOP:
        signal.signal(number, lambda received, _: early.append(received))
    with trio.open_signal_receiver(*_STOP, *_TELL, *_FLUSH) as signals:
        if early:
            return
        async with trio.open_nursery() as nursery:
            running: list[Vpn] = []
            nursery.start_soon(_obey, signals, nursery.cancel_scope, running)
            async with open_vpn(config) as vpn:
                running.append(vpn)
                click.echo(f"ready: {vpn.interface} → {vpn.worker}")
                notify("READY=1", f"STATUS=connected to {vpn.worker}")
                try:
                    await trio.sleep_forever()
                finally:
                    notify("STOPPING=1")
                    if stats:
                        print_stats(vpn.stats())


async def _obey(signals: AsyncIterator[int], scope: trio.CancelScope, running: list[Vpn]) -> None:
    async for number in signals:
        if number in _STOP:
            scope.cancel()
            return
        for vpn in running:
            if number in _FLUSH:
                flush_dns(vpn)
                continue
            print_stats_json(vpn.stats())
