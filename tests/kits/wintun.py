"""Wintun's rings without Windows: ``wintun.c``, which has their layout and their rules."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from zks_lwip.device import WintunRing

__all__ = ["FakeWintun"]

_kept: list[tempfile.TemporaryDirectory[str]] = []
_FUNCTIONS = {
    "receive": "WintunReceivePacket",
    "release": "WintunReleaseReceivePacket",
    "allocate": "WintunAllocateSendPacket",
    "send": "WintunSendPacket",
    "last_error": "GetLastError",
    "wait": "WaitForMultipleObjects",
    "set": "SetEvent",
}
_POINTERS = ("fake_start", "fake_stop", "fake_kick", "WintunGetReadWaitEvent")
_FOREVER = 0xFFFFFFFF


@functools.cache
def _library() -> ctypes.CDLL:
    made = tempfile.TemporaryDirectory(prefix="zks-wintun-")
    _kept.append(made)
    target = Path(made.name) / "wintun.so"
    command = [shutil.which("gcc") or "cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-fPIC", "-shared", "-pthread", "-o", str(target)]
    source = str(Path(__file__).with_suffix(".c"))
    done = subprocess.run([*command, source], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(target))
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    return library


class FakeWintun:
    """A device for a stack, and the driver at the other end of its rings."""

    def __init__(self, capacity: int = 1 << 17, mtu: int = 1500) -> None:
        self._library = library = _library()
        start = library.fake_start(ctypes.c_uint32(capacity))
        self._session = ctypes.c_void_p(start)
        self.mtu = mtu
        addresses = {
            name: ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0
            for name, function in _FUNCTIONS.items()
        }
        self.ring = WintunRing(
            session=start,
            readable=library.WintunGetReadWaitEvent(self._session),
            stop=library.fake_stop(self._session),
            kick=library.fake_kick(self._session),
            **addresses,
        )

    def put(self, packet: bytes) -> bool:
        """Give a packet to the program; whether there was room."""
        return bool(self._library.fake_put(self._session, packet, len(packet)))

    def take(self, seconds: int = 60) -> bytes:
        """The next packet of the program's; empty: there is none for so long."""
        buffer = ctypes.create_string_buffer(65535)
        length = self._library.fake_take(self._session, buffer, seconds * 1000)
        return buffer.raw[:length]

    def remove(self) -> None:
        """The adapter goes."""
        self._library.fake_remove(self._session)

    def corrupt(self) -> None:
        """Write a length into the ring that cannot be."""
        self._library.fake_corrupt(self._session)

    @property
    def held(self) -> int:
        """How many packets the program has read or allocated, and not given back."""
        return int(self._library.fake_held(self._session))

    def waits(self, at_most: int = _FOREVER) -> bool:
        """Wait until the pump waits for at most so many milliseconds; without: for ever."""
        return bool(self._library.fake_waits(self._session, ctypes.c_uint32(at_most)))

    def close(self) -> None:
        """Free the rings."""
        self._library.fake_end(self._session)

    def __enter__(self) -> FakeWintun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
