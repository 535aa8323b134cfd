"""The command line: ``python -m zks_lwip`` and ``zks-lwip``.

Sub-commands are imported when they are named, and all of them for the overview. So that ``--help``
is there at once, a command's module imports at its top what its options and its help need, and in
its functions what it takes to do it (trio, :mod:`zks_lwip.config`, all that has sockets).
Whatever goes wrong ends in one sentence on stderr and an exit code, never in a traceback:
:class:`~zks_lwip.errors.ZksError` carries both.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from .._util import leaves
from .._version import __version__
from ..errors import StackError, ZksError
from ._environment import (
    check_descriptor_limit,
    check_system,
    explain_os_error,
    keep_exit_codes,
    open_standard_streams,
)
from ._environment_variables import name_variables
from ._help import CommandGroup
from ._logging import tell_error
from .flags import describe

__all__ = ["EXIT_INTERNAL", "main"]

_log = logging.getLogger(__name__)

EXIT_INTERNAL = 70
"""An error that is none of errors.py: a bug of ours (EX_SOFTWARE of sysexits.h)."""

_COMMANDS = (
    "config",
    "connect",
    "disconnect",
    "doctor",
    "exclude",
    "man",
    "pause",
    "proxy",
    "reconnect",
    "recover",
    "reload",
    "run",
    "service",
    "status",
    "top",
    "worker",
)
"""Each is the function of that name in the module of that name."""
_written: dict[str, str] = {}
"""The help of each command as it stands in its module."""
_IN_EXAMPLES, _CALLED = "python -m zks_lwip", ("zks-lwip",)
_COMPLETE = "_ZKS_LWIP_COMPLETE"
"""Set by shells that ask for words, and by who asks for their script."""
_COMPILED = ("zks_lwip._lwip", "_lwip")
_ANYWHERE = ("config", "connect", "doctor", "man", "proxy", "worker")
"""``connect`` looks itself: with a TUN that another program has made it needs no host."""
_ONLY_ON = {"exclude": "linux", "run": "linux", "service": "win32"}
"""What no other system has, by ``sys.platform``; the rest captures a host, or asks who does."""


class _Failure(click.ClickException):
    """One sentence for stderr, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click sets it so itself

    def show(self, file: Any = None) -> None:
        if file is not None or not tell_error(self.format_message()):
            click.echo(f"zks-lwip: {self.format_message()}", file=file, err=file is None)


def _as_called(ctx: click.Context, text: str) -> str:
    """Return a help text whose examples have the name that we were called by."""
    called = ctx.find_root().info_name
    return text.replace(_IN_EXAMPLES, called) if called in _CALLED else text


class _Commands(CommandGroup):
    """Sub-commands by name; their errors become sentences."""

    def get_help(self, ctx: click.Context) -> str:
        return _as_called(ctx, super().get_help(ctx))

    def main(self, *args: Any, **extra: Any) -> Any:
        if _COMPLETE in os.environ:
            from ._shells import register_shells

            register_shells()
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f".{cmd_name}", __name__), cmd_name)
        assert isinstance(command, click.Command)
        command.help = _as_called(ctx, _written.setdefault(cmd_name, command.help or ""))
        if not isinstance(command, click.Group):
            name_variables(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = args[0].startswith("-") or self.get_command(ctx, args[0]) is not None
        if not known and not ctx.resilient_parsing:
            from ..settings.judge import nearest

            near = nearest(args[0], _COMMANDS)
            hint = f"Did you mean `{near}`?" if near else "`--help` shows those that there are."
            ctx.fail(f"There is no command {args[0]!r}. {hint}")
        name, command, rest = super().resolve_command(ctx, args)
        asks = not {"-h", "--help"}.isdisjoint(rest)
        if name not in _ANYWHERE and not asks:
            check_system(name or "", only_on=_ONLY_ON.get(name or "", ""))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BaseException as error:
            explained = _explained(error)
            if explained is error:
                raise
            raise explained from error


def _explained(error: BaseException) -> BaseException:
    """Return what to end with: a sentence for what we know, and for a bug where to look."""
    errors = list(leaves(error))
    _log.debug("ended by an error", exc_info=error)
    for known in errors:
        if isinstance(known, ZksError):
            return _Failure(describe(known), known.exit_code)
    for other in errors:
        if isinstance(other, KeyboardInterrupt):
            return click.exceptions.Exit(130)
        if isinstance(other, SystemExit):
            return other
        if isinstance(other, ImportError) and other.name in _COMPILED:
            return _not_built(other)
        if isinstance(other, BrokenPipeError):  # of sockets, trio has errors of its own
            return other  # click ends with 1, and says nothing: what reads has seen enough
        if (host_error := explain_os_error(other)) is not None:
            return _Failure(str(host_error), host_error.exit_code)
    first = errors[0]
    return _Failure(
        f"internal error, please report it: {type(first).__name__}: {first} "
        "(-vv shows where it happened)",
        EXIT_INTERNAL,
    )


def _not_built(error: ImportError) -> _Failure:
    return _Failure(
        f"the compiled part of zks_lwip cannot be loaded ({error}). Build it with "
        "`python build_lwip.py build` in the source folder, or install the package again.",
        StackError.exit_code,
    )


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    click.echo(f"zks-lwip {__version__} (lwIP {_lwip_version()})")
    ctx.exit()


def _lwip_version() -> str:
    try:
        from .._lwip import ffi, lib
    except ImportError as error:
        raise _not_built(error) from None
    return str(ffi.string(lib.zks_lwip_version()).decode("ascii"))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print our version and that of the lwIP inside, and exit.",
)
def main() -> None:
    """Carry a machine's, a namespace's or one program's traffic through a WebSocket.

    IP packets are taken from a TUN device, their TCP and UDP is ended in lwIP, and the bytes go
    over one or more WebSockets to a worker, which opens the real connections. Applications need
    no configuration and notice nothing.

    \b
    A first look, without root and without a worker of one's own:
      python -m zks_lwip run -- curl http://example.com/
    Programs that know what a proxy is, on every system (SOCKS5 and HTTP, port 1080):
      python -m zks_lwip proxy --worker wss://worker.example --token-file token.txt
    A whole machine, as root, through a worker elsewhere:
      python -m zks_lwip connect --worker wss://worker.example --token-file token.txt
    The worker, on the machine whose network is to be used (`worker --help` has more):
      python -m zks_lwip worker --listen 0.0.0.0:443 --token-file tokens --tls-cert cert.pem

    \b
    What it does, and how to end it, also after it was killed:
      python -m zks_lwip status
      python -m zks_lwip reload
      python -m zks_lwip disconnect
      python -m zks_lwip recover

    \b
    Words completed by the shell: a line for .bashrc, for .zshrc (below
    compinit), for config.fish
      eval "$(_ZKS_LWIP_COMPLETE=bash_source zks-lwip)"
      eval "$(_ZKS_LWIP_COMPLETE=zsh_source zks-lwip)"
      _ZKS_LWIP_COMPLETE=fish_source zks-lwip | source

    \b
    Exit codes, for scripts (`run` passes on the code of its command; `status` has one for
    each state, 30 to 37, see its help):
      0   stopped as asked             10  the embedded worker ended
      1   another error                11  the worker cannot be reached
      2   an option is wrong           12  its certificate does not verify
      3   a privilege is missing       13  it refuses the token (401, 403)
      4   the host could not be set up 14  what answers is no worker (404, a page)
      5   the stack failed             20  a DNS failure
      70  a bug of ours
    """
    open_standard_streams()
    keep_exit_codes()
    check_descriptor_limit()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal of ASCII must not turn an arrow into an error
            reconfigure(errors="replace")
