"""Options in groups, each with its title in ``--help``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["GroupedHelp", "option_group"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TITLE = "zks_lwip_title"
_LAST = ("Settings", "Output", "Other options")
"""Groups of every command, after its own."""


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
