"""Our ``dataclass`` makes what that of :mod:`dataclasses` makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import KW_ONLY, FrozenInstanceError, field
from typing import Any, ClassVar, get_type_hints

import pytest

from zks_lwip import _dataclass

OURS, PYTHONS = _dataclass.dataclass, dataclasses.dataclass
Maker = Callable[..., Any]


def classes(dataclass: Maker) -> dict[str, Any]:
    """Make classes of every kind that the package has, and some more."""

    @dataclass(frozen=True, slots=True)
    class Plain:
        """With a default, and a method."""

        KIND: ClassVar[int] = 7
        one: int
        two: str = "b"

        def both(self) -> str:
            return f"{self.one}{self.two}"

    @dataclass(frozen=True, slots=True)
    class Empty:
        """Without fields."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ByName:
        """Fields by name, in whatever order."""

        first: int = 1
        second: int

    @dataclass(frozen=True, slots=True)
    class Mixed:
        """All that a field can be."""

        a: int
        b: list[int] = field(default_factory=list, compare=False)
        _: KW_ONLY
        c: int = field(default=3, repr=False)
        d: int = field(default=4, init=False)
        e: tuple[int, ...] = field(default_factory=lambda: (5,), init=False)
        f: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "f", self.a + self.c)

    @dataclass(frozen=True, slots=True)
    class Derived(Plain):
        """More fields, and another default."""

        two: str = "c"
        three: tuple[int, ...] = ()

    @dataclasses.dataclass(frozen=True)
    class Outside(Plain):
        """By the other decorator in any case."""

        four: int = 4

    @dataclass(frozen=True, slots=True)
    class Own:
        """Methods of its own stay."""

        one: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.one % 10 == other.one % 10

        def __hash__(self) -> int:
            return self.one % 10

        def __repr__(self) -> str:
            return "own"

    @dataclass(frozen=True, slots=True)
    class OwnEq:
        """Its hash is made nevertheless."""

        one: int

        def __eq__(self, other: object) -> bool:
            return True

    @dataclass(slots=True)
    class Changes:
        """Neither frozen nor hashable."""

        one: int

    made = (Plain, Empty, ByName, Mixed, Derived, Outside, Own, OwnEq, Changes)
    return {each.__name__: each for each in made}


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Plain", (1,), {}),
    ("Plain", (1,), {"two": "x"}),
    ("Empty", (), {}),
    ("ByName", (), {"second": 2}),
    ("Mixed", (1,), {}),
    ("Mixed", (1, [2]), {"c": 9}),
    ("Derived", (1,), {"three": (3,)}),
    ("Outside", (1, "y", 5), {}),
    ("Own", (11,), {}),
    ("OwnEq", (11,), {}),
    ("Changes", (1,), {}),
]
NAMES = sorted({name for name, _, _ in CALLS})


def seen(made: Any) -> dict[str, Any]:
    """Return what can be seen of an object."""
    again, other = copy.copy(made), copy.deepcopy(made)
    changes = []
    for each in dataclasses.fields(made)[:1]:
        try:
            setattr(made, each.name, 2)
        except FrozenInstanceError as error:
            changes.append(str(error))
    return {
        "repr": repr(made),
        "equal": (made == again == other, made != again, made == object()),
        "hash": None if made.__hash__ is None else hash(made) == hash(again),
        "dict": dataclasses.asdict(made),
        "again": repr(again),
        "changes": changes,
        "dict of its own": hasattr(made, "__dict__"),
    }


@pytest.mark.parametrize(("name", "places", "names"), CALLS)
def test_objects_are_as_those_of_python(
    name: str, places: tuple[Any, ...], names: dict[str, Any]
) -> None:
    ours, pythons = (classes(maker)[name](*places, **names) for maker in (OURS, PYTHONS))
    assert seen(ours) == seen(pythons)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_as_those_of_python(name: str) -> None:
    ours, pythons = (classes(maker)[name] for maker in (OURS, PYTHONS))

    def told(cls: Any) -> list[Any]:
        return [
            str(inspect.signature(cls)),
            get_type_hints(cls.__init__),
            cls.__init__.__qualname__,
            cls.__init__.__module__,
            cls.__doc__,
            cls.__match_args__,
            getattr(cls, "__slots__", None),
            [(each.name, each.type) for each in dataclasses.fields(cls)],
            cls.__dataclass_params__.frozen,
        ]

    assert told(ours) == told(pythons)


@pytest.mark.parametrize("maker", [OURS, PYTHONS])
def test_what_cannot_be(maker: Maker) -> None:
    made = classes(maker)
    with pytest.raises(TypeError):
        made["Plain"]()
    with pytest.raises(TypeError):
        made["ByName"](2)
    with pytest.raises(TypeError):
        made["Mixed"](1, d=4)
    with pytest.raises(FrozenInstanceError):
        del made["Plain"](1).one
    with pytest.raises(TypeError, match="non-frozen"):
        dataclasses.dataclass(type("Thawed", (made["Plain"],), {}))


@OURS(frozen=True, slots=True)
class Pickled:
    """Where pickle finds it."""

    one: int
    two: tuple[int, ...] = ()


def test_it_goes_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Pickled(1, (2,)))) == Pickled(1, (2,))


def test_one_that_holds_itself_can_be_shown() -> None:
    held: list[Any] = []
    made = classes(OURS)["Mixed"](1, held)
    held.append(made)
    assert "..." in repr(made)
