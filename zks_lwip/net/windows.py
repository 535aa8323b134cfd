"""Numbers, structures and errors of Windows that Python's modules do not have everywhere.

They are compared with the SDK's headers by a compiler (``tests/unit/test_windows_headers.py``). The
structures are those of 64-bit Windows, whose functions have the C calling convention.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

__all__ = [
    "CERT_NAME_SIMPLE_DISPLAY_TYPE",
    "ERROR_ACCESS_DENIED",
    "ERROR_ALREADY_EXISTS",
    "ERROR_FILE_NOT_FOUND",
    "Guid",
    "IMAGE_FILE_MACHINES",
    "CryptProviderCert",
    "CryptProviderSigner",
    "FixedFileInfo",
    "WINTRUST_VERIFY",
    "WTD_CACHE_ONLY_URL_RETRIEVAL",
    "WTD_CHOICE_FILE",
    "WTD_REVOKE_NONE",
    "WTD_STATEACTION_CLOSE",
    "WTD_STATEACTION_VERIFY",
    "WTD_UI_NONE",
    "WindowsCallError",
    "WintrustData",
    "WintrustFileInfo",
    "last_error",
    "system_program",
]

ERROR_FILE_NOT_FOUND, ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS = 2, 5, 183
IMAGE_FILE_MACHINES = {0x8664: "win-amd64", 0xAA64: "win-arm64", 0x14C: "win32", 0x1C4: "win-arm32"}
"""Architectures of PE files, by what :func:`sysconfig.get_platform` calls them."""

WTD_UI_NONE, WTD_REVOKE_NONE, WTD_CHOICE_FILE = 2, 0, 1
WTD_STATEACTION_VERIFY, WTD_STATEACTION_CLOSE = 1, 2
WTD_CACHE_ONLY_URL_RETRIEVAL = 0x1000
CERT_NAME_SIMPLE_DISPLAY_TYPE = 4


class Guid(ctypes.Structure):
    """``GUID``."""

    _fields_ = (
        ("Data1", ctypes.c_uint32),
        ("Data2", ctypes.c_uint16),
        ("Data3", ctypes.c_uint16),
        ("Data4", ctypes.c_ubyte * 8),
    )


WINTRUST_VERIFY = bytes.fromhex("6bc5aa0044cdd0118cc200c04fc295ee")
"""``WINTRUST_ACTION_GENERIC_VERIFY_V2``, as it lies in memory."""


class WintrustFileInfo(ctypes.Structure):
    """``WINTRUST_FILE_INFO``."""

    _fields_ = (
        ("cbStruct", ctypes.c_uint32),
        ("pcwszFilePath", ctypes.c_wchar_p),
        ("hFile", ctypes.c_void_p),
        ("pgKnownSubject", ctypes.c_void_p),
    )


class WintrustData(ctypes.Structure):
    """``WINTRUST_DATA``."""

    _fields_ = (
        ("cbStruct", ctypes.c_uint32),
        ("pPolicyCallbackData", ctypes.c_void_p),
        ("pSIPClientData", ctypes.c_void_p),
        ("dwUIChoice", ctypes.c_uint32),
        ("fdwRevocationChecks", ctypes.c_uint32),
        ("dwUnionChoice", ctypes.c_uint32),
        ("pFile", ctypes.POINTER(WintrustFileInfo)),
        ("dwStateAction", ctypes.c_uint32),
        ("hWVTStateData", ctypes.c_void_p),
        ("pwszURLReference", ctypes.c_void_p),
        ("dwProvFlags", ctypes.c_uint32),
        ("dwUIContext", ctypes.c_uint32),
    )


class CryptProviderCert(ctypes.Structure):
    """``CRYPT_PROVIDER_CERT``, its beginning."""

    _fields_ = (("cbStruct", ctypes.c_uint32), ("pCert", ctypes.c_void_p))


class CryptProviderSigner(ctypes.Structure):
    """``CRYPT_PROVIDER_SGNR``, its beginning."""

    _fields_ = (
        ("cbStruct", ctypes.c_uint32),
        ("sftVerifyAsOf", ctypes.c_uint32 * 2),
        ("csCertChain", ctypes.c_uint32),
        ("pasCertChain", ctypes.POINTER(CryptProviderCert)),
    )


class FixedFileInfo(ctypes.Structure):
    """``VS_FIXEDFILEINFO``, its beginning."""

    _fields_ = (
        ("dwSignature", ctypes.c_uint32),
        ("dwStrucVersion", ctypes.c_uint32),
        ("dwFileVersionMS", ctypes.c_uint32),
        ("dwFileVersionLS", ctypes.c_uint32),
    )


class WindowsCallError(OSError):
    """A function of Windows has failed.

    :param code: of winerror.h.
    :param text: what Windows says of it.
    """

    def __init__(self, code: int, text: str) -> None:
        # What is done without a privilege is told by its number everywhere.
        super().__init__(errno.EACCES if code == ERROR_ACCESS_DENIED else code, text)
        self.code = code

    def __str__(self) -> str:
        return f"{self.strerror} (error {self.code})"


def last_error(code: int | None = None) -> WindowsCallError:
    """Return the error of the function that was called last, or of a code that it has returned."""
    if sys.platform != "win32":
        return WindowsCallError(code or 0, "this is not Windows")
    number = (ctypes.get_last_error() if code is None else code) & 0xFFFFFFFF
    signed = number - (1 << 32) if number >> 31 else number  # as FormatError takes it
    return WindowsCallError(number, ctypes.FormatError(signed).strip().rstrip("."))


def system_program(name: str) -> str:
    """Return the path of a program of Windows' own, such as ``netsh.exe``.

    By its name alone, one that lies in the current folder would be run, with our privileges.
    """
    folder = os.path.join(os.environ.get("SystemRoot", r"C:\Windows"), "System32")
    if os.name == "nt":  # whose environment is the user's
        buffer = ctypes.create_unicode_buffer(260)
        kernel = ctypes.CDLL("kernel32.dll", use_last_error=True)
        if not kernel.GetSystemDirectoryW(buffer, len(buffer)):
            raise last_error()
        folder = buffer.value
    return os.path.join(folder, name)
