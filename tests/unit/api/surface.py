"""The public names with their signatures, as text: ``python -m tests.unit.api.surface`` prints it.

.venv/bin/python -m tests.unit.api.surface > tests/unit/api/surface.txt
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

MODULES = tuple(
    f"zks_lwip{name}" for name in ("", ".device", ".stack", ".testing", ".vpn", ".worker")
)
"""What programs import from."""


def public_names(module: str) -> dict[str, Any]:
    """Return the public names of a module."""
    loaded = import_module(module)
    return {name: getattr(loaded, name) for name in sorted(loaded.__all__)}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members that a class defines, or its bases in this package."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] != "zks_lwip":
            continue
        for name, value in vars(base).items():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


def signature(value: Any) -> str:
    """Return a signature; empty for what has none."""
    try:
        return str(inspect.signature(value)).replace("<factory>", "...")
    except (TypeError, ValueError):
        return ""


def describe_class(name: str, cls: type) -> Iterator[str]:
    """Yield a line for a class, and one for each member."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    if issubclass(cls, enum.Enum):
        yield f"{name}({bases}): {', '.join(each.name for each in cls)}"
        return
    yield f"{name}({bases}){signature(cls)}"
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    for member, value in sorted(members(cls)):
        if member in fields:
            continue  # it is in the signature
        if isinstance(value, property):
            returns = inspect.signature(value.fget).return_annotation  # type: ignore[arg-type]
            yield f"{name}.{member}: {returns}"
        elif isinstance(value, (classmethod, staticmethod)):
            yield f"{name}.{member}{signature(value.__func__)}"
        elif inspect.isfunction(value):
            kind = "async " if inspect.iscoroutinefunction(value) else ""
            yield f"{kind}{name}.{member}{signature(value)}"


def surface() -> str:
    """Return the whole of it."""
    lines = []
    for module in MODULES:
        lines.append(f"# {module}")
        for name, value in public_names(module).items():
            if inspect.isclass(value):
                lines += describe_class(name, value)
            elif callable(value):
                lines.append(f"{name}{signature(value)}")
            else:
                lines.append(name)
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(surface(), end="")
