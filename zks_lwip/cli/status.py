"""``status``: what is in force."""

from __future__ import annotations

import json

import click

from ._ask import ask_running
from ._show import status_lines

__all__ = ["status"]


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
@click.option("--json", "as_json", is_flag=True, help="All of it, as one line of JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Also the commands that are in force.")
@click.pass_context
def status(ctx: click.Context, /, *, netns: str | None, as_json: bool, verbose: bool) -> None:
    """Say what a running `connect` does, and what is in force on this machine.

    Needs root. The first line is the state: connecting, connected, lost (the tunnel is down, and
    traffic is refused) or stopping; then the reason, a pause, what the firewall has refused, what
    stays out of the tunnel, and where our own sockets may go.

    Exits with 0 if it is connected, and with 1 if not: if nothing runs, the line says whether an
    instance that died has left the machine closed (`recover` opens it), or open.

    \b
    The machine:
      python -m zks_lwip status
    A namespace that `connect --netns blue` has captured, with every rule:
      python -m zks_lwip status --netns blue -v
    For scripts:
      python -m zks_lwip status --json
    """
    told = ask_running(netns, "status")
    if as_json:
        click.echo(json.dumps(told))
    else:
        for line in status_lines(told, verbose=verbose):
            click.echo(line)
    ctx.exit(0 if told["state"] == "connected" else 1)
