"""``config``: what the settings say, and whether a file of them is in order."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..settings.judge import faults
from ..settings.keys import COMMANDS, FILE_ONLY
from ..settings.layers import FileSettings, Setting, read_settings
from ._configured import settings_in_force
from ._environment_variables import PREFIX, key_of, name_variables, variable_in_force
from ._help import CommandGroup, GroupedHelp
from .flags import describe

__all__ = ["config"]

_HIDDEN = "(not shown)"
_STAND_IN = "wss://worker.invalid"
"""A worker for a file that leaves it to the command line which."""


@click.group(cls=CommandGroup)
def config() -> None:
    """Show what is in force, and judge files of settings.

    Settings are options in TOML, by the names of their flags with underscores. They stand in
    /etc/zks_lwip.toml and in ~/.config/zks_lwip/config.toml (XDG_CONFIG_HOME is heeded; for root,
    under sudo too, it is root's home), or in a file that --config names, in place of both.

    \b
      worker = "wss://worker.example"      # for connect, run and proxy
      token_file = "token.txt"             # beside this file
      [connect]                            # for one command
      bypass = ["203.0.113.0/24"]
      [profile.home]                       # in force with `connect home`, `run --profile home`
      worker = "wss://home.example"

    The command `worker` takes the section [worker] alone, usually in a file of another machine.
    Where both are in one file, the client's `worker` stands in [connect], [run], [proxy] or in
    profiles: TOML has no two things of one name.

    \b
      [worker]
      listen = "0.0.0.0:443"
      token_file = "tokens"

    A flag beats the environment (ZKS_LWIP_BYPASS, or ZKS_LWIP_CONNECT_BYPASS for one command; lists
    with spaces between), that beats a profile, that the rest of the user's file, and that the
    machine's file. A switch that is on in a file is put off by --no-..., as in --no-stats.

    \b
    What `connect home` would do, and why:
      python -m zks_lwip config show connect home
    Is a file in order?
      python -m zks_lwip config check my.toml
    """


@config.command(
    cls=GroupedHelp,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
@click.argument("command", metavar="[COMMAND]", default="connect")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def show(ctx: click.Context, /, *, as_json: bool, command: str, arguments: tuple[str, ...]) -> None:
    """Print what a command would do with these arguments, and where each value comes from.

    COMMAND is connect (if none is named), run, proxy or worker. What is printed could be a file
    of settings; a token is not shown.

    \b
      python -m zks_lwip config show
      python -m zks_lwip config show --json worker
      python -m zks_lwip config show connect home
      python -m zks_lwip config show proxy --config my.toml --profile home --listen 127.0.0.1:9050
    """
    target = _command(ctx, command)
    given = list(arguments)
    if command == "run" and "--" not in given:
        given += ["--", "true"]  # no command is run, but one has to be named
    root = ctx.find_root()
    sub = target.make_context(command, given, parent=root)
    settings, found = settings_in_force(sub)
    rows = list(_rows(sub, found))
    if as_json:
        files = [str(source.path) for source in settings.sources]
        values = {key: {"value": value, "from": origin} for key, value, origin in rows}
        click.echo(json.dumps({"command": command, "files": files, "settings": values}))
        return
    for line in _read_lines(settings):
        click.echo(line)
    width = min(44, max(len(_line(key, value)) for key, value, _ in rows))
    for key, value, origin in rows:
        click.echo(f"{_line(key, value):{width}}  # {origin}")


def _command(ctx: click.Context, name: str) -> click.Command:
    if name not in COMMANDS:
        ctx.fail(f"{name!r} has no settings: name one of {', '.join(COMMANDS)}.")
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    command = group.get_command(ctx, name)
    assert command is not None
    return command


def _read_lines(settings: FileSettings) -> Iterator[str]:
    """Yield a comment for each file that was looked for."""
    read = {source.path for source in settings.sources}
    for path in settings.looked_for:
        yield f"# {path}: {'read' if path in read else 'not there, or not readable'}"
    if settings.profiles:
        yield f"# profiles: {', '.join(settings.profiles)}"


def _rows(ctx: click.Context, found: Mapping[str, Setting]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and origin of each setting."""
    for param in ctx.command.params:
        key = key_of(param)
        if not isinstance(param, click.Option) or key not in COMMANDS[str(ctx.command.name)]:
            continue
        assert param.name is not None
        yield key, _plain(ctx.params[param.name]), _origin(ctx, param, found.get(key))
    for key in sorted(FILE_ONLY & found.keys()):
        if key in ctx.params:
            yield key, _HIDDEN, str(found[key])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _origin(ctx: click.Context, param: click.Option, setting: Setting | None) -> str:
    source = ctx.get_parameter_source(str(param.name))
    if source is ParameterSource.ENVIRONMENT:
        return variable_in_force(param, os.environ) or "environment"
    if source is ParameterSource.DEFAULT_MAP and setting is not None:
        return str(setting)
    return "command line" if source is ParameterSource.COMMANDLINE else "default"


def _line(key: str, value: Any) -> str:
    """Return a line of TOML, a comment if there is no value."""
    if value in (None, "", []) or value == _HIDDEN:
        return f"# {key}" + (f" {_HIDDEN}" if value == _HIDDEN else "")
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


@config.command(cls=GroupedHelp)
@click.argument("file", required=False, type=click.Path(readable=False, path_type=Path))
@click.pass_context
def check(ctx: click.Context, /, *, file: Path | None) -> None:
    """Judge FILE, or the files that are in force: keys, types, values, permissions, profiles.

    All that is wrong is told, a line each. Nothing is looked up or connected to; files that
    are named in it (tokens, certificates, lists) are read. The environment is left aside.

    Exits with 0 if it can be used, and with 2 if not.

    \b
      python -m zks_lwip config check
      python -m zks_lwip config check /etc/zks_lwip.toml
    """
    wrong, settings = _first_look(file)
    if not wrong:
        assert settings is not None
        with _without_variables():
            wrong = list(dict.fromkeys(_second_look(ctx, settings, file)))
    for line in wrong or (() if settings is None else settings.notes):
        click.echo(f"zks-lwip: {line}", err=True)
    if wrong:
        ctx.exit(ConfigError.exit_code)
    assert settings is not None
    for source in settings.sources:
        click.echo(f"{source.path}: in order")
    if not settings.sources:
        click.echo(f"there is no file: {', '.join(map(str, settings.looked_for))}")


def _first_look(file: Path | None) -> tuple[list[str], FileSettings | None]:
    """Read the files, and return what is wrong with keys and types."""
    try:
        settings = read_settings(file, os.environ, judged=False)
    except ConfigError as error:
        return [str(error)], None
    return [fault for source in settings.sources for fault in faults(source)], settings


def _second_look(ctx: click.Context, settings: FileSettings, file: Path | None) -> Iterator[str]:
    """Yield what each command has against the values, without a profile and with each."""
    for command in COMMANDS:
        for profile in (None, *settings.profiles):
            found = settings.select(command, profile, os.environ)
            if not found:
                continue
            arguments = ["--config", str(file)] if file is not None else []
            arguments += ["--profile", profile] if profile is not None else []
            wrong = _judge(ctx, command, arguments)
            if wrong and command != "worker" and "worker" not in found:
                wrong = _judge(ctx, command, [*arguments, "--worker", _STAND_IN]) and wrong
            if wrong:
                yield wrong


def _judge(ctx: click.Context, name: str, arguments: list[str]) -> str | None:
    """Return what a command has against these arguments; None: nothing."""
    command = _command(ctx, name)
    arguments = [*arguments, *(("--", "true") if name == "run" else ())]  # a copy: click empties it
    try:
        with command.make_context(name, arguments, parent=ctx.find_root()) as sub:
            _make(name, dict(sub.params))
    except ConfigError as error:
        return describe(error)
    except click.ClickException as error:
        return error.format_message()
    return None


def _make(name: str, params: dict[str, Any]) -> None:
    """Make what a command would make of its options, before it begins."""
    if (metrics := params.pop("metrics", None)) is not None:
        from ..metrics import parse_metrics

        parse_metrics(metrics)
    for key in (
        "processes",
        "supervised",
        "cmd",
        "dry_run",
        "parent_fd",
        "stats",
        "verbose",
        "log_format",
        "timeout",
        "tun_fd",
        "yes",
    ):
        params.pop(key, None)
    if name == "worker":
        from ..worker.auth import TokenFile
        from .worker import make_worker_config

        params.pop("user")
        told = make_worker_config(**params)
        if told.token_file is not None:
            TokenFile(told.token_file)
        return
    from ..settings.vpn import make_config

    if name == "connect":
        from ._host_options import make_host_options

        make_config(host=make_host_options(params), **params)
    elif name == "proxy":
        from ..proxy.passwords import PasswordFile
        from .proxy import make_proxy_config

        listen, passwords = params.pop("listen"), params.pop("password_file")
        make_proxy_config(listen, passwords, make_config(**params))
        if passwords is not None:
            PasswordFile(passwords)
    elif name == "doctor":
        from .doctor import make_doctor_config

        params.pop("as_json")
        params.pop("netns")
        make_doctor_config(params.pop("download"), **params)
    else:
        from ..host.published.ports import parse_published

        parse_published(params.pop("publish"))
        make_config(**params)


@contextlib.contextmanager
def _without_variables() -> Iterator[None]:
    """Leave our variables out of the environment: the files alone are judged."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


for _name, _each in config.commands.items():
    name_variables(_each, f"config {_name}")
