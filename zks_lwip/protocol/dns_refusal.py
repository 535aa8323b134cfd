"""Answers to DNS queries that no server answers, with the reason (PROTOCOL.md §5, RFC 8914).

Worker, session and the client's DNS service make them here, of the bytes of any query.
"""

from __future__ import annotations

import enum
import struct

__all__ = [
    "Ede",
    "Rcode",
    "ede_option",
    "error_response",
    "no_query_now",
    "opt_record",
    "question_end",
    "servfail",
]

_HEADER = struct.Struct(">HBBHHHH")
_OPT = struct.Struct("!xHHBBHH")  # root name, type, size, extended rcode, version, flags, length
_OPT_TYPE = 41  # RFC 6891
_EDE = 15  # RFC 8914
_PAYLOAD = 1232
"""Bytes of UDP that we say to take (DNS Flag Day 2020)."""
_MAX_REASON = 200
"""Bytes of a reason; a resolver on the way may cut what is longer."""


class Rcode(enum.IntEnum):
    """Response codes (RFC 1035, RFC 6891: 16 and up need an OPT record)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Ede(enum.IntEnum):
    """Extended DNS error codes (RFC 8914 §4)."""

    OTHER = 0
    NOT_READY = 14
    BLOCKED = 15
    PROHIBITED = 18
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23
    INVALID_DATA = 24
    SYNTHESIZED = 29  # IANA's registry; not in RFC 8914 itself


def opt_record(size: int, flags: int = 0, extended: int = 0, options: bytes = b"") -> bytes:
    """Return an OPT record (RFC 6891).

    :param size: the UDP payload that is taken, in bytes.
    :param flags: EDNS flags; DO is 0x8000.
    :param extended: the upper 8 bits of the response code.
    :param options: as :func:`ede_option` returns them.
    """
    return _OPT.pack(_OPT_TYPE, size, extended, 0, flags, len(options)) + options


def ede_option(code: int, text: str = "") -> bytes:
    """Return an Extended DNS Error option (RFC 8914), its text cut to 200 bytes."""
    extra = text.encode()[:_MAX_REASON].decode("utf-8", "ignore").encode()
    return struct.pack("!HHH", _EDE, 2 + len(extra), code) + extra


def error_response(query: bytes, rcode: int, ede: int = Ede.OTHER, reason: str = "") -> bytes:
    """Return an answer to any bytes at all: with the query's id, opcode, RD, CD and question, as
    far as they are there.

    Resolvers ignore an answer whose question is not theirs (RFC 1035 §4.1). The Extended DNS Error
    of ``ede`` and ``reason`` needs EDNS, and so answers a query with EDNS only.
    """
    if len(query) < _HEADER.size:
        identifier = int.from_bytes(query[:2].ljust(2, b"\0"))
        return _HEADER.pack(identifier, 0x80, rcode, 0, 0, 0, 0)
    identifier, flags, more, questions, *_ = _HEADER.unpack_from(query)
    # QR is set; opcode and RD stay; RA is set; CD stays
    flags = 0x80 | (flags & 0x79)
    end = question_end(query) if questions == 1 else None
    if end is None:
        return _HEADER.pack(identifier, flags, 0x80 | rcode, 0, 0, 0, 0)
    opt = _opt(query, end, ede, reason)
    header = _HEADER.pack(identifier, flags, 0x80 | (more & 0x10) | rcode, 1, 0, 0, bool(opt))
    return header + query[_HEADER.size : end] + opt


def servfail(query: bytes, reason: str = "", ede: int = Ede.OTHER) -> bytes:
    """Return SERVFAIL to a DNS query, with its id and its question; FORMERR to what is none."""
    if len(query) < _HEADER.size or query[4:6] != b"\0\1" or question_end(query) is None:
        return error_response(query, Rcode.FORMERR)
    return error_response(query, Rcode.SERVFAIL, ede, reason)


def no_query_now(query: bytes, dns: bool, most: int) -> bytes:
    """Return SERVFAIL of a session that lets no query through, or ``most`` at a time (``dns``)."""
    if not dns:
        return servfail(query, "the worker has no name server", Ede.NOT_READY)
    return servfail(query, f"{most} DNS queries of this session are in flight")


def question_end(query: bytes) -> int | None:
    """Return where the first question ends; None: it is cut short, too long or compressed."""
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


def _opt(query: bytes, end: int, ede: int, reason: str) -> bytes:
    """Return our OPT record with the reason, if the query has one.

    It is looked for where all clients put it, right behind the question: only a signature (TSIG,
    SIG(0)) comes behind it.
    """
    if query[6:10] != bytes(4) or query[10:12] == bytes(2) or not reason:
        return b""
    if query[end : end + 3] != b"\0\0\x29" or len(query) < end + 11:
        return b""
    flags = int.from_bytes(query[end + 7 : end + 9]) & 0x8000  # DO, RFC 3225 §3
    return opt_record(_PAYLOAD, flags, 0, ede_option(ede, reason))
