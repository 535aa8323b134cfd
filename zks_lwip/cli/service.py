"""``service``: ``connect`` as a service of Windows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ._help import CommandGroup

__all__ = ["service"]

_PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_MAX_LOG = 8 << 20


@click.group(cls=CommandGroup)
def service() -> None:
    """Have Windows run `connect` as a service, which starts with the machine.

    Needs an administrator. What it does is written into C:\\ProgramData\\zks_lwip\\service.log;
    `status`, `pause` and `disconnect` reach it as any other. Killed, it is started again; with
    --always-on also if it has ended by an error.

    \b
    From a prompt that is elevated, with the whole paths of files:
      python -m zks_lwip service install -- --worker wss://worker.example ^
          --token-file C:\\zks\\token.txt --always-on
      python -m zks_lwip service start
    No more:
      python -m zks_lwip service remove
    """


@service.command(context_settings=_PASSED_ON, options_metavar="[OPTIONS] --")
@click.option("--manual", is_flag=True, help="Do not start it with the machine.")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def install(ctx: click.Context, /, *, manual: bool, arguments: tuple[str, ...]) -> None:
    """Have Windows know the service, and what to give to `connect`.

    ARGS are those of `connect`; none: what the settings say (`config show`). They are judged now,
    and the service is not started yet.
    """
    from ..daemon.service_manager import ServiceManager

    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    command = group.get_command(root, "connect")
    assert command is not None
    given = command.make_context("connect", list(arguments), parent=root).params
    persistent = bool(given.get("always_on"))
    ServiceManager().install(arguments, automatic=not manual, persistent=persistent)
    click.echo("installed: `zks-lwip service start` starts it")


@service.command()
def remove() -> None:
    """Stop the service, and have Windows forget it."""
    from ..daemon.service_manager import ServiceManager

    ServiceManager().remove()
    click.echo("removed")


@service.command()
def start() -> None:
    """Start the service; `status` says what becomes of it."""
    from ..daemon.service_manager import ServiceManager

    ServiceManager().start()
    click.echo("started: `zks-lwip status` says how it does")


@service.command()
def stop() -> None:
    """Stop the service, and wait until the machine is as it was before."""
    from ..daemon.service_manager import ServiceManager

    ServiceManager().stop()
    click.echo("stopped: the machine is as it was before")


@service.command(context_settings=_PASSED_ON, options_metavar="--", hidden=True)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, *, arguments: tuple[str, ...]) -> None:
    """Be the service: what Windows starts."""
    from ..daemon.service_manager import SERVICE
    from ..daemon.service_process import WindowsDispatcher, run_service
    from ..host.plan.config import STATE_DIR
    from ..host.state_directory import make_state_directory

    make_state_directory(STATE_DIR)
    _write_into(STATE_DIR / "service.log")
    root = ctx.find_root().command

    def work() -> int:
        try:
            root.main(["connect", *arguments], prog_name="zks-lwip")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    sys.exit(run_service(work, WindowsDispatcher(SERVICE)))


def _write_into(path: Path) -> None:
    """Lead what is printed into a file; one that has grown large gives way to a new one."""
    if path.exists() and path.stat().st_size > _MAX_LOG:
        path.replace(path.with_suffix(".old"))
    file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  # until the end
    for fd in (1, 2):
        os.dup2(file.fileno(), fd)
    sys.stdout = sys.stderr = file
