"""The folder of journals and logs on Windows, call by call; its libraries are played."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zks_lwip.errors import HostError
from zks_lwip.host.windows.security import (
    FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_REPARSE_POINT,
    SDDL,
    TRUSTED,
    Security,
)
from zks_lwip.net.windows import ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, WindowsCallError

DESCRIPTOR, OWNER, ASKED, DACL, HANDLE = 0x1000, 0x2000, 0x3000, 0x4000, 77
FAILURES = {"CreateFileW": 0xFFFFFFFFFFFFFFFF}


class PlayedSystem:
    """``kernel32.dll`` and ``advapi32.dll``, with one folder."""

    def __init__(self) -> None:
        self.there = False
        self.attributes = FILE_ATTRIBUTE_DIRECTORY
        self.owner = TRUSTED["WinBuiltinAdministratorsSid"]
        self.failing: dict[str, int] = {}
        self.code = 0
        self.calls: list[str] = []
        self.freed: list[int] = []
        self.open = 0
        self.protected = ""

    def error(self, code: int | None = None) -> WindowsCallError:
        return WindowsCallError(self.code if code is None else code, "played")

    def __getitem__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                self.code = self.failing[name]
                return FAILURES.get(name, self.code if name.endswith("SecurityInfo") else 0)
            return getattr(self, name)(*arguments)

        return call

    def ConvertStringSecurityDescriptorToSecurityDescriptorW(
        self, text: str, revision: int, found: Any, size: None
    ) -> int:
        assert (text, revision, size) == (SDDL, 1, None)
        found.contents.value = DESCRIPTOR
        return 1

    def CreateDirectoryW(self, path: str, attributes: Any) -> int:
        given = attributes.contents
        assert given.nLength == ctypes.sizeof(given) and not given.bInheritHandle
        assert given.lpSecurityDescriptor == DESCRIPTOR
        if self.there:
            self.code = ERROR_ALREADY_EXISTS
            return 0
        self.there, self.protected = True, "made"
        return 1

    def CreateFileW(self, path: str, may: int, share: int, *rest: Any) -> int:
        self.open += 1
        return HANDLE

    def CloseHandle(self, handle: int) -> int:
        self.open -= 1
        return 1

    def GetFileInformationByHandle(self, handle: int, found: Any) -> int:
        found.contents.dwFileAttributes = self.attributes
        return 1

    def GetSecurityInfo(self, handle: int, kind: int, what: int, owner: Any, *rest: Any) -> int:
        owner.contents.value = OWNER
        rest[-1].contents.value = ASKED
        return 0

    def IsWellKnownSid(self, sid: Any, kind: int) -> int:
        assert sid.value == OWNER
        return int(kind == self.owner)

    def GetSecurityDescriptorDacl(
        self, descriptor: Any, present: Any, dacl: Any, given: Any
    ) -> int:
        assert descriptor.value == DESCRIPTOR
        dacl.contents.value = DACL
        return 1

    def SetSecurityInfo(self, handle: int, kind: int, what: int, *rest: Any) -> int:
        owner, group, dacl, audited = rest
        assert (owner, group, audited) == (None, None, None) and dacl.value == DACL
        assert what == 0x80000004  # the list, and nothing from the folder above
        self.protected = "closed"
        return 0

    def LocalFree(self, memory: Any) -> None:
        self.freed.append(memory.value)


@pytest.fixture
def system() -> PlayedSystem:
    return PlayedSystem()


def make(system: PlayedSystem, path: Path) -> None:
    try:
        Security(system, system, system.error).make_directory(path)
    finally:
        assert system.open == 0 and DESCRIPTOR in system.freed
        assert "GetSecurityInfo" not in system.calls or ASKED in system.freed


def test_it_is_made_closed(system: PlayedSystem, tmp_path: Path) -> None:
    make(system, tmp_path / "zks_lwip")
    assert system.protected == "made" and "SetSecurityInfo" not in system.calls


@pytest.mark.parametrize("owner", TRUSTED.values())
def test_one_of_an_administrator_is_closed(
    system: PlayedSystem, owner: int, tmp_path: Path
) -> None:
    system.there, system.owner = True, owner
    make(system, tmp_path / "zks_lwip")
    assert system.protected == "closed"


def test_one_that_another_user_has_made_is_not_used(system: PlayedSystem, tmp_path: Path) -> None:
    """Any user may make folders in C:\\ProgramData, and put journals into them."""
    system.there, system.owner = True, 0
    with pytest.raises(HostError, match="belongs to another user .* remove it"):
        make(system, tmp_path / "zks_lwip")
    assert system.protected == ""


@pytest.mark.parametrize(
    "attributes", [0x20, FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_REPARSE_POINT]
)
def test_what_is_no_folder_is_not_used(
    system: PlayedSystem, attributes: int, tmp_path: Path
) -> None:
    """A file, or a junction, by which another folder would be closed."""
    system.there, system.attributes = True, attributes
    with pytest.raises(HostError, match="is no folder of its own"):
        make(system, tmp_path / "zks_lwip")
    assert system.protected == ""


@pytest.mark.parametrize(
    "name",
    [
        "CreateDirectoryW",
        "CreateFileW",
        "GetFileInformationByHandle",
        "GetSecurityDescriptorDacl",
        "SetSecurityInfo",
    ],
)
def test_what_windows_refuses(system: PlayedSystem, name: str, tmp_path: Path) -> None:
    system.there, system.failing[name] = True, ERROR_ACCESS_DENIED
    with pytest.raises(WindowsCallError) as caught:
        make(system, tmp_path / "zks_lwip")
    assert caught.value.code == ERROR_ACCESS_DENIED


def test_an_owner_that_is_not_told(system: PlayedSystem, tmp_path: Path) -> None:
    system.there = True
    system.failing["GetSecurityInfo"] = ERROR_ACCESS_DENIED
    with pytest.raises(WindowsCallError):
        Security(system, system, system.error).make_directory(tmp_path / "zks_lwip")
    assert system.open == 0 and system.freed == [DESCRIPTOR]
