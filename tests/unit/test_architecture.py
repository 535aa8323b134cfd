"""Who may import whom: arrows run down only, from the command line to the errors.

The packages below ``zks_lwip`` stand in rows; a module imports from its own and from rows below,
never from above, never from a neighbour in its own row, and never in a circle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from zks_lwip.cli.flags import FLAGS

PACKAGE = Path(__file__).parents[2] / "zks_lwip"

ROWS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        "__main__",
        "cli",
        "__init__",
        "doctor top",
        "daemon",
        "vpn",
        "settings",
        "config metrics",
        "testing",
        "worker gateway proxy",
        "tunnel host stack",
        "carrier dns device",
        "protocol net",
        "_util _memory _private",
        "errors _version _lazy _loading _lwip",
    )
)
"""Packages, and single modules, directly below ``zks_lwip``, from the top down."""

CLIENT = frozenset(
    "cli doctor top daemon vpn settings config gateway proxy tunnel host stack dns device "
    "testing".split()
)
"""Packages of the client alone."""
WORKER_NEEDS = frozenset(
    "worker carrier protocol net _util _memory _private errors _version _lazy _lwip".split()
)

Graph = Mapping[str, frozenset[str]]


def imports_of(source: str, module: str, is_package: bool, known: frozenset[str]) -> Iterator[str]:
    """Yield the modules that ``source``, the text of ``module``, imports; also inside functions.

    Within the package a name is followed to the module that it stands for. What is imported for
    types alone counts: it is an arrow for who reads.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in known else base


@cache
def read_graph(package: Path) -> Graph:
    """Read which module of a package imports which; others appear by their first name."""
    top = package.name
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    known = frozenset(files) | {f"{top}._lwip"}
    return {
        module: frozenset(
            name if name.split(".")[0] == top else name.split(".")[0]
            for name in imports_of(
                path.read_text(encoding="utf-8"), module, path.name == "__init__.py", known
            )
        )
        for module, path in files.items()
    }


def place(module: str) -> str:
    """Return which of :data:`ROWS` a module is in."""
    return (module.split(".") + ["__init__"])[1]


def arrows_up(graph: Graph) -> set[str]:
    """Return the imports that do not run down."""
    row = {name: number for number, names in enumerate(ROWS) for name in names}
    found = set()
    for module, imported in graph.items():
        for name in imported:
            if name.split(".")[0] != module.split(".")[0]:
                continue
            here, there = place(module), place(name)
            if here != there and row[here] >= row[there]:
                found.add(f"{module} -> {name}")
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected modules, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in graph:
                continue
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == module:
                    break
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def with_io(graph: Graph) -> set[str]:
    """Return the modules of ``protocol`` that could wait or send: it has no input or output."""
    banned = {"trio", "socket", "select", "ssl", "asyncio", "threading", "os"}
    return {
        f"{module} -> {name}"
        for module, imported in graph.items()
        if place(module) == "protocol"
        for name in imported & banned
    }


def strangers(graph: Graph) -> set[str]:
    """Return what the worker takes from the client, and the client's packages from the worker."""
    return {
        f"{module} -> {name}"
        for module, imported in graph.items()
        for name in imported
        if name.split(".")[0] == module.split(".")[0]
        and (
            (place(module) == "worker" and place(name) not in WORKER_NEEDS)
            or (place(module) in CLIENT - {"cli"} and place(name) == "worker")
        )
    }


def faults(graph: Graph) -> set[str]:
    """Return all that is wrong."""
    found = arrows_up(graph) | with_io(graph) | strangers(graph)
    return found | {f"circle: {' '.join(group)}" for group in circles(graph)}


def test_every_package_has_a_row() -> None:
    packages = {place(module) for module in read_graph(PACKAGE)}
    assert packages <= set().union(*ROWS)


def test_arrows_run_down_without_a_circle() -> None:
    assert faults(read_graph(PACKAGE)) == set()


def plant(graph: Graph, module: str, source: str) -> Graph:
    """Return ``graph`` with one more module."""
    known = frozenset(graph) | {module}
    imported: Iterable[str] = imports_of(source, module, False, known)
    return {**graph, module: frozenset(imported)}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("zks_lwip.protocol.planted", "import trio", "zks_lwip.protocol.planted -> trio"),
        (
            "zks_lwip.protocol.planted",
            "def wait():\n    from trio import sleep",
            "zks_lwip.protocol.planted -> trio",
        ),
        (
            "zks_lwip.worker.planted",
            "from ..dns import cache",
            "zks_lwip.worker.planted -> zks_lwip.dns.cache",
        ),
        (
            "zks_lwip.tunnel.planted",
            "from ..worker import server",
            "zks_lwip.tunnel.planted -> zks_lwip.worker.server",
        ),
        (
            "zks_lwip.carrier.planted",
            "from ..tunnel.options import TunnelConfig",
            "zks_lwip.carrier.planted -> zks_lwip.tunnel.options",
        ),
        (
            "zks_lwip.device.planted",
            "from ..dns.cache import Cache",
            "zks_lwip.device.planted -> zks_lwip.dns.cache",
        ),
    ],
)
def test_a_planted_arrow_is_found(module: str, source: str, fault: str) -> None:
    assert fault in faults(plant(read_graph(PACKAGE), module, source))


def test_a_planted_circle_is_found() -> None:
    graph = plant(read_graph(PACKAGE), "zks_lwip.protocol.first", "from . import second")
    graph = plant(graph, "zks_lwip.protocol.second", "from .first import x")
    graph = plant(graph, "zks_lwip.protocol.first", "from . import second")
    assert "circle: zks_lwip.protocol.first zks_lwip.protocol.second" in faults(graph)


def test_open_vpn_is_a_table_of_contents() -> None:
    """It puts parts together; what a part is for, and how it is made, stands elsewhere."""
    tree = ast.parse((PACKAGE / "vpn" / "open.py").read_text(encoding="utf-8"))
    (function,) = (
        node
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "open_vpn"
    )
    first, last = function.body[1], function.body[-1]  # behind the docstring
    assert last.end_lineno is not None and last.end_lineno - first.lineno + 1 < 40


#: What nothing of ours shows: answers of DNS tell their clients; a command that is to be typed.
NOT_SHOWN = {"dns/special.py", "worker/dnsclient.py", "vpn/embedded_worker.py"}


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the strings of a module, but for those that stand alone, as docstrings do."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node


def test_nothing_below_the_command_line_names_a_flag() -> None:
    """It names the option, and the command line the flag; arguments of programs are no text."""
    flag = re.compile(rf"(?<!\S)[`(]*({'|'.join(sorted(FLAGS.values()))})(?![\w-])")
    found = [
        f"{path}:{node.lineno}: {node.value}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli" and path.relative_to(PACKAGE).as_posix() not in NOT_SHOWN
        for node in texts(ast.parse(path.read_text(encoding="utf-8")))
        if flag.search(node.value) and node.value not in FLAGS.values()
    ]
    assert not found, "\n".join(found)


def test_no_memory_is_shared_by_two_threads() -> None:
    """Each may run a trio of its own: what all of a module fill would be filled by both."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
                found += [
                    f"{path.relative_to(PACKAGE)}:{call.lineno}"
                    for call in ast.walk(statement.value)
                    if isinstance(call, ast.Call) and call.args
                    and isinstance(call.func, ast.Name) and call.func.id == "bytearray"
                ]  # fmt: skip
    assert not found, "see zks_lwip.net.scratch"
