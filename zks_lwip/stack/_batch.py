"""Datagrams between Python and the core: many at a time in, one at a time out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from .._lwip import ffi, lib
from ._address import pack

__all__ = ["Batch"]

_META = struct.Struct("=16s16sHH4BII")
"""struct zks_datagram: source, destination, their ports, family, kind, hop limit, traffic class,
offset and length of the payload.
"""
_BYTES = ffi.typeof("uint8_t[]")
_MAX_DATAGRAMS = 256  # taken at a time
_MAX_BYTES = 1 << 18  # of payload taken at a time; at least one datagram


class Batch:
    """Buffers for :meth:`take` and :meth:`describe`.

    They are made once: making them takes longer than filling them.
    """

    def __init__(self) -> None:
        self._taken = ffi.new(f"struct zks_datagram[{_MAX_DATAGRAMS}]")
        self._payloads = bytearray(_MAX_BYTES)
        self._left = ffi.new("int *")
        self._one = ffi.new("struct zks_datagram *")

    @property
    def left(self) -> bool:
        """Whether others waited behind what :meth:`take` has taken last."""
        return bool(self._left[0])

    def take(self, core: Any, rules: Any = ffi.NULL) -> Iterator[tuple[Any, ...]]:
        """Take the datagrams that wait in a core.

        :param core: a ``zks_core *``, or NULL.
        :param rules: a ``struct zks_frame_rules *``: up to the first that becomes a frame; or NULL.
        :returns: for each the fields of :data:`_META`, with its payload in place of the last two.
            Payloads are valid as long as they are held; those of one call share their memory.
        """
        payloads = self._payloads
        count = lib.zks_datagram_take_others(
            core,
            rules,
            self._taken,
            _MAX_DATAGRAMS,
            ffi.from_buffer(_BYTES, payloads),
            _MAX_BYTES,
            self._left,
        )
        if not count:
            return
        last = self._taken[count - 1]
        with memoryview(payloads) as view:
            kept = memoryview(bytes(view[: last.offset + last.length]))
        for *fields, offset, length in _META.iter_unpack(
            ffi.buffer(self._taken, count * _META.size)
        ):
            yield *fields, kept[offset : offset + length]

    def describe(
        self,
        source: tuple[str, int],
        destination: tuple[str, int],
        length: int,
        *,
        kind: int = lib.ZKS_KIND_UDP,
        hop_limit: int = 64,
    ) -> Any:
        """Describe one datagram to the core.

        :param length: of its payload, in bytes.
        :returns: a ``struct zks_datagram *``, valid until the next call.
        :raises ValueError: an address that is no literal, or two families.
        """
        family, host = pack(source[0])
        family2, host2 = pack(destination[0])
        if family != family2:
            raise ValueError(f"{source[0]} and {destination[0]} are of two address families")
        fields = host, host2, source[1], destination[1], family, kind, hop_limit, 0, 0, length
        _META.pack_into(ffi.buffer(self._one), 0, *fields)
        return self._one
