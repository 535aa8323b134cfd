"""An HPACK encoder and a decoder that remember blocks (RFC 7541).

All our requests have the same headers, so after the first one each block is a few indices into a
table that no longer changes, and so it is with most servers' answers. Encoding or decoding it again
takes longer than anything else that we do for a query; looking it up does not.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder
from hpack.struct import HeaderTuple

__all__ = ["SteadyDecoder", "SteadyEncoder"]

_MOST = 64
_MOST_BLOCK = 256  # bytes of a block that is remembered


class SteadyEncoder(Encoder):
    """Gives the same bytes as its base class."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[Any, ...], bytes] = {}

    @property
    def header_table_size(self) -> int:
        """The size of the table, as the server allows it."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # Entries may go, whether or not the size is another one in the end.
        self._blocks.clear()
        Encoder.header_table_size.fset(self, value)  # type: ignore[attr-defined]

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Encode a header block, from memory where it says the same as before."""
        key = tuple(headers)
        table = self.header_table
        if table.resized:
            # The new size has to be said, once.
            return super().encode(key, huffman)
        known = self._blocks.get(key)
        if known is not None:
            return known
        before = tuple(table.dynamic_entries)
        block = super().encode(key, huffman)
        if _differ(before, table.dynamic_entries):
            self._blocks.clear()
        elif len(self._blocks) < _MOST:
            self._blocks[key] = block
        return block


class SteadyDecoder(Decoder):
    """Gives the same headers as its base class."""

    def __init__(self, max_header_list_size: int = Decoder().max_header_list_size) -> None:
        super().__init__(max_header_list_size)
        self._blocks: dict[bytes, Iterable[HeaderTuple]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Decode a header block, from memory where it is the same as before."""
        known = self._blocks.get(data) if raw else None
        if known is not None:
            return known
        table = self.header_table
        before, size = tuple(table.dynamic_entries), table.maxsize
        headers = super().decode(data, raw)
        if table.maxsize != size or _differ(before, table.dynamic_entries):
            self._blocks.clear()
        elif raw and 0 < len(data) <= _MOST_BLOCK and data[0] & 0xE0 != 0x20:
            # (A block that begins with a change of the table's size does more than it says.)
            if len(self._blocks) >= _MOST:
                self._blocks.clear()
            self._blocks[data] = headers
        return headers


def _differ(before: tuple[Any, ...], after: Iterable[Any]) -> bool:
    """Whether a table has changed; entries that stay are the same objects."""
    after = tuple(after)
    return len(after) != len(before) or any(map(operator.is_not, before, after))
