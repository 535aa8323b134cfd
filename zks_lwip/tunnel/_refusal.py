"""The answer to a DNS query that is refused before anyone has looked at it (PROTOCOL.md §5)."""

from __future__ import annotations

import struct

__all__ = ["servfail"]

_HEADER = struct.Struct(">HBBHHHH")
_FORMERR, _SERVFAIL = 1, 2


def servfail(query: bytes) -> bytes:
    """SERVFAIL for a DNS query, with its id and its question; FORMERR for what is not one.

    RFC 1035 §4.1; resolvers ignore an answer whose question is not theirs.
    """
    if len(query) < _HEADER.size:
        return _HEADER.pack(int.from_bytes(query[:2].ljust(2, b"\0")), 0x80, _FORMERR, 0, 0, 0, 0)
    identifier, flags, more, questions, *_ = _HEADER.unpack_from(query)
    # QR is set; opcode and RD stay; RA is set; CD stays
    flags = 0x80 | (flags & 0x79)
    end = _question_end(query) if questions == 1 else None
    if end is None:
        return _HEADER.pack(identifier, flags, 0x80 | _FORMERR, 0, 0, 0, 0)
    header = _HEADER.pack(identifier, flags, 0x80 | (more & 0x10) | _SERVFAIL, 1, 0, 0, 0)
    return header + query[_HEADER.size : end]


def _question_end(query: bytes) -> int | None:
    position = _HEADER.size
    while position < len(query) and position - _HEADER.size < 255:
        label = query[position]
        if label == 0:
            end = position + 5
            return end if end <= len(query) else None
        if label > 63:  # a question is not compressed: there is nothing before it
            return None
        position += 1 + label
    return None
