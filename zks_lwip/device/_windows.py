"""TUN devices of Windows: adapters of Wintun, whose ``wintun.dll`` is loaded at run time.

It is WireGuard's; a program that runs as administrator loads nothing that is not signed by them.
Addresses, routes and the MTU of the interface are the business of :mod:`zks_lwip.host`.
"""

from __future__ import annotations

import os
import struct
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..errors import DeviceError, PrivilegeError
from ..net.windows import ERROR_ACCESS_DENIED, IMAGE_FILE_MACHINES, WindowsCallError
from ._abc import WintunRing
from .options import DeviceOptions

__all__ = ["WintunDevice", "WintunFile", "WintunLibrary", "load_wintun", "open_wintun"]

WINTUN_URL = "https://www.wintun.net"
SIGNER = "WireGuard LLC"
_LEAST_VERSION = (0, 14)
"""Earlier ones have other functions (pools)."""
_RING_BYTES = 1 << 22
"""Of each of the two rings; a power of two, 128 KiB to 64 MiB."""
_FOLDERS = {"win-amd64": "amd64", "win-arm64": "arm64", "win32": "x86", "win-arm32": "arm"}
"""The folder in Wintun's archive, by architecture."""


class WintunFile(Protocol):
    """An open ``wintun.dll``, which no program can change; each method may raise OSError."""

    def signer(self) -> str:
        """Return who has signed it.

        :raises OSError: it has no signature, or none that holds.
        """
        ...

    def version(self) -> tuple[int, int]:
        """Return the first two parts of its version."""
        ...

    def load(self) -> WintunLibrary:
        """Load it into this process."""
        ...

    def close(self) -> None:
        """Close the file; what is loaded stays."""
        ...


class WintunLibrary(Protocol):
    """Wintun's functions. Each may raise OSError."""

    def create_adapter(self, name: str) -> int:
        """Make an adapter; return its handle."""
        ...

    def luid(self, adapter: int) -> int:
        """Return the number by which Windows knows the adapter's interface."""
        ...

    def start_session(self, adapter: int, capacity: int) -> WintunRing:
        """Make the rings of an adapter, of so many bytes each, and the events."""
        ...

    def end_session(self, ring: WintunRing) -> None:
        """Take them away."""
        ...

    def close_adapter(self, adapter: int) -> None:
        """Remove the adapter."""
        ...


@dataclass(slots=True)
class WintunDevice:
    """An open adapter of Wintun; it vanishes from the system when closed."""

    name: str
    """Of the interface, as the user sees it."""
    mtu: int
    """Bytes, 1280 to 65535."""
    luid: int
    """By which Windows knows the interface."""
    ring: WintunRing
    """What the C pump works on (:class:`zks_lwip.device.RingDevice`)."""
    _library: WintunLibrary = field(repr=False)
    _adapter: int = field(repr=False)
    _closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """End the session and remove the interface; twice is harmless. The stack has ended."""
        if self._closed:
            return
        self._closed = True
        try:
            self._library.end_session(self.ring)
        finally:
            self._library.close_adapter(self._adapter)

    def __enter__(self) -> WintunDevice:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _find(folders: Iterable[Path] | None, platform: str) -> Path:
    """Return where ``wintun.dll`` is: beside this package, or in a folder of the path.

    :param folders: where to look; None: there.
    :param platform: the architecture that is wanted.
    :raises DeviceError: it is nowhere.
    """
    if folders is None:
        path = os.environ.get("PATH", "").split(os.pathsep)
        # Absolute ones: what lies where the program was started is not asked for.
        folders = [Path(__file__).parents[1], *(Path(part) for part in path if part)]
    for folder in folders:
        file = folder / "wintun.dll"
        if file.is_absolute() and file.is_file():
            return file
    raise DeviceError(f"wintun.dll is not there, {_advice(platform)}")


def _advice(platform: str) -> str:
    folder = _FOLDERS.get(platform, platform)
    return (
        f"Wintun's library, which makes network interfaces: get it from {WINTUN_URL} and put "
        f"bin\\{folder}\\wintun.dll of the archive into {Path(__file__).parents[1]}, or into a "
        "folder of the path"
    )


def _check_machine(path: Path, wanted: str) -> None:
    """Refuse a file that is no library of this program's architecture.

    :raises DeviceError: it is none.
    :raises OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        machine = None
        if len(head) == 64 and head[:2] == b"MZ":
            file.seek(struct.unpack_from("<I", head, 60)[0])
            pe = file.read(6)
            if len(pe) == 6 and pe[:4] == b"PE\0\0":
                machine = struct.unpack_from("<H", pe, 4)[0]
    if machine is None:
        raise DeviceError(f"{path} is no library of Windows; replace it. {_get()}")
    found = IMAGE_FILE_MACHINES.get(machine, f"machine {machine:#x}")
    if found != wanted:
        raise DeviceError(
            f"{path} is for {found}, this program for {wanted}: take the file of bin\\"
            f"{_FOLDERS.get(wanted, wanted)}. {_get()}"
        )


def _get() -> str:
    return f"It comes from {WINTUN_URL}"


def _open_file(path: Path) -> WintunFile:
    from ._wintun import OpenedWintun  # loads libraries that only Windows has

    return OpenedWintun(path)


def load_wintun(
    folders: Iterable[Path] | None = None,
    *,
    platform: str | None = None,
    open_file: Callable[[Path], WintunFile] | None = None,
) -> WintunLibrary:
    """Find Wintun's library, check that it is theirs, and load it.

    :param folders: where to look; None: beside this package, and in the folders of the path.
    :param platform: the architecture of this program, see :func:`sysconfig.get_platform`.
    :param open_file: opens the file that was found; None: the one that is there.
    :raises DeviceError: it is missing, for another architecture, not signed by its maker, or too
        old.
    """
    platform = platform or sysconfig.get_platform()
    path = _find(folders, platform)
    try:
        file = (open_file or _open_file)(path)
        try:
            _check_machine(path, platform)
            _check_signer(path, file)
            version = file.version()
            if version < _LEAST_VERSION:
                raise DeviceError(
                    f"{path} is Wintun {version[0]}.{version[1]}: 0.14 or later is needed. {_get()}"
                )
            return file.load()
        finally:
            file.close()
    except OSError as error:
        raise DeviceError(f"{path} cannot be used: {_said(error)}. {_get()}") from error


def _check_signer(path: Path, file: WintunFile) -> None:
    try:
        signer = file.signer()
    except OSError as error:
        raise DeviceError(
            f"{path} is not loaded, as its signature does not hold: {_said(error)}. {_get()}"
        ) from error
    if signer != SIGNER:
        raise DeviceError(
            f"{path} is not loaded, as {signer!r} has signed it, not {SIGNER!r}. {_get()}"
        )


def _said(error: OSError) -> str:
    return str(error) if isinstance(error, WindowsCallError) else error.strerror or str(error)


def open_wintun(
    name: str = "zks0",
    *,
    mtu: int = 1500,
    load: Callable[[], WintunLibrary] | None = None,
) -> WintunDevice:
    """Make an adapter, without addresses.

    :param name: of its interface.
    :param mtu: bytes, 1280 to 65535; the host sets the interface's.
    :param load: loads Wintun's library; None: :func:`load_wintun`.
    :raises ConfigError: name or MTU cannot be used.
    :raises PrivilegeError: this is not an administrator.
    :raises DeviceError: Wintun is not there, or refuses.
    """
    DeviceOptions(tun=name, mtu=mtu)
    library = (load or load_wintun)()
    try:
        adapter = library.create_adapter(name)
        try:
            luid = library.luid(adapter)
            ring = library.start_session(adapter, _RING_BYTES)
        except BaseException:
            library.close_adapter(adapter)
            raise
    except OSError as error:
        if isinstance(error, WindowsCallError) and error.code == ERROR_ACCESS_DENIED:
            raise PrivilegeError(
                f"the interface {name} may not be made: run this as administrator"
            ) from error
        raise DeviceError(f"the interface {name} cannot be made: {_said(error)}") from error
    return WintunDevice(name, mtu, luid, ring, library, adapter)
