"""The garbage collector while a command loads its modules, and after that.

What modules are made of stays until the process ends. To look through it for cycles time and again
while it grows, and once more at the end, would take a tenth of a command's start. Nothing of this
happens where the package is imported by another program.
"""

from __future__ import annotations

import gc

__all__ = ["begin_loading", "end_loading"]

_USUAL = gc.get_threshold()
_OBJECTS = 250_000
"""New objects that a collection waits for meanwhile: twice as many as are loaded, since one look at
them all costs a twentieth of the start; some 25 MB of them are garbage at worst."""


def begin_loading() -> None:
    """Modules will be loaded: collect seldom."""
    gc.set_threshold(_OBJECTS, *_USUAL[1:])


def end_loading() -> None:
    """Collect as usual from now on, but not what is there. Does nothing where none has begun."""
    if gc.get_threshold()[0] == _OBJECTS:
        gc.freeze()
        gc.set_threshold(*_USUAL)
