"""How the extension module is built: in place, incrementally, with errors that help."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="these drive a compiler of the Unix kind"),
    pytest.mark.skipif(
        not (ROOT / "vendor" / "lwip" / "src").is_dir(),
        reason="vendor/lwip/src is not there: build first",
    ),
]

HEADER = """\
#ifndef ZKS_CORE_H
#define ZKS_CORE_H
int zks_answer(int add);
int zks_shifted(int by);
#endif
"""

CODE_PATH = Path("zks_lwip", "native", "core", "core.c")

CODE = """\
#include "zks_core.h"
#include "lwip/def.h"
int zks_answer(int add) { return (int)lwip_htonl(0x2a000000) + add; }
int zks_shifted(int by) { return 1 << by; }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The build of this checkout, with one function of C and one file of lwIP's."""
    (tmp_path / CODE_PATH).parent.mkdir(parents=True)
    (tmp_path / "zks_lwip" / "__init__.py").touch()
    (tmp_path / CODE_PATH).with_name("zks_core.h").write_text(HEADER)
    (tmp_path / CODE_PATH).write_text(CODE)
    for name in ("build_lwip.py", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    vendor = tmp_path / "vendor" / "lwip"
    vendor.mkdir(parents=True)
    for name in ("lwip_source.py", "lwip_apt.py"):
        shutil.copy(ROOT / "vendor" / "lwip" / name, vendor)
    shutil.copytree(
        ROOT / "vendor" / "lwip" / "port",
        vendor / "port",
        ignore=lambda _, names: [name for name in names if name.endswith(".c")],
    )
    (vendor / "src").symlink_to(ROOT / "vendor" / "lwip" / "src")
    pinned = (ROOT / "vendor" / "lwip" / "lwip.toml").read_text()
    shorter, count = re.subn(r"compile = \[.*?\]", 'compile = ["core/def.c"]', pinned, flags=re.S)
    assert count == 1
    (vendor / "lwip.toml").write_text(shorter)
    return tmp_path


def python(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "ZKS_LWIP_SANITIZE")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def build(project: Path, **environment: str) -> Path:
    done = python(project, "build_lwip.py", "build", **environment)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def answer(project: Path, add: int = 0) -> subprocess.CompletedProcess[str]:
    code = f"from zks_lwip._lwip import lib; print(lib.zks_answer({add}))"
    return python(project, "-c", code)


def object_times(project: Path) -> dict[str, int]:
    return {x.name: x.stat().st_mtime_ns for x in (project / "build").rglob("*.o")}


def test_builds_in_place_for_every_later_python(project: Path) -> None:
    module = build(project)
    assert module == project / "zks_lwip" / "_lwip.abi3.so" or sys.platform != "linux"
    assert answer(project).stdout == "42\n"


@pytest.mark.skipif(sys.platform != "linux", reason="where the compiler is told another folder")
def test_does_not_tell_where_it_was_made(project: Path) -> None:
    made = build(project).read_bytes()
    assert b"core.c" in made  # its debugging information
    assert os.fsencode(project) not in made and os.fsencode(ROOT) not in made


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_shows_nothing_but_its_entry(project: Path) -> None:
    module = build(project)
    option = "-gU" if sys.platform == "darwin" else "-D"
    listed = subprocess.run(
        ["nm", option, "--defined-only", module], capture_output=True, text=True, check=True
    )
    assert [x.split()[-1].lstrip("_") for x in listed.stdout.splitlines()] == ["PyInit__lwip"]


def test_compiles_only_what_has_changed(project: Path) -> None:
    build(project)
    before = object_times(project)
    assert set(before) == {"core.o", "def.o", "zks_lwip._lwip.o"}
    build(project)
    assert object_times(project) == before
    code = project / CODE_PATH
    code.write_text(CODE.replace("+ add", "- add"))
    build(project)
    after = object_times(project)
    assert {x for x in after if after[x] != before[x]} == {"core.o"}
    assert answer(project, 2).stdout == "40\n"
    (project / "vendor" / "lwip" / "port" / "lwipopts.h").touch()
    build(project)
    last = object_times(project)
    assert {x for x in last if last[x] != after[x]} == {"core.o", "def.o"}


def test_an_error_in_the_code_keeps_the_old_module(project: Path) -> None:
    build(project)
    (project / CODE_PATH).write_text("not C\n")
    done = python(project, "build_lwip.py", "build")
    assert done.returncode == 1
    assert "core.c:1" in done.stderr and "what the compiler said" in done.stderr
    assert "Traceback" not in done.stderr
    assert answer(project).stdout == "42\n"


def test_flags_make_a_build_of_their_own(project: Path) -> None:
    build(project)
    (first,) = (project / "build").rglob("def.o")
    made = first.stat().st_mtime_ns
    build(project, CFLAGS="-DUNUSED")
    build(project)
    assert len(list((project / "build").rglob("def.o"))) == 2
    assert first.stat().st_mtime_ns == made


def test_sanitizer_is_built_in(project: Path) -> None:
    build(project, ZKS_LWIP_SANITIZE="undefined")
    done = python(project, "-c", "from zks_lwip._lwip import lib; lib.zks_shifted(40)")
    assert done.returncode != 0
    assert "shift exponent 40 is too large" in done.stderr


COMMANDS = [["build_lwip.py", "build"], ["setup.py", "-q", "bdist_wheel"]]


@pytest.mark.parametrize("command", COMMANDS, ids=["in place", "wheel"])
def test_no_compiler(project: Path, command: list[str]) -> None:
    done = python(project, *command, CC="/nowhere/cc -pthread")
    assert done.returncode == 1
    assert "There is no C compiler: '/nowhere/cc' was not found" in done.stderr
    assert "apt-get install gcc" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=["in place", "wheel"])
def test_compiler_that_does_not_work(project: Path, command: list[str]) -> None:
    done = python(project, *command, CC="false")
    assert done.returncode == 1
    assert "cannot compile a file that includes Python.h" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_python_headers(project: Path) -> None:
    code = (
        "import sys, sysconfig, build_lwip; sysconfig.get_path = lambda name: '/nowhere';"
        "sys.argv = ['build_lwip.py', 'build']; build_lwip.main()"
    )
    done = python(project, "-c", code)
    assert done.returncode == 1
    assert "Python.h" in done.stderr and "/nowhere" in done.stderr
    assert "python3-dev" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=["in place", "wheel"])
def test_wrong_source(project: Path, command: list[str]) -> None:
    (project / "vendor" / "lwip" / "src").unlink()
    shutil.copytree(ROOT / "vendor" / "lwip" / "src", project / "vendor" / "lwip" / "src")
    (project / "vendor" / "lwip" / "src" / "core" / "def.c").write_text("")
    done = python(project, *command)
    assert done.returncode == 1
    assert "this is not lwIP 2.2.1, or it was changed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=["in place", "wheel"])
def test_no_source(project: Path, command: list[str]) -> None:
    (project / "vendor" / "lwip" / "src").unlink()
    pinned = project / "vendor" / "lwip" / "lwip.toml"
    pinned.write_text(re.sub('url = ".*"', 'url = "http://127.0.0.1:1/x"', pinned.read_text()))
    done = python(project, *command, PATH="/nowhere")
    assert done.returncode == 1
    assert "no origin could give it" in done.stderr
    assert done.stderr.count("refused") == 2 and "no apt-get" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=["in place", "wheel"])
def test_free_threaded_python_is_refused(project: Path, command: list[str]) -> None:
    """It has no stable ABI; what setuptools would say of that is a traceback."""
    (project / "sitecustomize.py").write_text(
        "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1\n"
    )
    done = python(project, *command, PYTHONPATH=str(project))
    assert done.returncode == 1
    assert "zks_lwip does not run on a free-threaded Python" in done.stderr
    assert "Traceback" not in done.stderr


def test_needs_no_compiler_for_a_source_archive(project: Path) -> None:
    done = python(project, "setup.py", "-q", "sdist", CC="/nowhere/cc")
    assert done.returncode == 0, done.stderr
