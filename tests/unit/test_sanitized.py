"""What ``tests/sanitize.sh`` leaves out, since none of our C can run in it, cannot reach the C."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_architecture import imports_of

ROOT = Path(__file__).parents[2]
BINDING = "zks_lwip._lwip"
ANOTHER_PYTHON = re.compile(r"\bsys\.executable\b|\bimport executable\b|\bPYTHON\b")
"""How a file names a Python that it starts, and that may import what it likes."""


def all_files() -> dict[str, Path]:
    """Return the modules of the package and of the tests, with their files."""
    files = {}
    for path in [*(ROOT / "zks_lwip").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = all_files()


def left_out() -> list[str]:
    """Return the modules of tests below what the array ``without_c`` of the script names."""
    script = (ROOT / "tests" / "sanitize.sh").read_text(encoding="utf-8")
    (inside,) = re.findall(r"^without_c=\(([^)]*)\)$", script, re.M)
    modules = []
    for name in inside.split():
        below = [
            module
            for module, path in FILES.items()
            if path.name.startswith("test_") and ROOT / name in (path, *path.parents)
        ]
        assert below, f"{name} holds no tests"
        modules += below
    return modules


@cache
def reached_from(module: str, planted: str = "") -> frozenset[str]:
    """Return what a module, or what is planted into it, imports, and whether a test starts Python.

    Imports in functions, and for types alone, count.
    """
    text = planted or FILES[module].read_text(encoding="utf-8")
    known = frozenset(FILES) | {BINDING}
    found = frozenset(imports_of(text, module, FILES[module].name == "__init__.py", known))
    is_test = module.startswith("tests.")
    return found | {"sys.executable"} if is_test and ANOTHER_PYTHON.search(text) else found


def ways_to_c(planted: str = "", into: str = "") -> list[str]:
    """Return how tests that are left out reach the C, with ``planted`` added to a module."""
    came_from = dict.fromkeys(left_out(), "")
    found = []
    for module in (queue := list(came_from)):
        imported = reached_from(module)
        if module == into:
            imported |= reached_from(module, planted)
        if imported & {BINDING, "sys.executable"}:
            way = [module]
            while before := came_from[way[-1]]:
                way.append(before)
            found.append(" <- ".join(way))
        for name in sorted(imported & set(FILES) - set(came_from)):
            came_from[name] = module
            queue.append(name)
    return found


def test_nothing_that_is_left_out_reaches_the_c() -> None:
    assert ways_to_c() == []


@pytest.mark.parametrize(
    ("into", "planted"),
    [
        ("tests.unit.dns.test_cache", "from zks_lwip._lwip import lib"),
        ("tests.unit.dns.test_cache", "def use():\n    from zks_lwip.carrier import masking"),
        ("tests.kits.dns_servers", "from tests.kits.worker import running_worker"),
        ("tests.kits.dns_servers", "import sys; python = sys.executable"),
        ("zks_lwip.dns.forwarder", "from .._memory import give_back"),
        ("zks_lwip.net.descriptors", "def count():\n    from ..protocol import session"),
    ],
)
def test_a_planted_way_is_found(into: str, planted: str) -> None:
    assert any(into in way.split(" <- ") for way in ways_to_c(planted, into))
