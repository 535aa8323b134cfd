"""``reload``: have a running ``connect`` read its files again."""

from __future__ import annotations

import click

__all__ = ["reload"]


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
def reload(*, netns: str | None) -> None:
    """Have a running `connect` read its files again: tokens, certificates, block lists, hosts.

    Needs root. Nothing is interrupted and the machine stays closed: open sessions go on with the
    token that they began with, until the worker refuses it; what is opened from now on has that of
    --token-file. Certificates (--ca-file) are for the next connection to a worker; for resolvers
    they are read at the start only, and so are options and a token in the settings. The DNS cache
    is emptied. A file that cannot be used changes nothing, and is told.

    \b
    After the token file was written anew, as root:
      python -m zks_lwip reload
    """
    from ..daemon import reload_running

    tokens = reload_running(netns)
    parts = ["certificates, block lists and hosts file were read again"]
    if tokens:
        parts.insert(0, f"{tokens} tokens" if tokens > 1 else "token")
    click.echo("reloaded: " + ", ".join(parts))
