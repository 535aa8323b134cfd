"""Commands whose options may also stand in files and in the environment.

The command line beats the environment, and that beats the files: click's own order. Files are its
``default_map``; what they say is judged before click sees it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..settings.files import SYSTEM_FILE
from ..settings.layers import FileSettings, Setting, read_settings
from ._environment_variables import key_of, unknown_variables, variable_in_force
from ._help import GroupedHelp, option_group
from .flags import ORIGINS, Origin

__all__ = ["ConfiguredCommand", "profile_argument", "settings_in_force", "settings_options"]

_Function = TypeVar("_Function", bound=Any)

_FOUND = "zks_lwip.settings"
_FILES = "zks_lwip.files"
_TOLD = "zks_lwip.told"
_BEATS = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _complete_profile(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the profiles that the shell can offer; none where the settings are not in order."""
    file = ctx.params.get("config")
    try:
        settings = read_settings(file, os.environ, judged=False)
    except ConfigError:
        return []  # running the command tells why
    return [name for name in settings.profiles if name.startswith(begun)]


settings_options = option_group(
    "Settings",
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help=f"Read settings (TOML) from this file, in place of {SYSTEM_FILE} and "
        "~/.config/zks_lwip/config.toml.",
    ),
    click.option(
        "--profile",
        metavar="NAME",
        shell_complete=_complete_profile,
        help="Have the section [profile.NAME] of the settings beat the rest of them.",
    ),
)
"""The options that say which settings are read. Every other option may stand in them."""

profile_argument = click.argument(
    "profile_name", metavar="[PROFILE]", required=False, shell_complete=_complete_profile
)
"""The profile, for commands that have no other argument."""


class ConfiguredCommand(GroupedHelp):
    """A command that takes options from files and from the environment, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # the shell asks for words to complete
            return super().parse_args(ctx, args)
        opts, _, order = self.make_parser(ctx).parse_args(args=list(args))
        found: Mapping[str, Setting] = {}
        asks = self.get_help_option(ctx)
        if asks is None or not opts.get(str(asks.name)):
            self._check_repeated(ctx, order)
            found = self._read(ctx, opts)
            keys = {key_of(param): param.name for param in self.params}
            ctx.default_map = {
                keys[key]: setting.value
                for key, setting in found.items()
                if keys.get(key) is not None
            }
        try:
            rest = super().parse_args(ctx, args)
        except click.BadParameter as error:
            self._name_origin(ctx, error, found)
            raise
        ctx.params.pop("config", None)
        ctx.params.pop("profile", None)
        ctx.params.pop("profile_name", None)
        if "token" in found and ctx.get_parameter_source("token_file") not in _BEATS:
            ctx.params["token"] = found["token"].value
        ctx.meta[_FOUND] = found
        ctx.meta[ORIGINS] = self._origins(ctx, found)
        return rest

    def _check_repeated(self, ctx: click.Context, order: list[click.Parameter]) -> None:
        """Check that an address to listen on is given once: the last would win, silently."""
        for param in order:
            if param.name == "listen" and not param.multiple and order.count(param) > 1:
                raise click.BadParameter(
                    "it is given twice, and there is one: leave the others out.", ctx, param
                )

    def _read(self, ctx: click.Context, opts: Mapping[str, Any]) -> Mapping[str, Setting]:
        """Read the files, and what they say for this command."""
        values: dict[str, Any] = {}
        for param in self.params:
            if param.name in ("config", "profile", "profile_name"):
                given = opts.get(param.name)
                if not isinstance(given, str):  # none: that which click's parser has for it
                    variable = variable_in_force(param, os.environ)
                    given = None if variable is None else os.environ[variable]
                values[param.name] = given
        profile, argument = values.get("profile"), values.get("profile_name")
        if argument is not None and isinstance(opts.get("profile"), str) and argument != profile:
            ctx.fail(f"two profiles are named, {argument} and {profile}: leave one out.")
        file = values.get("config")
        settings = read_settings(None if file is None else Path(file), os.environ)
        ctx.meta[_FILES] = settings
        assert isinstance(self.name, str)
        for note in (*settings.notes, *unknown_variables(os.environ, _other_commands(ctx))):
            if note not in ctx.meta.setdefault(_TOLD, []):
                click.echo(f"zks-lwip: {note}", err=True)
                ctx.meta[_TOLD].append(note)
        return settings.select(self.name, argument or profile, os.environ)

    def _name_origin(
        self, ctx: click.Context, error: click.BadParameter, found: Mapping[str, Setting]
    ) -> None:
        """Let an error of click name the variable or the file that has the wrong value."""
        param = error.param
        if param is None or param.name is None:
            return
        source = ctx.get_parameter_source(param.name)
        if source is ParameterSource.ENVIRONMENT:
            error.param_hint = variable_in_force(param, os.environ)
        elif source is ParameterSource.DEFAULT_MAP and (key := key_of(param)) in found:
            error.param_hint = str(found[key])

    def _origins(self, ctx: click.Context, found: Mapping[str, Setting]) -> dict[str, Origin]:
        origins = {}
        for param in self.params:
            source = ctx.get_parameter_source(param.name) if param.name else None
            flag = max(param.opts, key=len)
            if source is ParameterSource.ENVIRONMENT:
                name = variable_in_force(param, os.environ) or flag
                origins[flag] = Origin(name, name)
            elif source is ParameterSource.DEFAULT_MAP and (key := key_of(param)) in found:
                origins[flag] = _origin(found[key])
        if "token" in found and "token" in ctx.params:
            origins["--token-file"] = _origin(found["token"])
        return origins


def _origin(setting: Setting) -> Origin:
    return Origin(str(setting), f"{setting.key} ({setting.path})")


def _other_commands(ctx: click.Context) -> list[str]:
    parent = ctx.find_root().command
    return parent.list_commands(ctx) if isinstance(parent, click.Group) else []


def settings_in_force(ctx: click.Context) -> tuple[FileSettings, Mapping[str, Setting]]:
    """Return the files that a command has read, and what they say for it.

    :param ctx: of a :class:`ConfiguredCommand` that has parsed its arguments.
    """
    return ctx.meta[_FILES], ctx.meta[_FOUND]
