"""Brings lwIP's source into ``vendor/lwip/src``: the one that ``lwip.toml`` pins, and no other.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import queue
import re
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lwip_apt

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "src"

CONNECT_SECONDS = 5.0
DOWNLOAD_SECONDS = 120.0
MAX_ARCHIVE = 32 << 20
MAX_UNPACKED = 128 << 20
MAX_FILE = 2 << 20
MAX_MEMBERS = 20_000

# lwIP's members all look like `lwip-2.2.1/src/core/tcp.c`; anything else is not written, so no name
# can lead out.
_MEMBER = re.compile(
    r"(?:\./)?(?:[A-Za-z0-9][A-Za-z0-9._+-]*/)?(?:src/((?:core|include)/[A-Za-z0-9_/-]+\.[ch])|(COPYING))"
)


class SourceError(Exception):
    """lwIP's source is not to be had, or is not the one that is pinned."""


def pin() -> dict[str, Any]:
    """What ``lwip.toml`` says."""
    with open(HERE / "lwip.toml", "rb") as file:
        return tomllib.load(file)


def tree_hash(source: Path) -> str:
    """SHA-256 over names and contents of all that can be compiled or included from ``source``."""
    names = [
        path.relative_to(source).as_posix()
        for top, endings in (("core", (".c", ".h")), ("include", (".h",)))
        for path in (source / top).rglob("*")
        if path.suffix in endings and path.is_file()
    ]
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(
            f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}\n".encode()
        )
    return total.hexdigest()


def notice_hash(source: Path) -> str:
    """SHA-256 of lwIP's notice in ``source``, or "" where there is none."""
    notice = source / "COPYING"
    return hashlib.sha256(notice.read_bytes()).hexdigest() if notice.is_file() else ""


def verify(source: Path) -> None:
    """Raise SourceError unless ``source`` holds exactly the pinned files."""
    pinned = pin()
    found = tree_hash(source)
    if found != pinned["tree"]:
        raise SourceError(
            f"its core and include folders have the hash {found}, and lwip.toml pins "
            f"{pinned['tree']}: this is not lwIP {pinned['version']}, or it was changed"
        )
    if notice_hash(source) != pinned["notice"]:
        raise SourceError("lwIP's notice (COPYING) is missing or is not the pinned one")


class _Bounded(io.RawIOBase):
    """A reader of at most ``MAX_UNPACKED`` bytes: an archive is not trusted before its hash."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._left = MAX_UNPACKED

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._inner.read(size if 0 <= size <= self._left else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise SourceError(f"the archive unpacks to more than {MAX_UNPACKED >> 20} MiB")
        return data


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        if len(entries) > MAX_MEMBERS:
            raise SourceError(f"the archive has more than {MAX_MEMBERS} members")
        for entry in entries:
            if _MEMBER.fullmatch(entry.filename):
                with opened.open(entry) as file:
                    yield entry.filename, file.read(MAX_FILE + 1)


def _tar_members(plain: Any) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=_Bounded(plain), mode="r|") as opened:
        for number, entry in enumerate(opened):
            if number >= MAX_MEMBERS:
                raise SourceError(f"the archive has more than {MAX_MEMBERS} members")
            if entry.isreg() and _MEMBER.fullmatch(entry.name):
                file = opened.extractfile(entry)
                if file is not None:
                    yield entry.name, file.read(MAX_FILE + 1)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with open(archive, "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip_members(archive)
        elif magic.startswith(b"\xfd7zXZ"):
            yield from _tar_members(lzma.open(file))
        elif magic.startswith(b"\x1f\x8b"):
            yield from _tar_members(gzip.open(file))
        elif magic.startswith(b"BZh"):
            yield from _tar_members(bz2.open(file))
        else:
            raise SourceError("it is no zip, tar.gz, tar.bz2 or tar.xz archive")


def unpack(archive: Path, target: Path) -> None:
    """Write the wanted files of ``archive`` to the empty folder ``target``.

    Only lwIP's C files, headers and notice are taken, by names that cannot lead out of ``target``;
    sizes and counts are bounded. Line ends become LF, as in upstream's repository: release archives
    have been made on Windows too. SourceError: it is no archive, or none of lwIP.
    """
    total = 0
    try:
        for name, data in _members(archive):
            match = _MEMBER.fullmatch(name)
            assert match is not None
            total += len(data)
            if len(data) > MAX_FILE or total > MAX_UNPACKED:
                raise SourceError(f"{name} is far larger than any file of lwIP's")
            path = target / (match[1] or match[2])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.replace(b"\r\n", b"\n"))
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise SourceError(f"it cannot be unpacked: {error}") from error
    if total == 0:
        raise SourceError("it holds no lwIP source (no src/core, no src/include)")


def install(archive: Path, destination: Path = SOURCE) -> None:
    """Unpack and verify ``archive``, then put it at ``destination`` in one step, race-free."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".src-", dir=destination.parent) as folder:
        fresh = Path(folder) / "src"
        fresh.mkdir()
        unpack(archive, fresh)
        verify(fresh)
        try:
            os.rename(fresh, destination)
        except OSError:
            if not destination.is_dir():
                raise
            verify(destination)  # another one was faster


def download(url: str, target: Path) -> None:
    """Fetch ``url`` into the file ``target``; SourceError says why not. Connecting may take 5 s."""
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            opened.put(urllib.request.urlopen(url, timeout=CONNECT_SECONDS))
        except Exception as error:
            opened.put(error)

    # In a thread, because a resolver that does not answer knows no time limit, and every address
    # has its own.
    threading.Thread(target=connect, daemon=True).start()
    try:
        response = opened.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise SourceError(f"no answer within {CONNECT_SECONDS:.0f} s") from None
    if isinstance(response, Exception):
        reason = response.reason if isinstance(response, urllib.error.URLError) else response
        code = (
            f"HTTP status {response.code}: " if isinstance(response, urllib.error.HTTPError) else ""
        )
        raise SourceError(f"{code}{reason}") from response
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    size = 0
    try:
        with response, open(target, "wb") as file:
            while data := response.read(1 << 16):
                size += len(data)
                if size > MAX_ARCHIVE:
                    raise SourceError(f"it is larger than {MAX_ARCHIVE >> 20} MiB")
                if time.monotonic() > deadline:
                    raise SourceError(f"it took longer than {DOWNLOAD_SECONDS:.0f} s")
                file.write(data)
    except OSError as error:
        raise SourceError(f"the transfer broke off: {error}") from error


def _origins(folder: Path) -> Iterator[tuple[str, Any]]:
    pinned = pin()
    for number, origin in enumerate(pinned["download"]):

        def from_url(url: str = origin["url"], number: int = number) -> Path:
            target = folder / f"download-{number}"
            download(url, target)
            return target

        yield f"{origin['name']} ({origin['url']})", from_url

    def from_apt() -> Path:
        try:
            return lwip_apt.fetch(pinned["apt"], folder / "apt")
        except lwip_apt.AptError as error:
            raise SourceError(str(error)) from error

    yield "the distribution's source package (apt)", from_apt


def fetch(destination: Path = SOURCE) -> str:
    """Make sure that ``destination`` holds the pinned source; return where it came from."""
    pinned = pin()
    if destination.is_dir():
        try:
            verify(destination)
        except SourceError as error:
            raise SourceError(
                f"lwIP's source in {destination} cannot be used: {error}. Remove that folder to "
                "have it fetched again."
            ) from error
        return "already there"
    named = os.environ.get("LWIP_ARCHIVE")
    if named:
        try:
            install(Path(named), destination)
        except (SourceError, OSError) as error:
            raise SourceError(
                f"The archive {named}, named by LWIP_ARCHIVE, cannot be used: {error}. Give the "
                f"release archive of lwIP {pinned['version']}, or unset LWIP_ARCHIVE to have it "
                "fetched."
            ) from error
        return f"the archive {named}"
    failures = []
    folder = Path(tempfile.mkdtemp(prefix="lwip-"))
    try:
        for name, bring in _origins(folder):
            print(f"lwIP {pinned['version']}: trying {name}", file=sys.stderr, flush=True)
            try:
                install(bring(), destination)
            except (SourceError, OSError) as error:
                failures.append(f"  - {name}: {error}")
            else:
                return name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise SourceError(
        f"lwIP {pinned['version']} is needed to build zks_lwip, and no origin could give it:\n"
        + "\n".join(failures)
        + "\nConnect this machine to the network and try again, or bring one of these archives "
        "here by other means and name it: LWIP_ARCHIVE=/path/to/archive"
    )
