"""``connect``: the whole machine, or one network namespace."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._loading import end_loading
from ..net.descriptors import raise_descriptor_limit
from ._configured import ConfiguredCommand, profile_argument
from ._embedded import embedded_worker
from ._environment import check_system, echo_or_go_on
from ._host_options import host_options, make_host_options
from ._logging import set_up_logging, tell
from ._metrics import open_metrics
from ._options import (
    EMBEDDED_NOTE,
    print_stats,
    print_stats_json,
    show_worker,
    tunnel_options,
)
from .flags import name_flags

if TYPE_CHECKING:
    from ..config import VpnConfig
    from ..host.ssh import SshConnection
    from ..vpn import Vpn
    from ..vpn.worker_process import WorkerProcess

__all__ = ["connect"]

_log = logging.getLogger(__name__)


@click.command(cls=ConfiguredCommand)
@tunnel_options
@host_options
@profile_argument
def connect(
    *,
    stats: bool,
    metrics: str | None,
    verbose: int,
    log_format: str,
    yes: bool,
    dry_run: bool,
    tun_fd: int | None,
    **options: Any,
) -> None:
    """Carry all traffic of this machine, or of one network namespace, through a worker.

    Needs root or CAP_NET_ADMIN. A TUN device, a routing table of our own, a few rules and a
    firewall table are set up before the worker is looked for (-v shows each step, --dry-run all of
    them), and taken down again when it ends. Prints one line when it is ready, tells systemd, and
    then works until SIGINT, SIGTERM, SIGHUP (of a terminal that is closed; not under nohup) or
    `disconnect`, which end it with exit code 0. SIGUSR1 prints the counters as one line of JSON on
    stderr, `reload` has it read tokens, certificates and lists again. `status` says how it does,
    `pause` opens the machine for a while.

    \b
    Through a worker elsewhere, its token in a file:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt
    One namespace only, with a private certificate authority:
      python -m zks_lwip connect --netns blue --worker wss://10.0.0.7:8443 --ca-file ca.pem
    With LAN printers, one network outside, and SSH from outside still possible:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt \\
          --bypass 203.0.113.0/24 --allow-inbound 22
    Through the nearest of two workers, or the other while that is away:
      python -m zks_lwip connect --token-file token.txt \\
          --worker wss://one.example --worker wss://two.example
    As the section [profile.home] of the settings says:
      python -m zks_lwip connect home
    What would be changed, without root:
      python -m zks_lwip connect --worker wss://worker.example --dry-run

    At the start, a worker that refuses the token, whose certificate does not verify, or that is
    none, ends this with one sentence and an exit code of its own (see `zks-lwip --help`), and the
    machine is as before; of several workers, all must. A worker that cannot be reached is tried
    again and again. Once ready, nothing of that ends it: while the tunnel is down, traffic is
    refused rather than let out, and the reason is logged. Killed, or ended by an error, it leaves
    the machine closed: start it again, or open the machine with `recover`.

    HTTPS_PROXY (http://[USER:PASSWORD@]HOST:PORT) and NO_PROXY are heeded for wss:// workers.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine.
    """
    if tun_fd is None:
        check_system("connect")
    set_up_logging(verbose, log_format)
    raise_descriptor_limit()
    with nullcontext() if dry_run else embedded_worker(options) as begun:
        _connect(options, stats, metrics, yes=yes, dry_run=dry_run, tun_fd=tun_fd, begun=begun)


def _connect(
    options: dict[str, Any],
    stats: bool,
    metrics: str | None,
    *,
    yes: bool,
    dry_run: bool,
    tun_fd: int | None,
    begun: WorkerProcess | None,
) -> None:
    import trio

    from ..daemon import parse_allow_exclude, run_instance
    from ..host.accounts import find_group, find_user
    from ..host.ssh import ssh_connection
    from ..settings.vpn import make_config

    config = make_config(host=make_host_options(options), **options)
    token_files = [Path(each).absolute() for each in options["token_file"]]

    if config.user is not None:
        find_user(config.user)
    if config.control_group is not None:
        find_group(config.control_group)
    parse_allow_exclude(config.allow_exclude)
    device = None
    if tun_fd is not None:
        _check_given(config, dry_run)
        from ..device import adopt_tun

        device = adopt_tun(tun_fd, mtu=config.device.mtu)
    ssh = None if yes else ssh_connection()
    if dry_run:
        trio.run(_dry_run, config, ssh)
        return
    if config.embedded:
        tell(EMBEDDED_NOTE)
    display = _Display(stats)
    numbers = open_metrics(metrics)
    trio.run(
        partial(
            run_instance,
            config,
            display,
            ssh=ssh,
            token_files=token_files,
            metrics=numbers,
            device=device,
            begun=begun,
        )
    )


def _check_given(config: VpnConfig, dry_run: bool) -> None:
    """Refuse what a host that is not captured would not heed."""
    if sys.platform == "win32":
        raise click.UsageError("--tun-fd: on Windows a TUN is no descriptor: leave it out.")
    from ..config import HostOptions, KillSwitch
    from ..device.options import DEFAULT_TUN

    unheeded = {
        "--tun": config.tun != DEFAULT_TUN,
        "--netns": config.netns is not None,
        "--kill-switch": config.kill_switch is not KillSwitch.STRICT,
        "--user": config.user is not None,
        "--control-group": config.control_group is not None,
        "--allow-exclude": bool(config.allow_exclude),
        "--dry-run": dry_run,
        "--bypass, --only and such": config.host != HostOptions(),
    }
    for option, given in unheeded.items():
        if given:
            raise click.UsageError(
                f"--tun-fd and {option} exclude each other: the device's maker has set the host up."
            )


async def _dry_run(config: VpnConfig, ssh: SshConnection | None) -> None:
    from ..vpn import Capture

    capture = await Capture.planned(config, ssh=ssh)
    for note in (*capture.notes, *capture.plan.notes):
        click.echo(f"# {name_flags(note)}")
    for command in capture.plan.render():
        click.echo(command)


class _Display:
    """Prints one line when it is ready, counters when asked, and warnings into the log."""

    def __init__(self, stats: bool) -> None:
        self._stats = stats

    def ready(self, vpn: Vpn) -> None:
        end_loading()
        echo_or_go_on(f"ready: {vpn.interface} → {show_worker(vpn)}")

    def counters(self, stats: dict[str, Any]) -> None:
        print_stats_json(stats)

    def ending(self, stats: dict[str, Any]) -> None:
        if self._stats:
            print_stats(stats)
