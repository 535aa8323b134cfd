"""Completion of a command that is to be run: ``run -- CMD``, ``exclude -- CMD``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["complete_command"]


def complete_command(
    ctx: click.Context, param: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """Return the commands that begin so; the shell's files where it is a path, or an argument."""
    from click.shell_completion import CompletionItem

    if "/" in begun or ctx.params.get(param.name or ""):
        return [CompletionItem(begun, type="file")]
    found: set[str] = set()
    for folder in os.get_exec_path():
        try:
            names = [name for name in os.listdir(folder) if name.startswith(begun)]
        except OSError:  # a folder of PATH may be missing
            continue
        found.update(name for name in names if os.access(os.path.join(folder, name), os.X_OK))
    return [CompletionItem(name) for name in sorted(found)]
