"""What programs may rely on changes on purpose alone, and every name is documented."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from .surface import MODULES, members, public_names, surface

KEPT = Path(__file__).with_name("surface.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="has other devices")
def test_names_and_signatures_are_as_they_were() -> None:
    assert surface() == KEPT.read_text(encoding="utf-8"), (
        "the public interface has changed; if that is meant: "
        "python -m tests.unit.api.surface > tests/unit/api/surface.txt"
    )


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_documented(module: str) -> None:
    bare = []
    for name, value in public_names(module).items():
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if not inspect.getdoc(value):
            bare.append(name)
        if inspect.isclass(value):
            bare += [
                f"{name}.{member}"
                for member, part in members(value)
                if (inspect.isroutine(part) or isinstance(part, property))
                and not inspect.getdoc(getattr(value, member))
            ]
    assert bare == []
