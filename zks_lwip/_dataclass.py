"""``dataclass`` of :mod:`dataclasses`, for frozen classes with slots in a third of the time.

There are some 170 of them. Python compiles six methods for each, one by one, which is a tenth of
the time until ``connect`` is ready. Here only ``__init__`` is compiled; the others are the same for
all classes, or made of the names of the fields. What a class does is no different, and type
checkers take it for one of :mod:`dataclasses`, which makes all that has other options.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from reprlib import recursive_repr

TYPE_CHECKING = False  # see _lazy.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import Field, dataclass
    from typing import Any, NoReturn

__all__ = ["dataclass"]

_OPTIONS = {"frozen", "slots", "kw_only"}


class _Factory:
    """Stands in a signature for what a factory makes."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _make(cls: Any, kw_only: bool) -> Any:
    own = cls.__dict__
    bases = [getattr(base, "__dataclass_params__", None) for base in cls.__mro__[1:]]
    made: Any = dataclasses.dataclass(
        cls,
        init=False,
        repr=False,
        eq=False,
        slots=True,
        kw_only=kw_only,
        frozen=any(each is not None and each.frozen for each in bases),
    )
    made.__dataclass_params__.frozen = True  # for classes of others that inherit from it
    fields = dataclasses.fields(made)
    eq, hash_ = _comparison([each.name for each in fields if each.compare])
    methods: dict[str, Callable[..., Any]] = {
        "__init__": _init(made, fields),
        "__repr__": _repr([each.name for each in fields if each.repr]),
        "__eq__": eq,
        "__setattr__": _refuse_to_set,
        "__delattr__": _refuse_to_delete,
        "__getstate__": _getstate,
        "__setstate__": _setstate,
    }
    if own.get("__hash__") is None and ("__hash__" not in own or "__eq__" in own):
        made.__hash__ = hash_  # None is what Python gives a class that has __eq__ alone
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    return made


def _init(cls: type, fields: Sequence[Field[Any]]) -> Callable[..., None]:
    """Compile ``__init__``: it sets the slots themselves, which nothing refuses."""
    known: dict[str, object] = {"_FACTORY": _FACTORY}
    by_place: list[str] = ["self"]
    by_name: list[str] = []
    body: list[str] = []
    for field in fields:
        name = value = parameter = field.name
        if field.default_factory is not MISSING:
            known[f"_new_{name}"] = field.default_factory
            parameter = f"{name}=_FACTORY"
            value = f"_new_{name}()"
            if field.init:
                value += f" if {name} is _FACTORY else {name}"
        elif field.default is not MISSING:
            known[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
            if not field.init:
                value = f"_default_{name}"
        elif not field.init:
            continue  # __post_init__ sets it
        if field.init:
            (by_name if field.kw_only else by_place).append(parameter)
        known[f"_set_{name}"] = getattr(cls, name).__set__
        body.append(f"_set_{name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join([*by_place, *["*"] * bool(by_name), *by_name])
    text = f"def make({', '.join(known)}):\n def __init__({parameters}):\n  "
    text += "\n  ".join(body or ["pass"]) + "\n return __init__"
    scope: dict[str, Any] = {}
    exec(text, vars(sys.modules[cls.__module__]), scope)
    init: Callable[..., None] = scope["make"](**known)
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {each.name: each.type for each in fields if each.init} | {"return": None}
    return init


def _comparison(names: Sequence[str]) -> tuple[Callable[..., bool], Callable[..., int]]:
    """Return ``__eq__`` and ``__hash__`` by the fields of these names."""
    values: Callable[[object], Any] = attrgetter(*names) if names else lambda _: ()

    def __eq__(self: object, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)  # type: ignore[no-any-return]

    def __hash__(self: object) -> int:
        return hash(values(self))

    return __eq__, __hash__


def _repr(names: Sequence[str]) -> Callable[[Any], str]:
    """Return ``__repr__`` with the fields of these names."""

    def __repr__(self: object) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({shown})"

    return recursive_repr()(__repr__)


def _refuse_to_set(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


if not TYPE_CHECKING:  # type checkers read the import above

    def dataclass(cls=None, /, **options):
        if options.get("frozen") and options.get("slots") and options.keys() <= _OPTIONS:
            return lambda cls: _make(cls, options.get("kw_only", False))
        return dataclasses.dataclass(cls, **options)
