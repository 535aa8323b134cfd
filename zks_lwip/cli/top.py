"""``top``: a live screen."""

from __future__ import annotations

import click

from .._loading import end_loading
from .flags import name_flags

__all__ = ["top"]

_SORTS = ("rate", "down", "up", "age", "target", "program")


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
@click.option("--once", is_flag=True, help="Print one frame, and exit.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.2, 3600),
    default=1.0,
    show_default=True,
    help="How often the instance is asked, 0.2 to 3600.",
)
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default=_SORTS[0],
    show_default=True,
    help="What flows are sorted by.",
)
@click.option("--filter", "filter_text", metavar="WORDS", default="", help="Show only such flows.")
def top(*, netns: str | None, once: bool, interval: float, sort: str, filter_text: str) -> None:
    """Watch a running `connect`: its state, throughput, flows, DNS, and what it drops.

    A flow is a TCP connection or UDP association: the program that it belongs to (root sees
    everybody's), the name that its target was resolved from, bytes a second, bytes in all, age.
    Needs root, or the group that `connect --control-group` names, which may close nothing.

    \b
    Keys:
      q        quit                    /        filter: words of a line, Enter
      s        sort by the next        Esc      no filter
      r        reverse                 j k ↑ ↓  select a flow
      space    hold the screen         x        close the selected flow

    \b
      python -m zks_lwip top
      python -m zks_lwip top --once --filter firefox
    """
    from ..top.screen import run_top

    end_loading()
    run_top(
        netns,
        interval=interval,
        once=once,
        sort=sort,
        filter_text=filter_text,
        name_options=name_flags,
    )
