"""A step: one change of a host, as data, with all that there is to know of it.

A step says what is to be there, not how it is found: doing it twice is harmless, and so is undoing
it twice. Steps are equal when they ask for the same; they go to and from JSON for the journal.

The kinds are in :mod:`zks_lwip.host.plan.steps`, which also tells how to add one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

__all__ = ["Step", "from_json", "kind", "render", "to_json"]

KINDS: dict[str, type[Step]] = {}
"""Every kind of step by its name in the journal, which is the name of its class: those of the
systems whose steps have been imported, in a program just its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change. A kind says how it is done, undone and found; the rest has defaults."""

    vanishes: ClassVar[bool] = False
    """It goes with the TUN, by itself, and is not undone at the end."""
    in_journal_only: ClassVar[bool] = False
    """Once done it is found by the journal alone: it must not be done without one, and a journal
    of an instance that died says whether it is to be undone."""
    paused: ClassVar[bool] = False
    """A pause takes it back."""
    atomic: ClassVar[bool] = False
    """It is done as a whole or not at all: where it fails, there is nothing to undo."""
    optional: ClassVar[bool] = False
    """Where it cannot be done again at the end of a pause, that is logged, and the rest done."""
    outlives: ClassVar[bool] = False
    """It is the machine's, not the namespace's: where that has gone, it is still there."""
    needs_root: ClassVar[bool] = False
    """CAP_NET_ADMIN is not enough for it: a helper of root's does it, once this process has no
    more than that, or is another user's."""

    def commands(self) -> list[str]:
        """Return what one would type for it."""
        raise NotImplementedError

    def undo_commands(self) -> list[str]:
        """Return what one would type to take it back; empty where it only vanishes with the TUN."""
        raise NotImplementedError

    def do(self, system: Any) -> None:
        """Do it; harmless where it is done already.

        :param system: what steps of its system act through, see :mod:`.system`.

        :raises HostError: it cannot be done.
        :raises PrivilegeError: for want of a privilege.
        :raises OSError: the system refuses it.
        """
        raise NotImplementedError

    def undo(self, system: Any) -> None:
        """Take it back; harmless where it has gone already.

        Not called where it vanishes by itself and the TUN is about to go.

        :raises HostError, PrivilegeError, OSError: as :meth:`do`.
        """
        raise NotImplementedError

    def is_there(self, view: Any) -> bool | None:
        """Return whether it is in force; None: a look at the host does not tell.

        :param view: the state of a host of its system.
        """
        return None

    def remains(self, view: Any) -> bool:
        """Return whether it is to be undone when the instance that has done it is dead."""
        return self.is_there(view) is True

    @property
    def closes(self) -> bool:
        """It only refuses traffic, and is found without a journal: done also where nothing else
        can be.
        """
        return False

    def recorded(self) -> Step:
        """Return what the journal has to know: as little as it takes to undo it."""
        return self

    def replaces(self, other: Step) -> bool:
        """Return whether ``other`` need not be undone where this is done."""
        return self == other

    def check_recorded(self) -> None:
        """Refuse what this package does not write into a journal.

        An instance that has become another user still holds its journal, and root undoes it.

        :raises ValueError: it is not a step of ours.
        """


S = TypeVar("S", bound=Step)


def kind(cls: type[S]) -> type[S]:
    """Make a class of steps known to the journal (a decorator, above ``@dataclass``)."""
    KINDS[cls.__name__] = cls
    return cls


def to_json(step: Step) -> dict[str, Any]:
    """Return a step as what :func:`json.dumps` takes."""
    values = asdict(step)
    return {"kind": type(step).__name__} | {k: v for k, v in values.items() if v is not None}


def from_json(data: Any) -> Step:
    """Return the step that :func:`to_json` gave.

    :raises ValueError: it is no such thing.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise ValueError("no step")
    if data["kind"] not in KINDS:
        raise ValueError(f"no step: {data['kind']!r}")
    cls = KINDS[data["kind"]]
    values = {name: value for name, value in data.items() if name != "kind"}
    types = {field.name: str(field.type) for field in fields(cls)}
    for name, value in values.items():
        if name not in types or type(value).__name__ not in types[name].split(" | "):
            raise ValueError(f"no {cls.__name__}: {data!r}")
    absent = {name: None for name, names in types.items() if names.endswith(" | None")}
    try:
        step = cls(**{**absent, **values})
    except TypeError as error:
        raise ValueError(f"no {cls.__name__}: {error}") from None
    step.check_recorded()
    return step


def render(steps: Iterable[Step]) -> list[str]:
    """Return the commands of several steps."""
    return [command for step in steps for command in step.commands()]
