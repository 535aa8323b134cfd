"""Every option as an environment variable: ``ZKS_LWIP_MTU``, or ``ZKS_LWIP_RUN_MTU`` for ``run``.

A list is separated by spaces, a list of files as PATH is. An empty variable counts as none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import click

from ..settings.keys import COMMANDS, FILE_ONLY

__all__ = ["PREFIX", "key_of", "name_variables", "unknown_variables", "variable_in_force"]

PREFIX = "ZKS_LWIP_"

_FOR_ALL = frozenset({"config", "profile", "netns"})
"""Options whose variable without a command's name holds for commands that have no settings, too."""
_OTHERS = frozenset({"ZKS_LWIP_SANITIZE"})
"""Variables of the build."""


def key_of(option: click.Parameter) -> str:
    """Return the name of an option in files and, in capitals, in variables: that of its flag."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def name_variables(command: click.Command, path: str) -> None:
    """Give each visible option of a command its variables.

    :param path: the names of the command, ``connect`` or ``config show``.
    """
    own = PREFIX + path.upper().replace(" ", "_") + "_"
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and param.expose_value:
            key = key_of(param)
            shared = path in COMMANDS or key in _FOR_ALL
            param.envvar = [own + key.upper(), *([PREFIX + key.upper()] if shared else [])]


def variable_in_force(param: click.Parameter, environ: Mapping[str, str]) -> str | None:
    """Return which variable gives an option its value, where none on the command line does."""
    names = [param.envvar] if isinstance(param.envvar, str) else (param.envvar or ())
    return next((name for name in names if environ.get(name)), None)


def unknown_variables(environ: Mapping[str, str], commands: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each variable that looks like one of ours, and is none.

    :param commands: all commands, whatever settings they have.
    """
    from ..settings.judge import nearest

    known = {"CONFIG", "PROFILE"}
    for command, keys in COMMANDS.items():
        for key in {*keys, "config", "profile"} - FILE_ONLY:
            known |= {key.upper(), f"{command}_{key}".upper()}
    others = tuple(f"{PREFIX}{name.upper()}_" for name in commands if name not in COMMANDS)
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in _OTHERS or name.startswith(others):
            continue
        if name.removeprefix(PREFIX) not in known:
            near = nearest(name.removeprefix(PREFIX), (each.lower() for each in known))
            hint = "" if near is None else f": did you mean {PREFIX}{near.upper()}?"
            yield f"the environment variable {name} is none of ours, and not heeded{hint}"
