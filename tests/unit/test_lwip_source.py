"""How lwIP's source is brought in: what is accepted, what is refused, and what the errors say."""

from __future__ import annotations

import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "vendor" / "lwip"))

import lwip_source  # noqa: E402

pytestmark = pytest.mark.skipif(
    not lwip_source.SOURCE.is_dir(), reason="vendor/lwip/src is not there: build first"
)


def members() -> dict[str, bytes]:
    """lwIP's files under the names that they have in a release archive."""
    found = {"lwip-2.2.1/COPYING": (lwip_source.SOURCE / "COPYING").read_bytes()}
    for top in ("core", "include"):
        for path in (lwip_source.SOURCE / top).rglob("*.[ch]"):
            name = path.relative_to(lwip_source.SOURCE).as_posix()
            found[f"lwip-2.2.1/src/{name}"] = path.read_bytes()
    return found


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tar(tmp_path_factory.mktemp("release") / "lwip-2.2.1.tar.gz", members())


@pytest.fixture(autouse=True)
def no_archive_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWIP_ARCHIVE", raising=False)


def test_source_in_checkout_is_the_pinned_one() -> None:
    lwip_source.verify(lwip_source.SOURCE)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_tar_archives_give_the_pinned_source(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "archive", members(), mode)
    lwip_source.install(archive, tmp_path / "src")
    lwip_source.verify(tmp_path / "src")
    assert [x.name for x in tmp_path.iterdir() if x.name.startswith(".src")] == []


def test_zip_with_windows_line_ends_gives_the_pinned_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lwip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members().items():
            archive.writestr(name, data.replace(b"\n", b"\r\n"))
    lwip_source.install(tmp_path / "lwip.zip", tmp_path / "src")
    lwip_source.verify(tmp_path / "src")


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
    files = members()
    files["lwip-2.2.1/src/core/tcp.c"] += b"\n"
    archive = write_tar(tmp_path / "archive", files)
    with pytest.raises(lwip_source.SourceError, match="this is not lwIP 2.2.1, or it was changed"):
        lwip_source.install(archive, tmp_path / "src")
    assert not (tmp_path / "src").exists()


@pytest.mark.parametrize("extra", ["core/extra.c", "include/lwip/extra.h"])
def test_an_added_file_is_refused(tmp_path: Path, release: Path, extra: str) -> None:
    lwip_source.install(release, tmp_path / "src")
    (tmp_path / "src" / extra).write_text("int more;\n")
    with pytest.raises(lwip_source.SourceError, match="it was changed"):
        lwip_source.verify(tmp_path / "src")


def test_missing_notice_is_refused(tmp_path: Path) -> None:
    files = members()
    del files["lwip-2.2.1/COPYING"]
    archive = write_tar(tmp_path / "archive", files)
    with pytest.raises(lwip_source.SourceError, match="COPYING"):
        lwip_source.install(archive, tmp_path / "src")


@pytest.mark.parametrize(
    "name",
    [
        "../src/core/evil.c",
        "/src/core/evil.c",
        "lwip/src/core/../../../evil.c",
        "lwip/../src/core/evil.c",
        "lwip/src/core/./../evil.c",
        "lwip\\src\\core\\evil.c",
    ],
)
def test_names_that_lead_out_are_not_written(tmp_path: Path, name: str) -> None:
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    archive = write_tar(tmp_path / "archive", {name: b"x", "lwip/src/core/good.c": b"good"})
    lwip_source.unpack(archive, target)
    assert [x for x in tmp_path.rglob("*") if x.is_file() and x != archive] == [
        target / "core" / "good.c"
    ]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        link = tarfile.TarInfo("lwip/src/core")
        link.type = tarfile.SYMTYPE
        link.linkname = str(outside)
        archive.addfile(link)
        for name in ("lwip/src/core/tcp.c", "lwip/COPYING"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    target = tmp_path / "target"
    target.mkdir()
    lwip_source.unpack(tmp_path / "archive", target)
    assert list(outside.iterdir()) == []
    assert (target / "core" / "tcp.c").read_bytes() == b"x"


def test_an_archive_that_explodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lwip_source, "MAX_UNPACKED", 1 << 20)
    archive = write_tar(
        tmp_path / "archive", {"lwip/doc/zeros": bytes(2 << 20), "lwip/COPYING": b""}
    )
    with pytest.raises(lwip_source.SourceError, match="unpacks to more than 1 MiB"):
        lwip_source.unpack(archive, tmp_path)


def test_a_giant_file_is_refused(tmp_path: Path) -> None:
    huge = bytes(lwip_source.MAX_FILE + 1)
    archive = write_tar(tmp_path / "archive", {"lwip/src/core/tcp.c": huge})
    with pytest.raises(lwip_source.SourceError, match="far larger"):
        lwip_source.unpack(archive, tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>404</html>", "no zip"),
        (b"", "no zip"),
        (b"PK\x03\x04 broken", "cannot be unpacked"),
        (b"\x1f\x8b broken", "cannot be unpacked"),
        (b"\xfd7zXZ\x00 broken", "cannot be unpacked"),
        (b"BZh9 broken", "cannot be unpacked"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(lwip_source.SourceError, match=reason):
        lwip_source.unpack(tmp_path / "archive", tmp_path)


def test_a_cut_archive_is_refused(tmp_path: Path, release: Path) -> None:
    (tmp_path / "archive").write_bytes(release.read_bytes()[:100_000])
    with pytest.raises(lwip_source.SourceError):
        lwip_source.install(tmp_path / "archive", tmp_path / "src")
    assert not (tmp_path / "src").exists()


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "archive", {"other/main.c": b"int main;"})
    with pytest.raises(lwip_source.SourceError, match="holds no lwIP source"):
        lwip_source.unpack(archive, tmp_path)


def test_two_at_once_do_no_harm(tmp_path: Path, release: Path) -> None:
    code = (
        f"import lwip_source, pathlib; lwip_source.fetch(pathlib.Path({str(tmp_path / 'src')!r}))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "vendor" / "lwip"),
        "LWIP_ARCHIVE": str(release),
    }
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(4)]
    assert [run.wait(120) for run in runs] == [0, 0, 0, 0]
    lwip_source.verify(tmp_path / "src")
    assert [x.name for x in tmp_path.iterdir()] == ["src"]


def test_named_archive_is_taken(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWIP_ARCHIVE", str(release))
    assert lwip_source.fetch(tmp_path / "src") == f"the archive {release}"
    assert lwip_source.fetch(tmp_path / "src") == "already there"


@pytest.mark.parametrize("exists", [True, False])
def test_named_archive_that_is_bad_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    archive = tmp_path / "archive"
    if exists:
        archive.write_bytes(b"nothing")
    monkeypatch.setenv("LWIP_ARCHIVE", str(archive))
    with pytest.raises(lwip_source.SourceError, match="named by LWIP_ARCHIVE, cannot be used"):
        lwip_source.fetch(tmp_path / "src")


def test_changed_source_in_place_ends_the_build(tmp_path: Path, release: Path) -> None:
    lwip_source.install(release, tmp_path / "src")
    (tmp_path / "src" / "core" / "tcp.c").write_text("")
    with pytest.raises(
        lwip_source.SourceError, match="Remove that folder to have it fetched again"
    ):
        lwip_source.fetch(tmp_path / "src")


class Server(http.server.ThreadingHTTPServer):
    """An origin on loopback: gives the release, an error page, something else or nothing."""

    release: bytes = b""
    stalled = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests go away on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/silent":
            self.server.stalled.wait(60)
            return
        body = self.server.release if self.path == "/good" else b"a page"
        self.send_response(404 if self.path == "/missing" else 200)
        size = len(body) + (1 if self.path == "/short" else 0)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def origin(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(("127.0.0.1", 0), Handler)
    server.release = release.read_bytes()
    server.stalled.clear()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stalled.set()
    server.shutdown()
    server.server_close()
    thread.join()


def pins(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    """Make ``urls`` the origins, without a distribution's package."""
    pinned = lwip_source.pin()
    pinned["download"] = [{"name": f"origin {n}", "url": url} for n, url in enumerate(urls)]
    pinned["apt"] = {"package": "lwip"}
    monkeypatch.setattr(lwip_source, "pin", lambda: pinned)


def test_origins_are_tried_in_order(
    tmp_path: Path, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins(monkeypatch, f"{origin}/missing", f"{origin}/page", f"{origin}/good")
    assert lwip_source.fetch(tmp_path / "src") == f"origin 2 ({origin}/good)"
    lwip_source.verify(tmp_path / "src")


def test_when_all_origins_fail_each_is_named_with_its_reason(
    tmp_path: Path, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lwip_source, "CONNECT_SECONDS", 3)
    pins(
        monkeypatch,
        f"{origin}/missing",
        f"{origin}/page",
        f"{origin}/short",
        f"{origin}/silent",
        "http://127.0.0.1:1/",
        "http://name.invalid/",
    )
    with pytest.raises(lwip_source.SourceError) as caught:
        lwip_source.fetch(tmp_path / "src")
    lines = [x for x in str(caught.value).splitlines() if x.startswith("  - ")]
    assert len(lines) == 7
    for line, reason in zip(
        lines,
        [
            "HTTP status 404",
            "no zip",
            "",
            "no answer within|timed out",
            "refused",
            "",
            "apt|Debian",
        ],
        strict=True,
    ):
        assert any(part in line for part in reason.split("|")), line
    assert "LWIP_ARCHIVE=" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
