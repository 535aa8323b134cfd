"""``run -- CMD``: one program, without privilege."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .._loading import end_loading
from ._completion import complete_command
from ._configured import ConfiguredCommand
from ._embedded import embedded_worker
from ._environment import caller_environment
from ._help import option_group
from ._logging import set_up_logging, tell
from ._metrics import open_metrics
from ._options import EMBEDDED_NOTE, print_stats, show_worker, tunnel_options

if TYPE_CHECKING:
    from ..host.published.ports import PublishedPort
    from ..vpn import Vpn
    from ..vpn.worker_process import WorkerProcess

__all__ = ["run"]


@click.command(
    cls=ConfiguredCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)
@option_group(
    "Its ports",
    click.option(
        "-p",
        "--publish",
        metavar="[ADDRESS:]PORT[:PORT]",
        multiple=True,
        help="Let programs of this machine connect to CMD: a port of this machine, and that of CMD "
        "where it is another one. TCP and UDP, or one of them: /tcp, /udp. PORT may be a range, "
        "that of this machine 0 for any free one. Others can connect only where ADDRESS says so "
        "(0.0.0.0, [::]). Repeatable.  [default ADDRESS: 127.0.0.1]",
    ),
)
@option_group(
    "Limits",
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0.1, 86400),
        help="Give up, with exit code 11, when the worker cannot be reached for so long at the "
        "start.  [default: wait for it]",
    ),
)
@tunnel_options
@click.argument(
    "cmd", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_command
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    cmd: tuple[str, ...],
    publish: tuple[str, ...],
    timeout: float | None,
    stats: bool,
    metrics: str | None,
    verbose: int,
    log_format: str,
    **options: Any,
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

    \b
    A server in the tunnel, for this machine at 127.0.0.1:8080:
      python -m zks_lwip run -p 8080:80 -- CMD

    A client on this machine's loopback appears to CMD at 127.0.0.1 or ::1, any other one at the
    address of the TUN. What CMD does not accept, is reset. Published ports end with CMD, when what
    it has sent is delivered; they are no way out for it.

    Needs Linux with user namespaces and a /dev/net/tun that one may open; where something is
    missing, the error names the setting. Services that CMD reaches by unix sockets (a container
    engine, a desktop's D-Bus) run outside, and what they do goes outside.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine.
    """
    set_up_logging(verbose, log_format)
    with embedded_worker(options) as begun:
        code = _run(options, cmd, publish, timeout, stats, metrics, verbose=verbose, begun=begun)
    ctx.exit(code)


def _run(
    options: dict[str, Any],
    cmd: Sequence[str],
    publish: Sequence[str],
    timeout: float | None,
    stats: bool,
    metrics: str | None,
    *,
    verbose: int,
    begun: WorkerProcess | None,
) -> int:
    """Run the command, and return its exit code."""
    from ..host.published.ports import parse_published
    from ..settings.vpn import make_config
    from ..vpn import run_command

    config = make_config(**options)
    if config.embedded:
        tell(EMBEDDED_NOTE)
    ports = parse_published(publish)
    tell_ports = verbose or any(port.port == 0 for port in ports)

    def ready(vpn: Vpn, published: Sequence[PublishedPort]) -> None:
        end_loading()
        if verbose:
            tell(f"ready: {vpn.interface} → {show_worker(vpn)}")
        for port in published if tell_ports else ():
            tell(f"published: {port}")

    def ended(counters: dict[str, Any]) -> None:
        if stats:
            print_stats(counters)

    return run_command(
        config,
        cmd,
        env=caller_environment(),
        publish=ports,
        patience=timeout,
        metrics=open_metrics(metrics),
        on_ready=ready,
        on_end=ended,
        begun=begun,
    )
