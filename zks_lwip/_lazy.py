"""Names that a package imports when they are used (PEP 562).

Nothing is imported here but that: ``import zks_lwip`` is what a command begins with, and until it
is through, a Ctrl-C shows a traceback (:mod:`zks_lwip.__main__`).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as that of typing, which takes longer than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports a name when it is first used.

    An import of one module of the package then does not load the others. The package's
    ``__init__`` says the same under ``TYPE_CHECKING``.

    :param package: ``__name__`` of the package.
    :param modules: below it, each with the names that are taken from it, with spaces between.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f".{homes[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
