"""``pause``: open the machine for a while."""

from __future__ import annotations

import click

from .show import duration

__all__ = ["pause"]


@click.command()
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    default="5m",
    show_default=True,
    help="For how long, at most an hour: 90s, 5m or 1h.",
)
@click.option("--end", is_flag=True, help="End the pause now.")
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
def pause(*, seconds: str, end: bool, netns: str | None) -> None:
    """Open the machine for a while: traffic and DNS go out beside the tunnel.

    For a captive portal, where one has to log in before anything else works. Needs root. The
    tunnel itself stays up, or goes on trying. Both ends of the pause are logged by the running
    `connect`, and `status` shows it, also afterwards. It ends by itself, also when the machine has
    slept meanwhile; asking again begins the time anew.

    An instance that is killed during a pause leaves the machine open.

    \b
    Five minutes:
      python -m zks_lwip pause --for 5m
    That was enough:
      python -m zks_lwip pause --end
    """
    from ..daemon import MAX_SECONDS, ask_running
    from ..host.options import parse_duration

    if end:
        ask_running(netns, "pause", seconds=None)
        click.echo("the pause has ended: traffic goes through the tunnel")
        return
    length = parse_duration(seconds, "--for", most=MAX_SECONDS)
    ask_running(netns, "pause", seconds=length)
    click.echo(f"PAUSED for {duration(length)}: traffic goes out beside the tunnel")
