"""``disconnect``: stop a running ``connect``."""

from __future__ import annotations

import click

__all__ = ["disconnect"]


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
def disconnect(*, netns: str | None) -> None:
    """Stop a running `connect`, and wait until the machine is as it was before.

    Needs root, and says what it has stopped. It asks over the control socket in /run/zks_lwip, as
    SIGTERM would. Where nothing runs, this does nothing, and exits with 0: twice is harmless. What
    an instance that was killed has left is a matter for `recover`.

    \b
    The machine:
      python -m zks_lwip disconnect
    A namespace that `connect --netns blue` has captured:
      python -m zks_lwip disconnect --netns blue
    """
    from ..daemon import NotRunning, check_nothing_left, stop_running

    told = None
    try:
        told = stop_running(netns)
    except NotRunning as error:
        click.echo(f"zks-lwip: {error}", err=True)
    check_nothing_left(netns)
    if told is not None:
        what = "the machine" if netns is None else f"the namespace {netns}"
        click.echo(
            f"disconnected: process {told.get('pid')} has ended, {told.get('interface')} is gone, "
            f"and {what} is as it was before"
        )
