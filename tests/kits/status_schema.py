"""Check what ``status --json`` says against its schema, :class:`zks_lwip.daemon.states.Status`."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from zks_lwip.daemon.states import State, Status

__all__ = ["check_status"]


def check_status(told: Any) -> None:
    """Assert that it has every key of the schema and no other, with the types of the schema."""
    _check(told, Status, "status")
    assert told["state"] in {each.value for each in State}
    assert told["tunnel"] in {None, "connecting", "connected", "lost", "stopping"}


def _check(value: Any, kind: Any, where: str) -> None:
    origin = get_origin(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        fields = get_type_hints(kind)
        assert isinstance(value, Mapping), where
        assert value.keys() == fields.keys(), (where, value.keys() ^ fields.keys())
        for name, inner in fields.items():
            _check(value[name], inner, f"{where}.{name}")
    elif origin in (Union, types.UnionType):
        if value is None:
            assert type(None) in get_args(kind), f"{where} is null"
        else:
            (inner,) = (each for each in get_args(kind) if each is not type(None))
            _check(value, inner, where)
    elif origin is list:
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            _check(item, get_args(kind)[0], f"{where}[{number}]")
    elif origin is dict:
        assert isinstance(value, dict), where
        for key, item in value.items():
            _check(key, get_args(kind)[0], where)
            _check(item, get_args(kind)[1], f"{where}.{key}")
    elif kind is float:
        assert type(value) in (int, float), f"{where}: {value!r}"
    else:
        assert type(value) is kind, f"{where}: {value!r} is no {kind}"
