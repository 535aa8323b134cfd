"""Our C is free of warnings, whichever compiler reads it, and its files form no circle."""

from __future__ import annotations

import concurrent.futures
import graphlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "zks_lwip" / "native"
LWIP = ROOT / "vendor" / "lwip"
FILES = sorted(NATIVE.rglob("*.c")) + sorted((LWIP / "port").rglob("*.c"))
STRICT = ["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-fsyntax-only"]


def include_arguments() -> list[str]:
    return [
        f"-I{NATIVE}",
        f"-I{LWIP / 'port'}",
        "-isystem",  # lwIP's own headers are not ours to clean
        str(LWIP / "src" / "include"),
        f"-I{sysconfig.get_path('include')}",
    ]


@pytest.mark.skipif(os.name == "nt", reason="these are options of gcc and clang")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compiles_without_warnings(path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    done = subprocess.run(
        [compiler, *STRICT, *include_arguments(), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


#: What is wrong in lwIP 2.2.1, and what we do not let run at all.
REASSEMBLY = {"ip4_reass", "ip6_reass", "ip_reass_tmr", "ip6_reass_tmr", "ip4_frag", "ip6_frag"}
OTHERS = {"udp_input", "raw_input", "icmp_input", "dhcp_start", "igmp_input"}
PRINTING = {"ip6addr_ntoa", "ip6addr_ntoa_r", "ipaddr_ntoa", "ipaddr_ntoa_r"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="reads objects of ELF")
def test_what_is_wrong_in_lwip_is_never_called(tmp_path: Path) -> None:
    """Reassembly (a NULL that is followed) is not compiled, nothing prints IPv6 addresses (a read
    out of bounds). Options of TCP and of neighbour discovery: see stack/test_hostile_packets.py.
    """
    with open(LWIP / "lwip.toml", "rb") as file:
        theirs = [LWIP / "src" / name for name in tomllib.load(file)["compile"]]

    def symbols(path: Path) -> tuple[set[str], set[str]]:
        target = tmp_path / f"{path.parent.name}-{path.stem}.o"
        command = ["gcc", "-c", "-O0", "-w", "-std=c11", "-D_DEFAULT_SOURCE", str(path)]
        subprocess.run([*command, *include_arguments(), "-o", str(target)], check=True)
        text = subprocess.run(["nm", str(target)], capture_output=True, text=True, check=True)
        words = [line.split() for line in text.stdout.splitlines()]
        return {x[-1] for x in words if x[-2] == "U"}, {x[-1] for x in words if x[-2] != "U"}

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(symbols, [*FILES, *theirs]))
    used: set[str] = set()
    defined: set[str] = set()
    for uses, defines in results:
        defined |= defines
        if not defines & PRINTING:  # they use each other
            used |= uses
    assert "tcp_input" in used & defined, "the control: this one is called"
    assert not defined & (REASSEMBLY | OTHERS)
    assert PRINTING & defined and not PRINTING & used


def test_there_is_something_to_compile() -> None:
    assert len(FILES) > 0


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', " ", text, flags=re.S)


def module(path: Path) -> str:
    """``core/flow_table`` for both ``flow_table.c`` and ``flow_table.h``."""
    return path.relative_to(NATIVE).with_suffix("").as_posix()


def check_no_circle(uses: dict[str, set[str]]) -> None:
    """Fail if following ``uses`` leads back to where it began."""
    graph = {name: others - {name} for name, others in uses.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("a circle: " + " -> ".join(reversed(error.args[1])))


def test_includes_form_no_circle() -> None:
    """A header and its source are one module; another folder's header is named with its folder."""
    uses: dict[str, set[str]] = {}
    for path in NATIVE.rglob("*.[ch]"):
        own = uses.setdefault(module(path), set())
        for name in re.findall(r'^\s*#\s*include\s*"(.*)"', path.read_text(), re.M):
            if (path.parent / name).is_file():
                own.add(module(path.parent / name))
            elif (NATIVE / name).is_file():
                own.add(module(NATIVE / name))
            else:  # lwIP's, or what our port gives it
                assert name.startswith("lwip/") or (LWIP / "port" / name).is_file(), (path, name)
    assert "core/context" in uses["core/pump"] | uses["core/core"], "the control"
    check_no_circle(uses)


#: A definition begins at the first column; its body is on the same line or begins on the next.
DEFINITION = re.compile(r"^(?!static)(?:\w[\w *]*?[ *])(\w+)\([^;{}]*\)\s*\{", re.M)


def test_calls_form_no_circle() -> None:
    """Which module uses which by the functions that it names, called or not."""
    texts = {module(path): without_comments(path.read_text()) for path in NATIVE.rglob("*.c")}
    defined = {name: own for own, text in texts.items() for name in DEFINITION.findall(text)}
    assert {"zks_pump_run", "flow_settle", "zks_ws_mask", "zks_nsrun_spawn"} <= defined.keys()
    uses = {
        own: {defined[word] for word in set(re.findall(r"\w+", text)) if word in defined}
        for own, text in texts.items()
    }
    assert "core/flow_table" in uses["core/flow_lwip"], "the control"
    check_no_circle(uses)
