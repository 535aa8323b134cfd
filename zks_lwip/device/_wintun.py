"""``wintun.dll`` itself, by ctypes: its signature, its version, its functions. On Windows alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_int32, c_uint32, c_uint64, c_void_p, c_wchar_p, sizeof
from pathlib import Path
from typing import Any

from ..net.windows import (
    CERT_NAME_SIMPLE_DISPLAY_TYPE,
    WINTRUST_VERIFY,
    WTD_CACHE_ONLY_URL_RETRIEVAL,
    WTD_CHOICE_FILE,
    WTD_REVOKE_NONE,
    WTD_STATEACTION_CLOSE,
    WTD_STATEACTION_VERIFY,
    WTD_UI_NONE,
    CryptProviderSigner,
    FixedFileInfo,
    Guid,
    WintrustData,
    WintrustFileInfo,
    last_error,
)
from ._abc import WintunRing

__all__ = ["LoadedWintun", "OpenedWintun"]

_GENERIC_READ, _FILE_SHARE_READ, _OPEN_EXISTING = 0x80000000, 1, 3
_INVALID_HANDLE = 0xFFFFFFFFFFFFFFFF
_SEARCH_SYSTEM32 = 0x800  # LOAD_LIBRARY_SEARCH_SYSTEM32: what it needs itself is Windows'
_ADAPTER_TYPE = "zks_lwip"


def _system(name: str) -> ctypes.CDLL:
    """Load a library of Windows' own."""
    return ctypes.CDLL(name, use_last_error=True, winmode=_SEARCH_SYSTEM32)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    found = library[name]
    found.restype, found.argtypes = result, list(arguments)
    return found


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(library[name], c_void_p).value or 0


class OpenedWintun:
    """The file, open so that no program may write or replace it until it is loaded.

    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kernel = _system("kernel32.dll")
        create = _function(
            self._kernel,
            "CreateFileW",
            c_void_p,
            *(c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p),
        )
        share, how = _FILE_SHARE_READ, _OPEN_EXISTING
        self._file = create(str(path), _GENERIC_READ, share, None, how, 0, None)
        if self._file in (None, _INVALID_HANDLE):
            raise last_error()

    def signer(self) -> str:
        trust, crypt = _system("wintrust.dll"), _system("crypt32.dll")
        verify = _function(trust, "WinVerifyTrust", c_int32, c_void_p, c_void_p, c_void_p)
        file = WintrustFileInfo(sizeof(WintrustFileInfo), str(self._path), self._file, None)
        data = WintrustData(
            cbStruct=sizeof(WintrustData),
            dwUIChoice=WTD_UI_NONE,
            fdwRevocationChecks=WTD_REVOKE_NONE,  # there may be no network before we are up
            dwUnionChoice=WTD_CHOICE_FILE,
            pFile=ctypes.pointer(file),
            dwStateAction=WTD_STATEACTION_VERIFY,
            dwProvFlags=WTD_CACHE_ONLY_URL_RETRIEVAL,
        )
        action = Guid.from_buffer_copy(WINTRUST_VERIFY)
        status = verify(None, byref(action), byref(data))
        try:
            if status != 0:
                raise last_error(status)
            return self._name_of_signer(trust, crypt, data)
        finally:
            data.dwStateAction = WTD_STATEACTION_CLOSE
            verify(None, byref(action), byref(data))

    def _name_of_signer(self, trust: ctypes.CDLL, crypt: ctypes.CDLL, data: WintrustData) -> str:
        provider = _function(trust, "WTHelperProvDataFromStateData", c_void_p, c_void_p)
        signer_of = _function(
            trust,
            "WTHelperGetProvSignerFromChain",
            POINTER(CryptProviderSigner),
            *(c_void_p, c_uint32, c_int32, c_uint32),
        )
        name_of = _function(
            crypt,
            "CertGetNameStringW",
            c_uint32,
            *(c_void_p, c_uint32, c_uint32, c_void_p, c_wchar_p, c_uint32),
        )
        found = provider(data.hWVTStateData)
        signer = signer_of(found, 0, 0, 0) if found else None
        if not signer or not signer.contents.csCertChain:
            raise last_error()
        name = ctypes.create_unicode_buffer(256)
        certificate = signer.contents.pasCertChain[0].pCert
        name_of(certificate, CERT_NAME_SIMPLE_DISPLAY_TYPE, 0, None, name, len(name))
        return name.value

    def version(self) -> tuple[int, int]:
        library, path = _system("version.dll"), str(self._path)
        size_of = _function(library, "GetFileVersionInfoSizeW", c_uint32, c_wchar_p, c_void_p)
        read = _function(
            library, "GetFileVersionInfoW", c_int32, c_wchar_p, c_uint32, c_uint32, c_void_p
        )
        query = _function(
            library, "VerQueryValueW", c_int32, c_void_p, c_wchar_p, c_void_p, c_void_p
        )
        size = size_of(path, None)
        block = ctypes.create_string_buffer(size or 1)
        info, length = POINTER(FixedFileInfo)(), c_uint32()
        if not size or not read(path, 0, size, block):
            raise last_error()
        if not query(block, "\\", byref(info), byref(length)) or length.value < sizeof(
            FixedFileInfo
        ):
            raise last_error()
        both = info.contents.dwFileVersionMS
        return both >> 16, both & 0xFFFF

    def load(self) -> LoadedWintun:
        library = ctypes.CDLL(str(self._path), use_last_error=True, winmode=_SEARCH_SYSTEM32)
        return LoadedWintun(library, self._kernel)

    def close(self) -> None:
        _function(self._kernel, "CloseHandle", c_int32, c_void_p)(self._file)


class LoadedWintun:
    """Wintun's functions."""

    def __init__(self, library: ctypes.CDLL, kernel: ctypes.CDLL) -> None:
        self._library = library
        self._kernel = kernel
        texts = (c_wchar_p, c_wchar_p, c_void_p)
        self._create = _function(library, "WintunCreateAdapter", c_void_p, *texts)
        self._close = _function(library, "WintunCloseAdapter", None, c_void_p)
        self._luid = _function(library, "WintunGetAdapterLUID", None, c_void_p, c_void_p)
        self._start = _function(library, "WintunStartSession", c_void_p, c_void_p, c_uint32)
        self._end = _function(library, "WintunEndSession", None, c_void_p)
        self._readable = _function(library, "WintunGetReadWaitEvent", c_void_p, c_void_p)
        arguments = (c_void_p, c_int32, c_int32, c_void_p)
        self._event = _function(kernel, "CreateEventW", c_void_p, *arguments)
        self._close_handle = _function(kernel, "CloseHandle", c_int32, c_void_p)

    def create_adapter(self, name: str) -> int:
        adapter = self._create(name, _ADAPTER_TYPE, None)
        if not adapter:
            raise last_error()
        return int(adapter)

    def luid(self, adapter: int) -> int:
        luid = c_uint64()
        self._luid(adapter, byref(luid))
        return luid.value

    def start_session(self, adapter: int, capacity: int) -> WintunRing:
        events = []
        try:
            for _ in range(2):
                event = self._event(None, 0, 0, None)
                if not event:
                    raise last_error()
                events.append(int(event))
            session = self._start(adapter, capacity)
            if not session:
                raise last_error()
        except BaseException:
            for event in events:
                self._close_handle(event)
            raise
        return WintunRing(
            session=int(session),
            receive=_address(self._library, "WintunReceivePacket"),
            release=_address(self._library, "WintunReleaseReceivePacket"),
            allocate=_address(self._library, "WintunAllocateSendPacket"),
            send=_address(self._library, "WintunSendPacket"),
            last_error=_address(self._kernel, "GetLastError"),
            wait=_address(self._kernel, "WaitForMultipleObjects"),
            set=_address(self._kernel, "SetEvent"),
            readable=int(self._readable(session)),
            stop=events[0],
            kick=events[1],
        )

    def end_session(self, ring: WintunRing) -> None:
        self._end(ring.session)
        for event in (ring.stop, ring.kick):
            self._close_handle(event)

    def close_adapter(self, adapter: int) -> None:
        self._close(adapter)
