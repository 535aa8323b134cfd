"""Every test runs: none is hidden by another of the same name below it in its file or class.

(Ruff's F811 would say so, but also of each fixture that is imported and named by a parameter.)
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def hidden(source: str) -> Iterator[int]:
    """Yield the line of each function that stands below another of the same name."""
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, ast.Module | ast.ClassDef):
            names = set()
            for node in scope.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    if node.name.startswith("test") and node.name in names:
                        yield node.lineno
                    names.add(node.name)


def test_none_is_hidden() -> None:
    found = [
        f"{path}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in hidden(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_a_hidden_one_is_found() -> None:
    once = "def test_a(): pass\nclass TestB:\n    def test_a(self): pass\n"
    assert not list(hidden(once))
    assert list(hidden(once + "async def test_a(): pass\n")) == [4]
    assert list(hidden(once + "    def test_a(self): pass\n")) == [4]
