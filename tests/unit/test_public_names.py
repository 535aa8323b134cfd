"""The package's public names, what an import of them loads, and the layout that is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import zks_lwip
from zks_lwip import errors

PACKAGE = Path(zks_lwip.__file__).parent
ROOT = PACKAGE.parent


@pytest.mark.parametrize("name", zks_lwip.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(zks_lwip, name) is not None and name in dir(zks_lwip)


def test_all_errors_are_there() -> None:
    assert set(errors.__all__) <= set(zks_lwip.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'open_sesame'"):
        getattr(zks_lwip, "open_sesame")  # noqa: B009


def test_importing_it_takes_next_to_nothing() -> None:
    """Until it is through, the command line cannot end in silence by a Ctrl-C."""
    code = "import sys; known = {*sys.modules}; import zks_lwip; print(*sys.modules.keys() - known)"
    argv = [sys.executable, "-S", "-c", code]  # without what packages load at the start of Python
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert loaded == {"__future__", "zks_lwip", "zks_lwip._lazy", "zks_lwip._version"}


def test_the_options_are_read_without_the_compiled_part() -> None:
    code = "import sys, zks_lwip.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"trio_websocket", "pyroute2", "click", "zks_lwip._lwip", "h2", "dns"}
    assert not loaded & {
        "zks_lwip.stack._core",
        "zks_lwip.gateway.gateway",
        "zks_lwip.tunnel.tunnel",
    }


@pytest.mark.parametrize(
    "package", "daemon device dns gateway proxy stack tunnel vpn worker".split()
)
def test_every_name_of_a_package_resolves(package: str) -> None:
    module = import_module(f"zks_lwip.{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'open_sesame'"):
        getattr(module, "open_sesame")  # noqa: B009


def test_what_the_layout_names_exists() -> None:
    named = set(
        re.findall(r"``((?:[a-z_0-9]+/)+[a-z_0-9.]*|[a-z_]+\.py)``", zks_lwip.__doc__ or "")
    )
    assert len(named) > 20
    root = PACKAGE.parent
    missing = [
        name
        for name in named
        if not any(
            (base / (name + end)).exists() for base in (PACKAGE, root) for end in ("", ".py")
        )
    ]
    assert missing == []


def layout(text: str) -> list[str]:
    """Return the lines of the layout in a text, without their indentation."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith("cli  "))
    end = next(n for n, line in enumerate(lines) if line.startswith("native/  "))
    return lines[start : end + 1]


def test_the_layout_names_every_package() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert packages | modules <= set(re.findall(r"\w+", "\n".join(layout(zks_lwip.__doc__ or ""))))


def test_readme_says_the_same() -> None:
    doc = zks_lwip.__doc__ or ""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert layout(readme) == layout(doc)
    table = readme.partition("| to change | look at |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").replace(" | ", ": ") for line in table.splitlines()[2:]]
    listed = doc.partition("Where to change what:\n\n")[2].partition("\n\n")[0]
    assert [" ".join(item.split()) for item in listed.replace("``", "`")[2:].split("\n- ")] == rows


def test_what_readme_names_of_the_life_of_a_connection_exists() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    life = readme.partition("### The life of a connection")[2].partition("\n### ")[0]
    named = re.findall(r"`((?:\w+/)+\w+\.[a-z]+)`", life)
    assert len(named) > 12
    assert [name for name in named if not (PACKAGE / name).exists()] == []


def test_no_name_is_that_of_a_module_beside_it() -> None:
    """An import of the module would put it in the place of the name."""
    for path in PACKAGE.glob("*/__init__.py"):
        package = import_module(f"zks_lwip.{path.parent.name}")
        if not hasattr(package, "__getattr__"):
            continue  # it has loaded its names, and they have won
        names = set(package.__all__)
        assert not names & {each.stem for each in path.parent.iterdir()}, path


#: What a program says of a flow (``zks_lwip.Tunnel``), and what carries it.
TWICE = {"Tunnel"}


def classes(package: Path) -> list[tuple[str, str]]:
    """Return the name and place of every class."""
    return [
        (node.name, f"{path.relative_to(package)}:{node.lineno}")
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]


def test_one_name_is_one_class() -> None:
    """Who looks for a class by its name finds it, and no other."""
    places: dict[str, list[str]] = {}
    for name, where in classes(PACKAGE):
        places.setdefault(name, []).append(where)
    found = {name: where for name, where in places.items() if len(where) > 1}
    assert "Hello" in places and found.keys() == TWICE, found


NAMELESS = re.compile(r"somebody|nobody|whoever|\bother side\b", re.IGNORECASE)
"""Who reads these, in a name or a text, has to find out first which part is meant."""
USER = re.compile('"(user:)?nobody"|\\bNOBODY\\b')  # of /etc/passwd, and in tests its number


def nameless(text: str) -> list[int]:
    """Return the numbers of the lines that do not say who."""
    lines = enumerate(text.splitlines(), 1)
    return [number for number, line in lines if NAMELESS.search(USER.sub("", line))]


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent / "tests"], ids=lambda x: x.name)
def test_comments_and_messages_name_the_part_that_acts(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".c", ".h")]
    assert len(files) > 300
    found = [
        f"{path.relative_to(folder)}:{number}"
        for path in files
        for number in nameless(path.read_text(encoding="utf-8"))
        if path != Path(__file__)
    ]
    assert found == []


def test_a_planted_word_is_found() -> None:
    lines = (
        'a = 1  # for the user "nobody"',
        "b = 2  # nobody reads it",
        "# What the other side asks.",
        "def test_data_that_nobody_reads() -> None:",
    )
    assert nameless("\n".join(lines)) == [2, 3, 4]
