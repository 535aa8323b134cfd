"""What the sdist and the wheel hold, and that the wheel works where there is no compiler.

The wheel that runs on other machines, too: ``tests/netns/test_wheel.py``.
"""

from __future__ import annotations

import email
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from zks_lwip import __version__

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "vendor" / "lwip" / "src").is_dir(),
        reason="vendor/lwip/src is not there: build first",
    ),
]

NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd", "node_modules"
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(x) for x in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


EPOCH = "1700000000"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made from a copy of this checkout."""
    tree = tmp_path_factory.mktemp("checkout") / "zks_lwip"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    run(*command, cwd=tree, SOURCE_DATE_EPOCH=EPOCH)
    (archive,) = (tree / "dist").iterdir()
    return archive


OPTIONS = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]


class Environment:
    """An environment of its own, which the tests' lends what the package depends on."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / ("python.exe" if os.name == "nt" else "python")
        script = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(run(self.python, "-c", script, cwd=folder).strip())
        (self.packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str | Path, cwd: Path, **environment: str) -> None:
        run(
            sys.executable, "-m", "pip", "--python", self.python, *arguments, cwd=cwd, **environment
        )


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install` makes of the source archive alone, without any index."""
    made_in = Environment(tmp_path_factory.mktemp("made-in"))
    folder = tmp_path_factory.mktemp("wheel")
    made_in.pip("wheel", *OPTIONS, "--wheel-dir", folder, sdist, cwd=folder, CFLAGS="-O0")
    (archive,) = folder.iterdir()
    return archive


def test_sdist_holds_the_source_of_lwip(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in (ROOT / "vendor" / "lwip" / "src").rglob("*.[ch]"):
        relative = path.relative_to(ROOT).as_posix()
        if relative.startswith(("vendor/lwip/src/core/", "vendor/lwip/src/include/")):
            assert relative in names
    wanted = ["vendor/lwip/src/COPYING", "vendor/lwip/lwip.toml", "build_lwip.py", "LICENSE"]
    wanted += ["PROTOCOL.md", "CHANGELOG.md", "tests/run.sh", "examples/quickstart.sh"]
    wanted += [x.relative_to(ROOT).as_posix() for x in (ROOT / "zks_lwip").rglob("*.[ch]")]
    wanted += [x.relative_to(ROOT).as_posix() for x in (ROOT / "zks_lwip").rglob("*.py")]
    assert [name for name in wanted if name not in names] == []
    assert [name for name in names if name.endswith((".so", ".pyd", ".o", ".pyc"))] == []


def test_sdist_has_the_same_bytes_when_it_is_made_again(sdist: Path, tmp_path: Path) -> None:
    """From a copy with other times and modes, by another umask, without the front end."""

    def copy(source: str, target: str) -> str:
        shutil.copyfile(source, target)
        os.chmod(target, 0o700 if os.access(source, os.X_OK) else 0o600)
        return target

    tree = tmp_path / "elsewhere"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED, copy_function=copy)
    code = "import os, runpy, sys; os.umask(0o077); sys.argv = ['setup.py', '-q', 'sdist'];"
    run(
        sys.executable, "-c", code + "runpy.run_path('setup.py')", cwd=tree, SOURCE_DATE_EPOCH=EPOCH
    )
    (again,) = (tree / "dist").iterdir()
    assert again.name == sdist.name
    assert again.read_bytes() == sdist.read_bytes()


def needs(module: str) -> pytest.MarkDecorator:
    """Skip a test where a module of the extra ``release`` is not installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"needs {module}, of the extra `release`"
    )


@needs("twine")
def test_the_index_would_take_both(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """Their metadata, and README as the index shows it: without the picture, which it has not."""
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        info = next(x for x in archive.namelist() if x.endswith(".dist-info/METADATA"))
        text = archive.read(info).decode()
    assert "\n# zks_lwip\n" in text
    assert "![" in (ROOT / "README.md").read_text(encoding="utf-8") and "![" not in text


@needs("check_wheel_contents")
def test_wheel_holds_nothing_that_it_should_not(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=tmp_path)


def test_the_version_stands_in_one_place(sdist: Path) -> None:
    """Where it is needed besides, it is read from there."""
    assert sdist.name == f"zks_lwip-{__version__}.tar.gz"
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        named = [
            member.name.removeprefix(f"{top}/")
            for member in archive.getmembers()
            if member.isfile()
            and member.name.endswith((".py", ".toml", ".sh", ".md", ".in", ".service"))
            and not member.name.startswith((f"{top}/tests/", f"{top}/vendor/"))
            and f'"{__version__}"'.encode() in archive.extractfile(member).read()  # type: ignore[union-attr]
        ]
    assert named == ["zks_lwip/_version.py"]


def test_wheel_holds_the_extension(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    extensions = [name for name in names if name.endswith((".so", ".pyd"))]
    assert len(extensions) == 1
    assert extensions[0].startswith("zks_lwip/_lwip.")


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="has no stable ABI")
def test_wheel_is_for_every_later_python(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name


def test_wheel_holds_all_modules_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [x for x in archive.namelist() if ".dist-info/" not in x]
    modules = {x.relative_to(ROOT).as_posix() for x in (ROOT / "zks_lwip").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    rest = [x for x in names if not x.endswith((".py", ".so", ".pyd"))]
    assert rest == ["zks_lwip/py.typed"]


def test_wheel_holds_both_notices_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(x for x in archive.namelist() if x.endswith(".dist-info/METADATA"))
        folder = info.rpartition("/")[0]
        notice = archive.read(f"{folder}/licenses/vendor/lwip/src/COPYING")
        ours = archive.read(f"{folder}/licenses/LICENSE").decode()
        metadata = email.message_from_bytes(archive.read(info))
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    assert b"Swedish Institute of Computer Science" in notice
    assert "zks_lwip authors" in ours
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Version"] == __version__
    assert "zks-lwip = zks_lwip.__main__:main" in commands


def test_installed_it_works(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, without a compiler."""
    environment = Environment(tmp_path / "venv")
    scripts, python = environment.scripts, environment.python
    bare = {"PATH": str(scripts), "PYTHONPATH": ""}
    environment.pip("install", *OPTIONS, wheel, cwd=tmp_path, **bare)
    command = scripts / ("zks-lwip.exe" if os.name == "nt" else "zks-lwip")
    shown = run(command, "--version", cwd=tmp_path, **bare)
    assert __version__ in shown and "lwIP 2.2.1" in shown
    code = "import zks_lwip._lwip as m; print(m.__file__)"
    found = run(python, "-c", code, cwd=tmp_path, **bare)
    assert found.startswith(str(environment.packages))
    answer = run(python, ROOT / "examples" / "embed_stack.py", cwd=tmp_path, **bare)
    assert "192.0.2.1 port 80 says HELLO\n2001:db8::7 port 65000 says HELLO\n" in answer
