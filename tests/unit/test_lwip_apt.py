"""lwIP's source by apt: which archives apt knows, and a real apt-get at work."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "vendor" / "lwip"))

import lwip_apt  # noqa: E402

DEB822 = """\
# comment
Types: deb
URIs: http://mirror.example/debian
# a comment inside
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://key.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://commented.example/ubuntu noble main
deb http://archive.ubuntu.com/ubuntu/ noble main restricted # why
deb-src [signed-by=/a.gpg,/b.gpg trusted=yes] http://other.example/ubuntu noble universe
deb http://flat.example/ ./
nonsense
"""


def test_deb822() -> None:
    first, second = lwip_apt.parse_deb822(DEB822)
    assert first == (
        ("http://mirror.example/debian",),
        ("bookworm", "bookworm-updates"),
        ("main",),
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "",
    )
    assert second.uris == ("http://key.example/debian",)
    assert second.signed_by.splitlines()[1:3] == [" -----BEGIN PGP PUBLIC KEY BLOCK-----", " ."]


def test_one_line() -> None:
    assert list(lwip_apt.parse_one_line(ONE_LINE)) == [
        (("http://archive.ubuntu.com/ubuntu/",), ("noble",), ("main", "restricted"), "", ""),
        (("http://other.example/ubuntu",), ("noble",), ("universe",), "/a.gpg /b.gpg", "yes"),
        (("http://flat.example/",), ("./",), (), "", ""),
    ]


def entry(uri: str, *suites: str, component: str = "main") -> lwip_apt.Entry:
    return lwip_apt.Entry((uri,), suites, (component,), "", "")


@pytest.mark.parametrize(
    ("name", "codename", "uri"),
    [
        ("debian", "bookworm", "http://ftp.mirror.example/debian/"),
        ("debian", "bookworm", "mirror+file:///etc/apt/mirrors/debian.list"),
        ("debian", "bookworm", "https://mirror.example/by-codename"),
        ("ubuntu", "noble", "http://ports.ubuntu.com/ubuntu-ports"),
    ],
)
def test_main_archive_is_told_from_add_ons(name: str, codename: str, uri: str) -> None:
    main = entry(uri, codename)
    add_ons = [
        entry("https://packages.example/apt", f"sdk-{codename}"),
        entry("https://docker.example/linux/debian", codename, component="stable"),
        entry(f"http://security.example/{name}-security", f"{codename}-security"),
    ]
    assert lwip_apt.archive_entry([*add_ons, main], name, codename, "main") == main
    assert lwip_apt.archive_entry(add_ons, name, codename, "main") is None


def test_security_archive_at_the_same_path_comes_second() -> None:
    security = entry("http://security.ubuntu.com/ubuntu", "noble-security")
    main = entry("http://archive.ubuntu.com/ubuntu", "noble")
    assert lwip_apt.archive_entry([security, main], "ubuntu", "noble", "universe") == main


needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get")


def system(tmp_path: Path, sources: str, release: str = "ID=debian\n") -> Path:
    """An /etc with this apt configuration."""
    etc = tmp_path / "etc"
    (etc / "apt" / "sources.list.d").mkdir(parents=True)
    (etc / "os-release").write_text(f'NAME="X"\n{release}VERSION_CODENAME=bookworm\n')
    (etc / "apt" / "sources.list").write_text(sources)
    return etc


def archive(tmp_path: Path, content: bytes) -> tuple[Path, dict[str, object]]:
    """A Debian archive in files, one source package in its suite trixie, and the pin for it."""
    top = tmp_path / "mirror" / "debian"
    pool = top / "pool"
    index = top / "dists" / "trixie" / "main" / "source"
    pool.mkdir(parents=True)
    index.mkdir(parents=True)
    name = "lwip_2.2.1+dfsg1.orig.tar.xz"
    (pool / name).write_bytes(content)
    (pool / "lwip_1.dsc").write_bytes(b"dsc")
    (pool / "lwip_1.debian.tar.xz").write_bytes(b"debian")
    sums = "".join(
        f"\n {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.name}"
        for path in sorted(pool.iterdir())
    )
    text = (
        "Package: lwip\nFormat: 3.0 (quilt)\nBinary: liblwip\nArchitecture: any\n"
        "Version: 2.2.1+dfsg1-1\nMaintainer: A Person <person@example.com>\n"
        f"Directory: pool\nChecksums-Sha256:{sums}\n\n"
    ).encode()
    (index / "Sources").write_bytes(text)
    (index / "Sources.gz").write_bytes(gzip.compress(text))
    listed = "".join(
        f"\n {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} "
        f"main/source/{path.name}"
        for path in sorted(index.iterdir())
    )
    (top / "dists" / "trixie" / "Release").write_text(
        f"Suite: trixie\nCodename: trixie\nComponents: main\nSHA256:{listed}\n"
    )
    pinned: dict[str, object] = {
        "package": "lwip",
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "debian": {"component": "main", "suites": ["trixie"]},
    }
    return top, pinned


@needs_apt
def test_real_apt_brings_the_archive(tmp_path: Path) -> None:
    top, pinned = archive(tmp_path, b"the source")
    etc = system(tmp_path, f"deb [trusted=yes] file:{top} bookworm main\n")
    path = lwip_apt.fetch(pinned, tmp_path / "work", etc)
    assert path.read_bytes() == b"the source"


@needs_apt
def test_derived_distribution_counts(tmp_path: Path) -> None:
    top, pinned = archive(tmp_path, b"the source")
    etc = system(
        tmp_path, f"deb [trusted=yes] file:{top} bookworm main\n", 'ID=pure\nID_LIKE="x debian"\n'
    )
    assert lwip_apt.fetch(pinned, tmp_path / "work", etc).is_file()


@needs_apt
def test_other_hash_is_refused(tmp_path: Path) -> None:
    top, pinned = archive(tmp_path, b"the source")
    etc = system(tmp_path, f"deb [trusted=yes] file:{top} bookworm main\n")
    pinned["sha256"] = "0" * 64
    with pytest.raises(lwip_apt.AptError, match="has the SHA-256"):
        lwip_apt.fetch(pinned, tmp_path / "work", etc)


@needs_apt
def test_other_version_is_refused(tmp_path: Path) -> None:
    top, pinned = archive(tmp_path, b"the source")
    etc = system(tmp_path, f"deb [trusted=yes] file:{top} bookworm main\n")
    pinned["file"] = "lwip_2.3.0.orig.tar.xz"
    with pytest.raises(lwip_apt.AptError, match=r"it carries lwip_2\.2\.1.*, not lwip_2\.3\.0"):
        lwip_apt.fetch(pinned, tmp_path / "work", etc)


@needs_apt
def test_unsigned_archive_is_refused(tmp_path: Path) -> None:
    top, pinned = archive(tmp_path, b"the source")
    etc = system(tmp_path, f"deb file:{top} bookworm main\n")
    with pytest.raises(lwip_apt.AptError, match="trixie: .*not signed"):
        lwip_apt.fetch(pinned, tmp_path / "work", etc)


@needs_apt
def test_other_distributions_are_skipped_with_a_reason(tmp_path: Path) -> None:
    _, pinned = archive(tmp_path, b"")
    etc = system(tmp_path, "", "ID=fedora\n")
    with pytest.raises(lwip_apt.AptError, match="neither Debian nor Ubuntu"):
        lwip_apt.fetch(pinned, tmp_path / "work", etc)


@needs_apt
def test_no_archive_configured(tmp_path: Path) -> None:
    _, pinned = archive(tmp_path, b"")
    etc = system(tmp_path, "deb https://packages.example/apt tool main\n")
    with pytest.raises(lwip_apt.AptError, match="no archive of debian is configured"):
        lwip_apt.fetch(pinned, tmp_path / "work", etc)


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(lwip_apt.AptError, match="no apt-get"):
        lwip_apt.fetch({}, tmp_path)
