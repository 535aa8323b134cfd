"""Datagrams between Python and the core: many at a time in, one at a time out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from zks_lwip._lwip import ffi, lib
from zks_lwip.stack._address import pack

__all__ = ["Batch"]

_META = struct.Struct("=16s16sHH4BII")
"""struct zks_datagram: source, destination, their ports, family, kind, hop limit, traffic class,
offset and length of the payload.
"""
_BYTES = ffi.typeof("uint8_t[]")
_MOST = 256  # datagrams taken at a time
_SIZE = 1 << 18  # bytes of them, at least one datagram


class Batch:
    """Memory that is used again for each batch: making it takes longer than filling it."""

    def __init__(self) -> None:
        self._taken = ffi.new(f"struct zks_datagram[{_MOST}]")
        self._payloads = bytearray(_SIZE)
        self._one = ffi.new("struct zks_datagram *")

    def take(self, core: Any) -> Iterator[tuple[Any, ...]]:
        """What waits in the core: fields as in :data:`_META`, the payload in place of the last two.

        Payloads are valid as long as they are held.
        """
        payloads = self._payloads
        count = lib.zks_datagram_take(
            core, self._taken, _MOST, ffi.from_buffer(_BYTES, payloads), _SIZE
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
        """A pointer to a struct zks_datagram, valid until the next call.

        :raises ValueError: an address that is no literal, or two families.
        """
        family, host = pack(source[0])
        family2, host2 = pack(destination[0])
        if family != family2:
            raise ValueError(f"{source[0]} and {destination[0]} are of two address families")
        fields = host, host2, source[1], destination[1], family, kind, hop_limit, 0, 0, length
        _META.pack_into(ffi.buffer(self._one), 0, *fields)
        return self._one
