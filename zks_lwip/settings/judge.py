"""What is wrong with a file of settings: unknown keys and sections, and values of a wrong type."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import SettingsFile, home_directory
from .keys import COMMANDS, SHARED, Key, Kind

__all__ = ["PROFILE", "convert", "faults", "nearest", "suggestion"]

PROFILE = "profile"
"""The section that holds the profiles."""

_TYPES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}
_EXAMPLES = {
    Kind.SWITCH: "true",
    Kind.INTEGER: "1400",
    Kind.NUMBER: "10.0",
    Kind.TEXT: '"..."',
    Kind.PATH: '"/a/path"',
    Kind.MARK: "0x7a6b",
}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like another; None: none is."""
    import difflib  # here: it is for mistakes

    plain = word.lower().lstrip("-").replace("-", "_")
    near = difflib.get_close_matches(plain, sorted(known), n=1)
    return near[0] if near else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``: did you mean 'X'?`` for the nearest of the known words; empty: none is near."""
    near = nearest(word, known)
    return "" if near is None else f": did you mean {near!r}?"


def faults(source: SettingsFile) -> Iterator[str]:
    """Yield all that is wrong with a file, a sentence for each, which names file and key."""
    yield from _level(source.path, source.table, "")
    profiles = source.table.get(PROFILE, {})
    if not isinstance(profiles, dict):
        yield f"{source.path}: {PROFILE} has to be a section: write [{PROFILE}.NAME]."
        return
    for name, table in profiles.items():
        where = f"{PROFILE}.{name}"
        if isinstance(table, dict):
            yield from _level(source.path, table, where)
        else:
            yield f"{source.path}: {where} has to be a section: write [{PROFILE}.NAME]."


def _level(path: Path, table: Mapping[str, Any], where: str) -> Iterator[str]:
    """Judge what is outside of all profiles, or one profile."""
    for key, value in table.items():
        if key == PROFILE and not where:
            continue
        if key in COMMANDS and isinstance(value, dict):
            yield from _section(path, value, f"{where}.{key}".lstrip("."), key)
        elif key in SHARED:
            yield from _value(path, key, value, SHARED[key], where)
        else:
            yield _unknown(path, key, where, [*SHARED, *COMMANDS, *([] if where else [PROFILE])])
    yield from _pairs(path, table, where)


def _section(path: Path, table: Mapping[str, Any], where: str, command: str) -> Iterator[str]:
    for key, value in table.items():
        if key in COMMANDS[command]:
            yield from _value(path, key, value, COMMANDS[command][key], where)
        else:
            yield _unknown(path, key, where, COMMANDS[command])
    yield from _pairs(path, table, where)


def _pairs(path: Path, table: Mapping[str, Any], where: str) -> Iterator[str]:
    if "token" in table and "token_file" in table:
        yield f"{path}: token and token_file exclude each other{_in(where)}: give one of them."


def _in(where: str) -> str:
    return f" in [{where}]" if where else ""


def _unknown(path: Path, key: str, where: str, known: Iterable[str]) -> str:
    text = f"{path}: unknown key {key!r}{_in(where)}"
    if hint := suggestion(key, known):
        return text + hint
    owners = [command for command in COMMANDS if key.replace("-", "_") in COMMANDS[command]]
    if owners:
        return f"{text}: it belongs into [{'] or ['.join(owners)}]"
    return f"{text}. `config show` lists those that there are."


def _value(path: Path, key: str, value: Any, what: Key, where: str) -> Iterator[str]:
    name = f"{where}.{key}".lstrip(".")
    values = value if what.many and isinstance(value, list) else [value]
    for each in values:
        if not _fits(each, what.kind):
            many = ", or an array of them" if what.many else ""
            example = f"{key} = {_example(what)}"
            yield (
                f"{path}: {name} has to be {what.kind.value}{many}, and is {_type(each)}: write "
                f"{example}"
            )
        elif what.choices and each not in what.choices:
            hint = suggestion(each, what.choices) or f": give {' or '.join(what.choices)}"
            yield f"{path}: {name} {each!r} is not known{hint}"
        elif isinstance(each, str) and ("\0" in each or (not each and not _may_be_empty(key))):
            said = "is empty" if not each else "holds a NUL"
            yield f"{path}: {name} {said}: leave the key out, or give it a value."


def _may_be_empty(key: str) -> bool:
    return key == "session_prefix"


def _example(what: Key) -> str:
    return f'"{what.choices[0]}"' if what.choices else _EXAMPLES[what.kind]


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "a date or a time")


def _fits(value: Any, kind: Kind) -> bool:
    if kind is Kind.SWITCH or isinstance(value, bool):
        return kind is Kind.SWITCH and isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return False  # what TOML has no room for (and math.isfinite has none)
    if kind is Kind.INTEGER:
        return isinstance(value, int)
    if kind is Kind.NUMBER:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind is Kind.MARK:
        return isinstance(value, int | str)
    return isinstance(value, str)


def convert(value: Any, what: Key, path: Path, environ: Mapping[str, str]) -> Any:
    """Return a value without faults as commands take it: many as a list, paths as such.

    :param path: of the file, whose directory paths begin in; ``~`` is the user's home.
    """
    if what.many:
        single = Key(what.kind)
        values = value if isinstance(value, list) else [value]
        return [convert(each, single, path, environ) for each in values]
    if what.kind is Kind.PATH:
        home = home_directory(environ)
        if home is not None and (value == "~" or value.startswith("~/")):
            return home / value[2:]
        if value == "-":  # standard output
            return value
        if value == "-":  # standard output
            return value
        return Path(os.path.abspath(path)).parent / value
    if what.kind is Kind.NUMBER:
        return float(value)
    return str(value) if what.kind is Kind.MARK else value
