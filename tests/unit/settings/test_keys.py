"""The table of keys says what the flags say."""

from __future__ import annotations

import click
import pytest

from zks_lwip.cli import main
from zks_lwip.settings.keys import COMMANDS, FILE_ONLY, Key, Kind

NOT_IN_FILES = {"config", "profile"}


def options_of(name: str) -> dict[str, click.Option]:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return {
        max(param.opts, key=len).lstrip("-").replace("-", "_"): param
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden
    }


def key_for(option: click.Option) -> Key:
    """What the table has to say of an option."""
    kinds: list[tuple[type[click.ParamType], Kind]] = [
        (click.types.BoolParamType, Kind.SWITCH),
        (click.types.IntParamType, Kind.INTEGER),
        (click.types.FloatParamType, Kind.NUMBER),
        (click.Path, Kind.PATH),
    ]
    kind = next((kind for type_, kind in kinds if isinstance(option.type, type_)), Kind.TEXT)
    if option.name == "mark":
        kind = Kind.MARK
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    return Key(kind, many=option.multiple, choices=tuple(sorted(choices)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_key(name: str) -> None:
    wanted = {key: key_for(option) for key, option in options_of(name).items()}
    found = {
        key: Key(what.kind, many=what.many, choices=tuple(sorted(what.choices)))
        for key, what in COMMANDS[name].items()
        if key not in FILE_ONLY
    }
    assert found == {key: what for key, what in wanted.items() if key not in NOT_IN_FILES}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_variables(name: str) -> None:
    for key, option in options_of(name).items():
        assert option.envvar == [f"ZKS_LWIP_{name}_{key}".upper(), f"ZKS_LWIP_{key}".upper()]


def test_no_variable_has_two_meanings() -> None:
    """``ZKS_LWIP_WORKER_ADDRESS`` is no ``--address`` of the command ``worker``."""
    shared = {key.upper() for keys in COMMANDS.values() for key in keys}
    own = {f"{name}_{key}".upper() for name, keys in COMMANDS.items() for key in keys}
    assert shared & own == set()
