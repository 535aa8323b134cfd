"""``recover``: take down what an instance that died has left."""

from __future__ import annotations

import click

__all__ = ["recover"]


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="Print what is undone, as commands.")
def recover(*, verbose: bool) -> None:
    """Put the machine back as it was before an instance that died: nothing is refused any more.

    Needs root. After SIGKILL, a crash or an error the machine stays closed on purpose. This reads
    the journals in /run/zks_lwip and undoes what they say, in every network namespace that still
    exists, and removes what is ours without being in a journal. An instance that runs is not
    touched, nor is an nftables table of our name that another program has made. Where nothing
    is left, this does nothing: twice is harmless.

    Not needed before another `connect`, which takes over without opening the machine.

    Exits with 4 if something is still there, and says what and why.

    \b
    As root:
      python -m zks_lwip recover
      python -m zks_lwip recover -v
    """
    from ..errors import HostError
    from ..host.platform import current

    platform = current()
    platform.check_privileges("recover")
    recovery = platform.recover()
    if verbose:
        for command in recovery.undone:
            click.echo(f"[#] {command}")
    for line in recovery.foreign:
        click.echo(f"zks-lwip: {line}", err=True)
    if recovery.left:
        raise HostError("left as it is: " + "; ".join(recovery.left))
    if recovery.undone:
        click.echo("the machine is as it was before")
    else:
        runs = " (what runs was not touched: `disconnect` stops it)" if recovery.running else ""
        click.echo(f"nothing was left{runs}")
