"""``man``: the help of every command as a manual page, in roff of man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from .._version import __version__

__all__ = ["man", "manual_page"]

_NAME = "zks-lwip"
_PROGRAM = re.compile(r"python -m zks_lwip\b")


@click.command()
@click.pass_context
def man(ctx: click.Context) -> None:
    """Print the manual page, made from the help of every command.

    It is in roff, of man(7), and has what `--help` says of each command: what it does, its options
    and its examples. Nothing is installed by itself.

    \b
    To read it:
      python -m zks_lwip man | man -l -
    To have `man zks-lwip` find it, for everybody or for yourself:
      python -m zks_lwip man > /usr/local/share/man/man1/zks-lwip.1
      python -m zks_lwip man > ~/.local/share/man/man1/zks-lwip.1
    What in it would not be shown as it should (nothing):
      python -m zks_lwip man | groff -man -ww -z -K utf-8
    """
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    click.echo(manual_page(group, ctx.find_root()))


def manual_page(group: click.Group, ctx: click.Context) -> str:
    """Return the manual page of a program and its commands, as roff.

    :param ctx: of the program.
    """
    lines = [
        f'.TH ZKS\\-LWIP 1 "" "zks_lwip {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escape(_NAME)} \\- {_escape(group.get_short_help_str(200))}",
        ".SH SYNOPSIS",
        f".B {_escape(_NAME)}",
        ".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_text(group.help or ""),
        ".SH OPTIONS",
        *_options(group, ctx),
        ".SH COMMANDS",
    ]
    for path, command, sub in _commands(group, ctx, ""):
        lines += [f'.SS "{_escape(path)}"', ".PP", *_synopsis(path, command, sub)]
        lines += _text(command.help or "")
        lines += _options(command, sub)
    lines += [
        ".SH FILES",
        ".TP",
        ".I /etc/zks_lwip.toml",
        "Settings for everybody.",
        ".TP",
        ".I ~/.config/zks_lwip/config.toml",
        "Your own settings, which come before these.",
    ]
    return "\n".join(lines)


def _commands(
    group: click.Group, ctx: click.Context, prefix: str
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command with what one types for it, and a context of its own."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is None or command.hidden:
            continue
        path = f"{prefix}{name}"
        sub = click.Context(command, info_name=name, parent=ctx)
        yield path, command, sub
        if isinstance(command, click.Group):
            yield from _commands(command, sub, f"{path} ")


def _synopsis(path: str, command: click.Command, ctx: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(ctx))
    return [f".B {_escape(f'{_NAME} {path}')}", _escape(usage)]


def _options(command: click.Command, ctx: click.Context) -> list[str]:
    lines: list[str] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            names, text = record
            lines += [".TP", f".B {_escape(names)}", _escape(" ".join(text.split())) or "\\&"]
    return lines


def _text(text: str) -> list[str]:
    """Return paragraphs; those that click is not to wrap (``\\b``) as they stand."""
    lines: list[str] = []
    plain = _PROGRAM.sub(_NAME, re.sub(r"^    ", "", text, flags=re.MULTILINE)).strip()
    for paragraph in re.split(r"\n\s*\n", plain):
        lines.append(".PP")
        if paragraph.startswith("\b"):
            kept = paragraph.split("\n")[1:]
            lines += [".nf", *map(_escape, kept), ".fi"]
        else:
            lines.append(_escape(" ".join(paragraph.split())))
    return lines


def _escape(text: str) -> str:
    """Return a line of text as roff has it; a dot at its beginning is no request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    for char, name in (("→", "\\(->"), ("↑", "\\(ua"), ("↓", "\\(da"), ("–", "\\(en")):
        escaped = escaped.replace(char, name)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
