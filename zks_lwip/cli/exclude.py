"""``exclude -- CMD``: one program beside the tunnel."""

from __future__ import annotations

import os
import signal
import sys

import click

from ._completion import complete_command
from ._environment import caller_environment

__all__ = ["exclude"]

_CANNOT_RUN, _NOT_FOUND = 126, 127  # as a shell says it


@click.command(context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --")
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
@click.argument(
    "cmd", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_command
)
@click.pass_context
def exclude(ctx: click.Context, /, *, netns: str | None, cmd: tuple[str, ...]) -> None:
    """Run a command outside of the tunnel, while `connect` captures the rest of the machine.

    CMD and what it starts reach the network as without a tunnel: from this machine's own address,
    and its names are asked of the name server that the machine uses without one. Everything else
    stays in the tunnel. Needs no root, but the consent of the running instance: `connect
    --allow-exclude USER` (or @GROUP).

    \b
    A bank that wants to see your own address:
      python -m zks_lwip exclude -- firefox --no-remote --profile /tmp/bank
    Whether it works: the address that others see
      python -m zks_lwip exclude -- curl https://icanhazip.com/

    It ends with the instance: after `disconnect`, CMD goes on as everything else does; should the
    instance be killed, what CMD sends is refused within seconds, as everything else is. Programs
    that run already, and only open a window when they are called (browsers), stay where they are.
    What others cannot do beside the tunnel: connect to CMD from outside (that is
    `--allow-inbound`).
    """
    from ..daemon import ask_running

    ask_running(netns, "exclude")
    # Python ignores these; a program expects to be ended by them.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(cmd[0], cmd, caller_environment())
    except FileNotFoundError:
        click.echo(f"zks-lwip: {cmd[0]}: there is no such command", err=True)
        ctx.exit(_NOT_FOUND)
    except OSError as error:
        click.echo(f"zks-lwip: {cmd[0]} cannot be run: {error.strerror}", err=True)
        ctx.exit(_CANNOT_RUN)
