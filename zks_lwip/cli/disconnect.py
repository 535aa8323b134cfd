"""``disconnect``: stop a running ``connect``."""

from __future__ import annotations

import click

__all__ = ["disconnect"]


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
def disconnect(*, netns: str | None) -> None:
    """Stop a running `connect`, and wait until the machine is as it was before.

    Needs root. It asks over the control socket in /run/zks_lwip, as SIGTERM would. Where nothing
    runs, this does nothing, and exits with 0: twice is harmless. What an instance that was killed
    has left is a matter for `recover`.

    \b
    The machine:
      python -m zks_lwip disconnect
    A namespace that `connect --netns blue` has captured:
      python -m zks_lwip disconnect --netns blue
    """
    from ..control import NotRunning, ask, control_path
    from ..errors import HostError
    from ..host.config import STATE_DIR
    from ..host.recover import remains

    try:
        ask(control_path(STATE_DIR, netns), "disconnect", wait=True)
    except NotRunning as error:
        click.echo(f"zks-lwip: {error}", err=True)
    left = remains(netns)
    if left is None:
        return
    if left.closed:
        raise HostError(
            "the machine is closed by an instance that has ended; open it with `zks-lwip recover`"
        )
    raise HostError(
        "the machine is open, but not as it was: an instance died in a pause, or without a kill "
        "switch; take away what it has left with `zks-lwip recover`"
    )
