"""Answers to DNS queries that nobody answers, with the reason (PROTOCOL.md §5, RFC 8914)."""

from __future__ import annotations

import struct

__all__ = [
    "FORMERR",
    "NO_REACHABLE_AUTHORITY",
    "NOT_READY",
    "NOT_SUPPORTED",
    "NOTIMP",
    "OTHER",
    "PROHIBITED",
    "REFUSED",
    "SERVFAIL",
    "error_response",
    "no_query_now",
    "question_end",
    "servfail",
]

_HEADER = struct.Struct(">HBBHHHH")
FORMERR, SERVFAIL, NOTIMP, REFUSED = 1, 2, 4, 5

#: Extended DNS errors, RFC 8914 §4
OTHER, NOT_READY, PROHIBITED, NOT_SUPPORTED, NO_REACHABLE_AUTHORITY = 0, 14, 18, 21, 22

_OPT = 41  # RFC 6891
_EDE = 15  # RFC 8914
_PAYLOAD = 1232  # bytes of UDP that we say to take, DNS Flag Day 2020
_MAX_REASON = 200  # bytes; a resolver on the way may cut what is longer


def error_response(query: bytes, rcode: int, ede: int = OTHER, reason: str = "") -> bytes:
    """An answer to any bytes at all: the query's id, opcode, RD, CD and question, as far as there.

    Resolvers ignore an answer whose question is not theirs (RFC 1035 §4.1). ``ede`` and ``reason``
    are the Extended DNS Error; it needs EDNS, and so goes to who asked with EDNS only.
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


def servfail(query: bytes, reason: str = "", ede: int = OTHER) -> bytes:
    """SERVFAIL for a DNS query, with its id and its question; FORMERR for what is not one."""
    if len(query) < _HEADER.size or query[4:6] != b"\0\1" or question_end(query) is None:
        return error_response(query, FORMERR)
    return error_response(query, SERVFAIL, ede, reason)


def no_query_now(query: bytes, dns: bool, most: int) -> bytes:
    """SERVFAIL of a session that lets no (``dns`` is false) or at most ``most`` queries through."""
    if not dns:
        return servfail(query, "the worker has no name server", NOT_READY)
    return servfail(query, f"{most} DNS queries of this session are in flight")


def question_end(query: bytes) -> int | None:
    """Where the first question ends; None: it is cut short, too long or compressed."""
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
    """Our OPT record with the reason, if the query has one.

    It is looked for where all clients put it, right behind the question: only a signature (TSIG,
    SIG(0)) comes behind it.
    """
    if query[6:10] != bytes(4) or query[10:12] == bytes(2) or not reason:
        return b""
    if query[end : end + 3] != b"\0\0\x29" or len(query) < end + 11:
        return b""
    flags = int.from_bytes(query[end + 7 : end + 9]) & 0x8000  # DO, RFC 3225 §3
    text = reason.encode()[:_MAX_REASON].decode("utf-8", "ignore").encode()
    option = struct.pack(">HHH", _EDE, 2 + len(text), ede) + text
    return struct.pack(">BHHBBHH", 0, _OPT, _PAYLOAD, 0, 0, flags, len(option)) + option
