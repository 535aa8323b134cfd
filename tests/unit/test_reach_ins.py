"""Tests reach nothing private of the package, so that it can be rearranged behind its public names.

What a test needs of an object is a parameter of its constructor or a public counter. This reads
every file below ``tests/`` and finds

- imports of private modules and private names of the package, in code that is text, too;
- private attributes (``x._name``, ``getattr(x, "_name")``), unless the same file defines ``_name``
  or ``x`` is a module of another package;
- ``monkeypatch.setattr`` and the like on a module or class of the package, given as an object or
  as a string: they fix which file a name is in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TOP = "zks_lwip"
ALLOWED = frozenset({"_lwip", "_util", "_memory", "_version"})
"""Modules that all packages share, and the compiled binding, which tests of the C call."""
NAMED_TUPLE = frozenset({"_asdict", "_fields", "_make", "_replace"})
"""Public methods of named tuples."""
STRUCTURE = frozenset({"_fields_"})
"""What ctypes documents of a structure."""
PATCHES = frozenset({"setattr", "setitem", "delattr", "delitem", "patch", "object"})
IMPORT_IN_TEXT = re.compile(rf"\b(?:from|import) ({TOP}[\w.]*)")


def is_private(name: str) -> bool:
    """Return whether a name is private; Python's own (``__init__``) and ``_`` are not."""
    return bool(re.match("_[^_]", name)) and name not in NAMED_TUPLE | STRUCTURE


def private_part(dotted: str) -> bool:
    """Return whether a dotted name leads through a private part of the package."""
    first, *parts = dotted.split(".")
    return first == TOP and any(is_private(x) and x not in ALLOWED for x in parts)


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name of a file stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
                else:
                    first = alias.name.split(".")[0]
                    names[first] = first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def defined_privates(tree: ast.Module) -> set[str]:
    """Return the private names that a file defines: functions, classes, and attributes of self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def dotted_name(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the dotted name that an expression of names and dots stands for."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value, names)
        return base and f"{base}.{node.attr}"
    return None


def reach_ins(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each reach-in of a file of tests."""
    tree = ast.parse(source)
    names = imported_names(tree)
    own = defined_privates(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if private_part(alias.name):
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if private_part(f"{node.module}.{alias.name}"):
                    yield node.lineno, f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue
            base = dotted_name(node.value, names)
            if base is None:
                if node.attr not in own:
                    yield node.lineno, ast.unparse(node)
            elif base.split(".")[0] in (TOP, "tests") and node.attr not in ALLOWED:
                yield node.lineno, ast.unparse(node)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in PATCHES
            and node.args
        ):
            target = node.args[0]
            if isinstance(target, ast.Constant):
                patched = target.value
            else:
                patched = dotted_name(target, names)
            if isinstance(patched, str) and patched.split(".")[0] == TOP:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value) and name.value not in own:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for dotted in IMPORT_IN_TEXT.findall(node.value):
                if private_part(dotted):
                    yield node.lineno, f"import {dotted}"


def files_of_tests() -> list[Path]:
    """Return the Python files below ``tests/``, but for this one, which names what it looks for."""
    return [path for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]


def test_nothing_private_is_reached() -> None:
    found = [
        f"{path}:{line}: {text}"
        for path in files_of_tests()
        for line, text in sorted(reach_ins(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from zks_lwip.stack._tcp import TcpStream",
        "from zks_lwip.worker.server import _MAX_HANDSHAKES",
        "import zks_lwip.device._linux",
        "import zks_lwip\nzks_lwip.device._linux",
        "from zks_lwip.carrier import masking\nmasking._checked",
        "def test(session):\n    session._outbox",
        "def test(session):\n    getattr(session, '_outbox')",
        "def test(pair):\n    pair.ends[0]._outbox = 3",
        "code = 'import sys; from zks_lwip.device._linux import open_tun'",
        "def test(monkeypatch):\n    monkeypatch.setattr('zks_lwip.worker.server.LIMIT', 4)",
        "from zks_lwip.worker import server\n"
        "def test(monkeypatch):\n    monkeypatch.setattr(server, 'LIMIT', 4)",
        "from zks_lwip.worker import server\n"
        "def test(monkeypatch):\n    monkeypatch.setattr(server.time, 'monotonic', None)",
    ],
)
def test_a_planted_reach_in_is_found(source: str) -> None:
    assert len(list(reach_ins(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from zks_lwip._lwip import lib",
        "from zks_lwip._util import one_line",
        "from zks_lwip import stack as _stack",
        "import sys\nsys._getframe()",
        "class Fake:\n    def __init__(self):\n        self._sent = 0\n"
        "def test(fake):\n    assert fake._sent",
        "def test(packet):\n    packet._replace(ttl=1).__class__",
        "import time\ndef test(monkeypatch):\n    monkeypatch.setattr(time, 'monotonic', None)",
        "def test(monkeypatch, tunnel):\n    monkeypatch.setattr(tunnel, 'echo', None)",
    ],
)
def test_what_is_public_or_of_others_passes(source: str) -> None:
    assert not list(reach_ins(source))
