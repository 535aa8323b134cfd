"""Adapters of Wintun, whose library is played: what is loaded, and what is not."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from zks_lwip.device import WintunLibrary, WintunRing, load_wintun, open_wintun
from zks_lwip.errors import ConfigError, DeviceError, PrivilegeError
from zks_lwip.net.windows import WindowsCallError

RING = WintunRing(**{field.name: 8 for field in dataclasses.fields(WintunRing)})
X64, ARM64, X86 = 0x8664, 0xAA64, 0x14C


def pe(machine: int) -> bytes:
    """The beginning of a library of Windows."""
    return b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", machine)


class Library:
    """Stands for a loaded wintun.dll."""

    def __init__(self, fails: dict[str, WindowsCallError] | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.fails = fails or {}

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise self.fails[name]

    def create_adapter(self, name: str) -> int:
        self._call("create_adapter", name)
        return 7

    def luid(self, adapter: int) -> int:
        self._call("luid", adapter)
        return 0x35000000000000

    def start_session(self, adapter: int, capacity: int) -> WintunRing:
        self._call("start_session", adapter, capacity)
        return RING

    def end_session(self, ring: WintunRing) -> None:
        self._call("end_session", ring)

    def close_adapter(self, adapter: int) -> None:
        self._call("close_adapter", adapter)


class File:
    """Stands for an open wintun.dll."""

    def __init__(
        self, *, signer: str | OSError = "WireGuard LLC", version: tuple[int, int]
    ) -> None:
        self.says = signer
        self.number = version
        self.loaded = self.closed = False

    def signer(self) -> str:
        if isinstance(self.says, OSError):
            raise self.says
        return self.says

    def version(self) -> tuple[int, int]:
        return self.number

    def load(self) -> WintunLibrary:
        self.loaded = True
        return Library()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wintun.dll").write_bytes(pe(X64))
    return tmp_path


def refused(folder: Path, file: File, platform: str = "win-amd64") -> str:
    """Why the file is not loaded; it is closed, and names where to get another."""
    with pytest.raises(DeviceError) as caught:
        load_wintun([folder], platform=platform, open_file=lambda path: file)
    assert file.closed and not file.loaded
    assert "https://www.wintun.net" in str(caught.value)
    return str(caught.value)


def test_one_that_is_theirs_is_loaded(folder: Path) -> None:
    file = File(version=(0, 14))
    load_wintun([folder / "none", folder], platform="win-amd64", open_file=lambda path: file)
    assert file.loaded and file.closed


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        load_wintun([tmp_path], platform="win-arm64")
    message = str(caught.value)
    assert "wintun.dll is not there" in message and "https://www.wintun.net" in message
    assert "bin\\arm64\\wintun.dll" in message and "zks_lwip" in message


def test_the_folder_that_the_program_was_started_in_is_not_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", ".")
    with pytest.raises(DeviceError, match="not there"):
        load_wintun()


@pytest.mark.parametrize(
    ("machine", "platform", "folder_of_ours"),
    [(ARM64, "win-amd64", "amd64"), (X64, "win-arm64", "arm64"), (X86, "win-amd64", "amd64")],
)
def test_of_another_architecture(
    tmp_path: Path, machine: int, platform: str, folder_of_ours: str
) -> None:
    (tmp_path / "wintun.dll").write_bytes(pe(machine))
    message = refused(tmp_path, File(version=(0, 14)), platform)
    assert f"this program for {platform}" in message and f"bin\\{folder_of_ours}" in message


@pytest.mark.parametrize(
    "data", [b"", b"MZ", b"<html>" * 40, pe(X64)[:66], b"MZ" + bytes(58) + b"\xff" * 4]
)
def test_no_library_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "wintun.dll").write_bytes(data)
    assert "no library of Windows" in refused(tmp_path, File(version=(0, 14)))


def test_not_signed(folder: Path) -> None:
    error = WindowsCallError(0x800B0100, "No signature was present in the subject")
    message = refused(folder, File(signer=error, version=(0, 14)))
    assert "its signature does not hold: No signature was present" in message


def test_signed_by_another(folder: Path) -> None:
    message = refused(folder, File(signer="WireGuard LLC Ltd", version=(0, 14)))
    assert "'WireGuard LLC Ltd' has signed it, not 'WireGuard LLC'" in message


@pytest.mark.parametrize("version", [(0, 13), (0, 8)])
def test_too_old(folder: Path, version: tuple[int, int]) -> None:
    message = refused(folder, File(version=version))
    assert f"Wintun 0.{version[1]}: 0.14 or later is needed" in message


def test_a_file_that_cannot_be_opened(folder: Path) -> None:
    def refuse(path: Path) -> File:
        raise WindowsCallError(32, "The process cannot access the file")

    with pytest.raises(DeviceError, match=r"cannot be used: The process.*\(error 32\)"):
        load_wintun([folder], platform="win-amd64", open_file=refuse)


def loading(library: Library) -> Callable[[], WintunLibrary]:
    return lambda: library


def test_it_lives_and_ends() -> None:
    library = Library()
    with open_wintun("zks3", mtu=1400, load=loading(library)) as device:
        assert (device.name, device.mtu, device.luid) == ("zks3", 1400, 0x35000000000000)
        assert device.ring is RING and not hasattr(device, "fd")
        assert [call[0] for call in library.calls] == ["create_adapter", "luid", "start_session"]
    device.close()
    assert library.calls[3:] == [("end_session", RING), ("close_adapter", 7)]


@pytest.mark.parametrize("where", ["create_adapter", "luid", "start_session"])
@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [(5, PrivilegeError, "as administrator"), (8, DeviceError, r"cannot be made: no \(error 8\)")],
)
def test_whatever_fails_no_adapter_is_left(
    where: str, code: int, kind: type[Exception], message: str
) -> None:
    library = Library({where: WindowsCallError(code, "no")})
    with pytest.raises(kind, match=message):
        open_wintun(load=loading(library))
    made = where != "create_adapter"
    assert (("close_adapter", 7) in library.calls) is made


def test_a_session_that_does_not_end_leaves_no_adapter() -> None:
    library = Library({"end_session": WindowsCallError(6, "no")})
    device = open_wintun(load=loading(library))
    with pytest.raises(WindowsCallError):
        device.close()
    assert library.calls[-1] == ("close_adapter", 7)


@pytest.mark.parametrize("options", [{"name": ""}, {"name": "a b"}, {"mtu": 500}])
def test_what_cannot_be_is_said_before_anything_is_loaded(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        open_wintun(**options, load=lambda: pytest.fail("loaded"))  # type: ignore[arg-type]
