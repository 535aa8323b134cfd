"""The package for Debian: made by examples/debian/build.sh, installed by dpkg, and removed.

The machine's own files are below an overlay that only these processes see, and that ends with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kits.wheel import ROOT, build_wheel, run
from zks_lwip import __version__

SYSTEM_PYTHON = "/usr/bin/python3"
OVERLAY = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --bind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
for path in "$3" "$4"; do # may be on other file systems: not below the overlay
    mkdir -p "$1/root$path"
    mount --bind "$path" "$1/root$path"
done
exec chroot "$1/root" /bin/sh -euc "$2"
"""
INSTALL = """
dpkg --no-triggers --install '%(package)s'
dpkg --verify zks-lwip
printf '%%s\\n' '%(lent)s' >/usr/lib/zks-lwip/lib/python3.%(minor)s/site-packages/lent.pth
echo "version: $(zks-lwip --version | head -n 1)"
zks-lwip config show run >/dev/null
bash -c '. /usr/share/bash-completion/completions/zks-lwip; complete -p zks-lwip'
gzip -dc /usr/share/man/man1/zks-lwip.1.gz | grep -c '^\\.SH'
grep -h '^Exec' /usr/lib/systemd/system/zks-lwip*
test -d /etc/zks-lwip
rm /usr/lib/zks-lwip/lib/python3.%(minor)s/site-packages/lent.pth
dpkg --no-triggers --remove zks-lwip
test ! -e /usr/bin/zks-lwip
test ! -e /usr/lib/zks-lwip
test ! -e /usr/lib/systemd/system/zks-lwip.service
echo removed
"""


def system_minor() -> int:
    """The second number of the version of the system's own Python, 0 where there is none."""
    code = "import sys, venv; print(sys.version_info.minor)"
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, text=True)
    except OSError:
        return 0
    return int(done.stdout) if done.returncode == 0 else 0


def installed(package: str) -> bool:
    done = subprocess.run(["dpkg", "-s", package], capture_output=True, text=True)
    return done.returncode == 0 and "Status: install ok installed" in done.stdout


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg"),
    # The extension is for every Python from 3.11 on, but what the tests lend is for this one.
    pytest.mark.skipif(
        system_minor() != sys.version_info.minor, reason="the system's Python is another one"
    ),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package; what zks_lwip depends on is lent by the environment of the tests."""
    folder = tmp_path_factory.mktemp("debian")
    wheel = build_wheel(folder)
    pip = f"{sys.executable} -m pip"
    lent = sysconfig.get_path("purelib")
    script = ROOT / "examples" / "debian" / "build.sh"
    options = ["--no-deps", "--no-index"]
    made_in = folder / "made"
    made_in.mkdir()
    surroundings = {"PIP": pip, "PYTHONPATH": lent, "TMPDIR": str(made_in)}
    surroundings["DPKG_DEB_COMPRESSOR_LEVEL"] = "0"  # quickly
    run(script, wheel, *options, cwd=folder, **surroundings)
    (made,) = folder.glob("*.deb")
    return made


def test_it_is_named_for_this_system(package: Path) -> None:
    fields = ["Package", "Version", "Depends"]
    shown = run("dpkg-deb", "--field", package, *fields, cwd=package.parent)
    assert f"Package: zks-lwip\nVersion: {__version__}-1\n" in shown
    minor = system_minor()
    assert f"python3 (>= 3.{minor}~), python3 (<< 3.{minor + 1})" in shown


def test_nothing_tells_where_it_was_made(package: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--raw-extract", package, tmp_path / "files", cwd=tmp_path)
    files = [x for x in (tmp_path / "files").rglob("*") if x.is_file() and not x.is_symlink()]
    made_in = [os.fsencode(x) for x in (package.parent, ROOT)]
    told = [x for x in files if any(place in x.read_bytes() for place in made_in)]
    assert files and told == []
    copyright = (tmp_path / "files/usr/share/doc/zks-lwip/copyright").read_text()
    assert "zks_lwip authors" in copyright
    assert "Swedish Institute of Computer Science" in copyright


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_it_is_installed_works_and_is_removed(package: Path, tmp_path: Path) -> None:
    missing = [x for x in ("python3", "iproute2", "nftables") if not installed(x)]
    if missing:
        pytest.skip(f"dpkg does not know {', '.join(missing)} here")
    allowed = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
    )
    if allowed.returncode != 0:
        pytest.skip(f"nothing may be mounted here: {allowed.stderr.strip()}")
    lent = sysconfig.get_path("purelib")
    script = INSTALL % {"package": package, "lent": lent, "minor": sys.version_info.minor}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", OVERLAY, "sh", tmp_path, script, package.parent, lent],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert f"version: zks-lwip {__version__}" in done.stdout
    assert any(line.startswith("complete ") and "zks-lwip" in line for line in said)
    started = [line for line in said if line.startswith("Exec") and "zks-lwip" in line]
    assert len(started) >= 6 and not [x for x in started if "=/usr/bin/zks-lwip " not in x]
    assert said[-1] == "removed"
    assert not Path("/usr/bin/zks-lwip").exists()
