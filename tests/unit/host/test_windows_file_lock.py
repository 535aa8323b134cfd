"""Locks on files of Windows: its library is played, and on Windows the real one is asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zks_lwip.host.locked_file import FLAGS, lock
from zks_lwip.host.windows.file_lock import ERROR_LOCK_VIOLATION, LOCKED_AT, FileLock
from zks_lwip.net.windows import ERROR_ACCESS_DENIED, WindowsCallError

ERROR_INVALID_HANDLE = 6


class PlayedFile:
    """``kernel32.dll``, with one file."""

    def __init__(self) -> None:
        self.holders: dict[int, bool] = {}
        self.code = self.failing = 0
        self.waited = False

    def error(self, code: int | None = None) -> WindowsCallError:
        return WindowsCallError(self.code if code is None else code, "played")

    def __getitem__(self, name: str) -> Callable[..., Any]:
        assert name == "LockFileEx"

        def take(handle: int, how: int, reserved: int, low: int, high: int, at: Any) -> int:
            where = at.contents
            assert (reserved, low, high) == (0, 1, 0)
            assert (where.Offset, where.OffsetHigh, where.hEvent) == (LOCKED_AT, 0, None)
            if self.failing:
                self.code = self.failing
                return 0
            exclusive = bool(how & 2)
            if self.holders and (exclusive or any(self.holders.values())):
                if how & 1:
                    self.code = ERROR_LOCK_VIOLATION
                    return 0
                self.waited = True
                self.holders.clear()
            self.holders[handle] = exclusive
            return 1

        return take


@pytest.fixture
def file() -> PlayedFile:
    return PlayedFile()


def take(file: PlayedFile, handle: int, *, wait: bool = False, shared: bool = False) -> None:
    FileLock(file, file.error).take(handle, wait=wait, shared=shared)


def test_several_may_look(file: PlayedFile) -> None:
    """Or two commands that ask at once would each take the other for an instance."""
    take(file, 1, shared=True)
    take(file, 2, shared=True)
    assert file.holders == {1: False, 2: False}
    with pytest.raises(BlockingIOError):
        take(file, 3)


@pytest.mark.parametrize("shared", [False, True])
def test_one_writes(file: PlayedFile, shared: bool) -> None:
    take(file, 1)
    with pytest.raises(BlockingIOError):
        take(file, 2, shared=shared)
    assert file.holders == {1: True} and not file.waited


@pytest.mark.parametrize("shared", [False, True])
def test_waiting_is_left_to_windows(file: PlayedFile, shared: bool) -> None:
    take(file, 1)
    take(file, 2, wait=True, shared=shared)
    assert file.waited and file.holders == {2: not shared}


@pytest.mark.parametrize("code", [ERROR_INVALID_HANDLE, ERROR_ACCESS_DENIED])
def test_what_cannot_be_locked_is_not_taken_for_locked(file: PlayedFile, code: int) -> None:
    file.failing = code
    with pytest.raises(WindowsCallError) as caught:
        take(file, 1)
    assert caught.value.code == code and not isinstance(caught.value, BlockingIOError)


def test_the_lock_of_this_system(tmp_path: Path) -> None:
    """On Windows the real one."""
    path = tmp_path / "file"
    path.write_text("readable")
    with contextlib.ExitStack() as stack:

        def opened() -> int:
            fd = os.open(path, os.O_RDWR | FLAGS)
            stack.callback(os.close, fd)
            return fd

        with contextlib.ExitStack() as readers:
            for _ in range(2):
                fd = os.open(path, os.O_RDONLY | FLAGS)
                readers.callback(os.close, fd)
                lock(fd, shared=True)
            with pytest.raises(BlockingIOError):
                lock(opened())
        lock(opened(), wait=True)
        for shared in (False, True):
            with pytest.raises(BlockingIOError):
                lock(opened(), shared=shared)
        assert path.read_text() == "readable"  # also under the lock of one
