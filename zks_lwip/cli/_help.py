"""What ``--help`` shows: options in groups, each with its title, and what each command is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["CommandGroup", "GroupedHelp", "option_group"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TITLE = "zks_lwip_title"
_LAST = ("Settings", "Output", "Other options")
"""Groups of every command, after its own."""
_WHOLE = 1000
"""Characters of a sentence, and more than any has."""


def option_group(
    title: str, *options: Callable[[_Function], _Function]
) -> Callable[[_Function], _Function]:
    """Return a decorator that adds options to a command, under a title."""

    def add(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
            setattr(function.__click_params__[-1], _TITLE, title)  # type: ignore[attr-defined]
        return function

    return add


class GroupedHelp(click.Command):
    """A command whose options are listed in their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, _TITLE, _LAST[-1]), []).append(record)
        titles = [title for title in groups if title not in _LAST]
        for title in (*titles, *_LAST):
            if title in groups:
                with formatter.section(title):
                    formatter.write_dl(groups[title])


class CommandGroup(click.Group):
    """Commands with the whole first sentence of what each of them says of itself."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(_WHOLE)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
