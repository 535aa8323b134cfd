"""Datagrams of applications as UDP frames of the tunnel, and back, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from .._lwip import ffi, lib
from ._address import pack, unpack

__all__ = [
    "BoundDatagrams",
    "DatagramFrames",
    "DeliveredDatagrams",
    "FrameRules",
    "FramedDatagrams",
]

_BYTES = ffi.typeof("uint8_t[]")
_MAX_BYTES = 1 << 18  # of frames taken at a time; at least one datagram
_MAX_ASSOCIATIONS = 64


class FrameRules:
    """Which datagrams of bound sockets become frames; the others are taken one by one.

    :param ports: destination ports whose datagrams do not.
    :param ipv6: those to IPv6 hosts do.
    :param loopback_alias: the address that stands for the worker's 127.0.0.1; None: none does.
    """

    __slots__ = ("handle",)

    def __init__(
        self,
        ports: Iterable[int] = (),
        *,
        ipv6: bool = True,
        loopback_alias: IPv4Address | None = None,
    ) -> None:
        self.handle = ffi.new("struct zks_frame_rules *")
        for port in ports:
            self.handle.ports[port >> 3] |= 1 << (port & 7)
        self.handle.no_ipv6 = not ipv6
        if loopback_alias is not None:
            self.handle.alias = list(loopback_alias.packed)


@dataclass(frozen=True, slots=True)
class FramedDatagrams:
    """Datagrams that applications have sent, as UDP frames (PROTOCOL.md §5) back to back."""

    frames: bytes
    count: int
    """How many."""
    size: int
    """Bytes of their payloads."""
    associations: list[int]
    """Those that they are of, each once."""


class DeliveredDatagrams(NamedTuple):
    """What came of frames for applications."""

    datagrams: int
    size: int
    """Bytes of their payloads."""
    dropped: int
    """Datagrams of another family than the application's socket, or for which memory was out."""
    malformed: int
    """Frames whose host is no address."""


class BoundDatagrams(NamedTuple):
    """What has gone as frames of one association."""

    to: tuple[str, int] | None
    """Where the last datagram was sent to; None: none was."""
    up: int
    """Bytes from the application."""
    down: int
    """Bytes to the application."""


class DatagramFrames:
    """Buffers for :meth:`take` and :meth:`deliver`, made once."""

    def __init__(self) -> None:
        self._bytes = ffi.new(_BYTES, _MAX_BYTES)
        self._ids = ffi.new("uint32_t[]", _MAX_ASSOCIATIONS)
        self._taken = ffi.new("struct zks_taken_frames *")
        self._delivered = ffi.new("struct zks_delivered_frames *")

    def take(self, core: Any, rules: FrameRules) -> FramedDatagrams | None:
        """Take the datagrams that wait first and become frames; None: the first one does not."""
        taken = self._taken
        if not lib.zks_datagram_take_frames(
            core, rules.handle, self._bytes, _MAX_BYTES, self._ids, taken
        ):
            return None
        return FramedDatagrams(
            ffi.buffer(self._bytes, taken.size)[:],
            taken.datagrams,
            taken.payload,
            ffi.unpack(self._ids, taken.associations),
        )

    def deliver(self, core: Any, rules: FrameRules, frames: memoryview) -> DeliveredDatagrams:
        """Send the datagrams of frames to the applications."""
        delivered = self._delivered
        frames_ = ffi.from_buffer(_BYTES, frames)
        lib.zks_datagram_deliver(core, rules.handle, frames_, len(frames), delivered)
        return DeliveredDatagrams(
            delivered.datagrams, delivered.payload, delivered.dropped, delivered.malformed
        )

    @staticmethod
    def bind(core: Any, local: tuple[str, int], association: int) -> bool:
        """Let the datagrams of an application's socket become frames; False: out of memory."""
        family, raw = pack(local[0])
        bound = lib.zks_datagram_bind(core, family, raw, local[1], association)
        return bool(bound == lib.ZKS_OK)

    @staticmethod
    def bound(core: Any, association: int) -> BoundDatagrams | None:
        """Return what has gone as frames of an association; None: it is not bound."""
        seen = ffi.new("struct zks_bound_datagrams *")
        if lib.zks_datagram_bound(core, association, seen) != lib.ZKS_OK:
            return None
        to = None
        if seen.family:
            to = unpack(seen.family, bytes(ffi.buffer(seen.to))), seen.port
        return BoundDatagrams(to, seen.up, seen.down)

    @staticmethod
    def unbind(core: Any, association: int) -> None:
        """Undo :meth:`bind`; harmless twice."""
        lib.zks_datagram_unbind(core, association)
