"""``connect``: the whole machine, or one network namespace."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click
import trio

from .._descriptors import raise_descriptor_limit
from ..config import VpnConfig
from ._host_options import host_options, make_host_options
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

if TYPE_CHECKING:
    from ..host.remote import SshConnection
    from ._instance import Instance

__all__ = ["connect"]

_STOP = {signal.SIGINT, signal.SIGTERM}
_TELL = {signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set()
_FLUSH = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()


@click.command()
@tunnel_options
@host_options
def connect(
    *,
    stats: bool,
    verbose: int,
    yes: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Carry all traffic of this machine, or of one network namespace, through a worker.

    Needs root or CAP_NET_ADMIN. A TUN device, a routing table of our own, a few rules and a
    firewall table are set up before the worker is looked for (-v shows each step, --dry-run all of
    them), and taken down again when it ends. Prints one line when it is ready, tells systemd, and
    then works until SIGINT, SIGTERM or `disconnect`, which end it with exit code 0. SIGUSR1 prints
    the counters as one line of JSON on stderr, SIGHUP empties the DNS cache and reads block lists
    again. `status` says how it does, `pause` opens the machine for a while.

    \b
    Through a worker elsewhere, its token in a file:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt
    One namespace only, with a private certificate authority:
      python -m zks_lwip connect --netns blue --worker wss://10.0.0.7:8443 --ca-file ca.pem
    With LAN printers, one network outside, and SSH from outside still possible:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt \\
          --bypass 203.0.113.0/24 --allow-inbound 22
    What would be changed, without root:
      python -m zks_lwip connect --worker wss://worker.example --dry-run

    At the start, a worker that refuses the token, whose certificate does not verify, or that is
    none, ends this with one sentence and an exit code of its own (see `zks-lwip --help`), and the
    machine is as before. A worker that cannot be reached is tried again and again. Once ready,
    nothing of that ends it: while the tunnel is down, traffic is refused rather than let out, and
    the reason is logged. Killed, or ended by an error, it leaves the machine closed: start it
    again, or open the machine with `recover`.

    HTTPS_PROXY (http://[USER:PASSWORD@]HOST:PORT) and NO_PROXY are heeded for wss:// workers.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine.
    """
    set_up_logging(verbose)
    raise_descriptor_limit()
    config = make_config(host=make_host_options(options), **options)
    from ..host.remote import ssh_connection
    from ..host.unprivileged import find_user

    if config.user is not None:
        find_user(config.user)
    ssh = None if yes else ssh_connection()
    if dry_run:
        trio.run(_dry_run, config, ssh)
        return
    if config.embedded:
        click.echo(f"zks-lwip: {EMBEDDED_NOTE}", err=True)
    trio.run(_connect, config, ssh, stats)


async def _dry_run(config: VpnConfig, ssh: SshConnection | None) -> None:
    from ..capture import Capture

    capture = await Capture.planned(config, ssh=ssh)
    for note in (*capture.notes, *capture.plan.notes):
        click.echo(f"# {note}")
    for command in capture.plan.render():
        click.echo(command)


async def _connect(config: VpnConfig, ssh: SshConnection | None, stats: bool) -> None:
    from ..vpn import open_vpn
    from ._instance import Instance

    # What is restored when the receiver is closed: nothing that asks us to stop while we are
    # stopping may cut that short, or change the exit code.
    early: list[int] = []
    for number in _STOP:
        signal.signal(number, lambda received, _: early.append(received))
    with trio.open_signal_receiver(*_STOP, *_TELL, *_FLUSH) as signals:
        if early:
            return
        async with trio.open_nursery() as nursery:
            # Not in the nursery of the rest: it is to answer for as long as there is a rest.
            with trio.CancelScope() as work:
                instance = Instance(config, nursery, work)
                nursery.start_soon(_obey, signals, instance)
                async with open_vpn(config, ssh=ssh, prepared=instance.prepared) as vpn:
                    instance.vpn = vpn
                    click.echo(f"ready: {vpn.interface} → {vpn.worker}")
                    notify("READY=1", f"STATUS=connected to {vpn.worker}")
                    try:
                        await trio.sleep_forever()
                    finally:
                        notify("STOPPING=1")
                        if stats:
                            print_stats(vpn.stats())
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], instance: Instance) -> None:
    async for number in signals:
        if number in _STOP:
            instance.stop()
            return
        vpn = instance.vpn
        if vpn is None:
            continue
        if number in _FLUSH:
            flush_dns(vpn)
        else:
            print_stats_json(vpn.stats())
