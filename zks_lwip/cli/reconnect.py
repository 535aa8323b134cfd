"""``reconnect``: have a running ``connect`` open another connection to its worker."""

from __future__ import annotations

import click

from .flags import name_flags

__all__ = ["reconnect"]


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
@click.pass_context
def reconnect(ctx: click.Context, /, *, netns: str | None) -> None:
    """Give up the connections to the worker, and open others at once.

    Needs root. The machine stays closed meanwhile, and open connections go on where the worker can
    resume them. Waits until the tunnel is up again, for 10 s at most; exits with 32 if it is not.

    \b
    The machine:
      python -m zks_lwip reconnect
    A namespace that `connect --netns blue` has captured:
      python -m zks_lwip reconnect --netns blue
    """
    from ..daemon import EXIT_CODES, State, ask_running

    told = ask_running(netns, "reconnect")
    if told["connected"]:
        count = told["connections"]
        many = "connection" if count == 1 else "connections"
        click.echo(f"reconnected: to {told['worker']}, with {count} {many} open")
        return
    problem = name_flags(told["problem"]) or "the worker has not answered yet"
    click.echo(f"lost: {problem} It goes on trying.")
    ctx.exit(EXIT_CODES[State.LOST])
