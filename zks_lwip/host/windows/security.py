"""Folders of Windows that administrators and the system alone may use, by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int32, c_uint32, c_void_p, c_wchar_p, pointer
from pathlib import Path
from typing import Any

from ...errors import HostError
from ...net.windows import ERROR_ALREADY_EXISTS, WindowsCallError, last_error

__all__ = [
    "DACL_SECURITY_INFORMATION",
    "FILE_ATTRIBUTE_DIRECTORY",
    "FILE_ATTRIBUTE_REPARSE_POINT",
    "FILE_FLAG_BACKUP_SEMANTICS",
    "FILE_FLAG_OPEN_REPARSE_POINT",
    "FILE_READ_ATTRIBUTES",
    "OWNER_SECURITY_INFORMATION",
    "PROTECTED_DACL_SECURITY_INFORMATION",
    "READ_CONTROL",
    "SDDL",
    "SE_FILE_OBJECT",
    "TRUSTED",
    "WRITE_DAC",
    "FileInformation",
    "Security",
    "SecurityAttributes",
]

SDDL = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"
"""Of the administrators; all for them and for the system, also what is made in it; nothing of what
the folder above allows."""
TRUSTED = {"WinLocalSystemSid": 22, "WinBuiltinAdministratorsSid": 26}
"""Whose a folder may be that is there already."""

READ_CONTROL, WRITE_DAC, FILE_READ_ATTRIBUTES = 0x20000, 0x40000, 0x80
FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT = 0x2000000, 0x200000
FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT = 0x10, 0x400
SE_FILE_OBJECT = 1
OWNER_SECURITY_INFORMATION, DACL_SECURITY_INFORMATION = 1, 4
PROTECTED_DACL_SECURITY_INFORMATION = 0x80000000
_SHARE_ALL, _OPEN_EXISTING = 7, 3
_INVALID_HANDLE = 0xFFFFFFFFFFFFFFFF
_SDDL_REVISION = 1


class SecurityAttributes(ctypes.Structure):
    """``SECURITY_ATTRIBUTES``."""

    _fields_ = (
        ("nLength", c_uint32),
        ("lpSecurityDescriptor", c_void_p),
        ("bInheritHandle", c_int32),
    )


class FileInformation(ctypes.Structure):
    """``BY_HANDLE_FILE_INFORMATION``."""

    _fields_ = (("dwFileAttributes", c_uint32), ("rest", c_uint32 * 12))


class Security:
    """Functions of ``kernel32.dll`` and ``advapi32.dll``.

    :param error: returns the error of the function that has failed.
    """

    def __init__(
        self, kernel: Any, advapi: Any, error: Callable[..., WindowsCallError] = last_error
    ) -> None:
        self._kernel, self._advapi, self._error = kernel, advapi, error

    def make_directory(self, path: Path) -> None:
        """Make a folder; close one that is there already, if it is an administrator's.

        :raises WindowsCallError: it cannot be made.
        :raises HostError: it is another user's, who may have laid anything into it, or no folder.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        create = self._function(self._kernel, "CreateDirectoryW", c_int32, c_wchar_p, c_void_p)
        with self._descriptor() as descriptor:
            attributes = SecurityAttributes(ctypes.sizeof(SecurityAttributes), descriptor, 0)
            if create(str(path), pointer(attributes)):
                return
            error = self._error()
            if error.code != ERROR_ALREADY_EXISTS:
                raise error
            with self._open(path) as handle:
                self._check(path, handle)
                self._close_to_others(handle, descriptor)

    @contextmanager
    def _descriptor(self) -> Iterator[c_void_p]:
        make = self._function(
            self._advapi,
            "ConvertStringSecurityDescriptorToSecurityDescriptorW",
            *(c_int32, c_wchar_p, c_uint32, c_void_p, c_void_p),
        )
        found = c_void_p()
        if not make(SDDL, _SDDL_REVISION, pointer(found), None):
            raise self._error()
        try:
            yield found
        finally:
            self._free(found)

    @contextmanager
    def _open(self, path: Path) -> Iterator[int]:
        """Open what is at a path, not what it leads to: from then on it is the same."""
        create = self._function(
            self._kernel,
            "CreateFileW",
            *(c_void_p, c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p),
        )
        close = self._function(self._kernel, "CloseHandle", c_int32, c_void_p)
        how = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT
        may = READ_CONTROL | WRITE_DAC | FILE_READ_ATTRIBUTES
        handle = create(str(path), may, _SHARE_ALL, None, _OPEN_EXISTING, how, None)
        if handle in (None, _INVALID_HANDLE):
            raise self._error()
        try:
            yield handle
        finally:
            close(handle)

    def _check(self, path: Path, handle: int) -> None:
        look = self._function(
            self._kernel, "GetFileInformationByHandle", c_int32, c_void_p, c_void_p
        )
        found = FileInformation()
        if not look(handle, pointer(found)):
            raise self._error()
        kind = found.dwFileAttributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_REPARSE_POINT)
        if kind != FILE_ATTRIBUTE_DIRECTORY:
            raise HostError(f"{path} is no folder of its own; remove it, and start again")
        if not self._is_trusted(handle):
            raise HostError(
                f"{path} belongs to another user than the administrators, who may have laid "
                "anything into it; remove it, and start again"
            )

    def _is_trusted(self, handle: int) -> bool:
        ask = self._function(
            self._advapi, "GetSecurityInfo", c_uint32, c_void_p, c_int32, c_uint32, *[c_void_p] * 5
        )
        known = self._function(self._advapi, "IsWellKnownSid", c_int32, c_void_p, c_int32)
        owner, descriptor = c_void_p(), c_void_p()
        what = OWNER_SECURITY_INFORMATION
        code = ask(
            handle, SE_FILE_OBJECT, what, pointer(owner), None, None, None, pointer(descriptor)
        )
        if code:
            raise self._error(code)
        try:
            return any(known(owner, kind) for kind in TRUSTED.values())
        finally:
            self._free(descriptor)

    def _close_to_others(self, handle: int, descriptor: c_void_p) -> None:
        of = self._function(self._advapi, "GetSecurityDescriptorDacl", c_int32, *[c_void_p] * 4)
        change = self._function(
            self._advapi, "SetSecurityInfo", c_uint32, c_void_p, c_int32, c_uint32, *[c_void_p] * 4
        )
        present, given, dacl = c_int32(), c_int32(), c_void_p()
        if not of(descriptor, pointer(present), pointer(dacl), pointer(given)):
            raise self._error()
        what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION
        code = change(handle, SE_FILE_OBJECT, what, None, None, dacl, None)
        if code:
            raise self._error(code)

    def _free(self, memory: c_void_p) -> None:
        self._function(self._kernel, "LocalFree", c_void_p, c_void_p)(memory)

    @staticmethod
    def _function(library: Any, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        found = library[name]
        found.restype, found.argtypes = result, list(arguments)
        return found  # type: ignore[no-any-return]
