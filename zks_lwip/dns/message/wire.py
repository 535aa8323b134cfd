"""DNS messages as bytes: what the hot path needs, without building objects (RFC 1035, RFC 6891).

dnspython takes tens to hundreds of microseconds per message; a cached answer must take a few. So
the walk over a message and the few edits that are made to one (id, question, TTLs, OPT) are done
here, on the wire form. Everything here is strict: whatever does not walk cleanly to the last byte
raises :class:`WireError`, and what is merely unusual is left to dnspython by the caller.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ...net.names import InvalidName, to_ascii
from ...protocol.dns_refusal import Ede, Rcode, ede_option, opt_record

__all__ = [
    "HEADER",
    "MAX_MESSAGE",
    "MAX_NAME",
    "Ede",
    "Layout",
    "Option",
    "Rcode",
    "Type",
    "WireError",
    "ede_option",
    "encode_name",
    "filter_options",
    "name_end",
    "opt_record",
    "reduce_ttls",
    "soa_data",
    "walk",
]

HEADER = struct.Struct("!6H")
"""id, flags, and the four counts."""
MAX_MESSAGE = 65535
MAX_NAME = 255
_MAX_POINTERS = 127
"""Compression pointers in one name: it has no more labels, and a pointer to a pointer saves
nothing. 64 KiB of records that point to one long chain of pointers would take minutes to read.
"""

_RECORD = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")

QR = 0x8000
OPCODE = 0x7800
AA = 0x0400
TC = 0x0200
RD = 0x0100
RA = 0x0080
RCODE = 0x000F
AD = 0x0020
CD = 0x0010
DO = 0x8000  # in the OPT record's flags


class WireError(ValueError):
    """A message that is not well formed; the text says where."""


class Type(enum.IntEnum):
    """The record types that are treated specially (RFC 1035, 3596, 6891, 8945, 9460)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    AAAA = 28
    OPT = 41
    SVCB = 64
    HTTPS = 65
    TKEY = 249
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255


class Option(enum.IntEnum):
    """EDNS option codes that are treated specially."""

    ECS = 8  # client subnet, RFC 7871: tells the far end where the user is
    COOKIE = 10  # RFC 7873: between two hops only
    KEEPALIVE = 11  # RFC 7828: between two hops only
    PADDING = 12  # RFC 7830
    EDE = 15  # RFC 8914


# Options that hold between two hops only, or that say where the user is: never passed on, in
# either direction.
_HOP_BY_HOP = frozenset((Option.ECS, Option.COOKIE, Option.KEEPALIVE, Option.PADDING))

# RDATA that holds names which may be compressed: bytes before the first name, how many names.
_NAMES_IN_RDATA: dict[int, tuple[int, int]] = {
    2: (0, 1),
    3: (0, 1),
    4: (0, 1),
    5: (0, 1),
    6: (0, 2),
    7: (0, 1),
    8: (0, 1),
    9: (0, 1),
    12: (0, 1),
    14: (0, 2),
    15: (2, 1),
    17: (0, 2),
    18: (2, 1),
    21: (2, 1),
    26: (2, 2),
    33: (6, 1),
    36: (2, 1),
    39: (0, 1),
}

_NO_MAILBOX = b"\4none\7invalid\0"


def name_end(message: bytes, offset: int) -> int:
    """Return the offset just after the name at ``offset``, following compression pointers to their
    end.

    Every pointer must point below the name that holds it (so loops are impossible), and the whole
    name must be at most 255 bytes.

    :raises WireError: it is not so.
    """
    size = len(message)
    length = 1
    end = 0
    lowest = offset
    pointers = 0
    while True:
        if offset >= size:
            raise WireError(f"a name runs past the message at {offset}")
        count = message[offset]
        if count < 64:
            if count == 0:
                return end or offset + 1
            length += count + 1
            if length > MAX_NAME:
                raise WireError(f"a name of more than {MAX_NAME} bytes at {offset}")
            offset += count + 1
        elif count >= 192:
            if offset + 1 >= size:
                raise WireError(f"a name runs past the message at {offset}")
            target = (count & 0x3F) << 8 | message[offset + 1]
            if target >= lowest or target < 12:
                raise WireError(f"a compression pointer at {offset} points to {target}")
            pointers += 1
            if pointers > _MAX_POINTERS:
                raise WireError(f"more than {_MAX_POINTERS} compression pointers at {offset}")
            if not end:
                end = offset + 2
            offset = lowest = target
        else:
            raise WireError(f"a label type that does not exist at {offset}")


class Layout(NamedTuple):
    """Where things are in a response."""

    question_end: int
    """Offset just after the one question."""
    ttls: tuple[tuple[int, int, int, int], ...]
    """(offset of the TTL, TTL in seconds, section 1..3, type) of each record but OPT; a TTL over
    2^31-1 is 0.
    """
    opt: int
    """Offset of the OPT record, 0 if there is none."""
    opt_end: int
    """Offset just after it."""
    soa_minimum: int | None
    """MINIMUM of the first SOA record of the authority section."""
    signed: bool
    """A TSIG or SIG(0) record is there: nothing may be changed."""


def walk(message: bytes) -> Layout:
    """Walk over every record of a response that has one question.

    Checked: all lengths, all owner names, the names inside the RDATA of the types that may
    compress them, one OPT at most and that in the additional section, nothing left over.

    :raises WireError: it is not so.
    """
    size = len(message)
    if size < 12:
        raise WireError("shorter than a header")
    _, _, questions, *sections = HEADER.unpack_from(message)
    if questions != 1:
        raise WireError(f"{questions} questions")
    position = question_end = name_end(message, 12) + 4
    if position > size:
        raise WireError("the question runs past the message")
    ttls: list[tuple[int, int, int, int]] = []
    opt = opt_end = 0
    minimum: int | None = None
    signed = False
    for section, count in enumerate(sections, 1):
        for _ in range(count):
            start = position
            # The commonest owner by far is a pointer to the question's name.
            if message[position : position + 2] == b"\xc0\x0c":
                position += 2
            else:
                position = name_end(message, position)
            if position + 10 > size:
                raise WireError(f"a record runs past the message at {start}")
            kind, _, ttl, length = _RECORD.unpack_from(message, position)
            data = position + 10
            end = data + length
            if end > size:
                raise WireError(f"a record runs past the message at {start}")
            if kind == Type.OPT:
                if opt or section != 3 or data != start + 11:
                    raise WireError(f"an OPT record is not allowed at {start}")
                opt, opt_end = start, end
                split_options(message[data:end])
            else:
                names = _NAMES_IN_RDATA.get(kind)
                if names is not None and length:
                    inner = data + names[0]
                    for _ in range(names[1]):
                        inner = name_end(message, inner)
                    if inner > end:
                        raise WireError(f"a name runs past its record at {start}")
                    if kind == Type.SOA and section == 2 and minimum is None:
                        if inner + 20 != end:
                            raise WireError(f"an SOA record of a wrong length at {start}")
                        (minimum,) = _U32.unpack_from(message, inner + 16)
                elif kind == Type.TSIG or (kind == 24 and section == 3):
                    signed = True
                ttls.append((position + 4, ttl if ttl < 0x80000000 else 0, section, kind))
            position = end
    if position != size:
        raise WireError(f"{size - position} bytes follow the last record")
    return Layout(question_end, tuple(ttls), opt, opt_end, minimum, signed)


def split_options(data: bytes) -> list[tuple[int, bytes]]:
    """Return (code, value) of each option in the RDATA of an OPT record.

    :raises WireError: an option is cut short.
    """
    options = []
    position, size = 0, len(data)
    while position < size:
        if position + 4 > size:
            raise WireError("an EDNS option is cut short")
        code, length = struct.unpack_from("!HH", data, position)
        position += 4
        if position + length > size:
            raise WireError("an EDNS option runs past its record")
        options.append((code, data[position : position + length]))
        position += length
    return options


def filter_options(data: bytes) -> bytes:
    """Return the RDATA of an OPT record without what must not go on: ECS, cookies, keepalive,
    padding.
    """
    if not data:
        return data
    return b"".join(
        struct.pack("!HH", code, len(value)) + value
        for code, value in split_options(data)
        if code not in _HOP_BY_HOP
    )


def encode_name(name: str) -> bytes:
    """Return ``name`` ("www.example.com", a trailing dot is allowed) in wire form, in lower case.

    Names that are not ASCII go through IDNA.

    :raises WireError: it cannot be a name.
    """
    try:
        text = to_ascii(name).rstrip(".")
    except InvalidName as error:
        raise WireError(f"{name!r} cannot be a DNS name: {error}") from None
    wire = bytearray()
    for label in text.split(".") if text else ():
        if not 0 < len(label) < 64:
            raise WireError(f"{name!r} cannot be a DNS name: a label must have 1 to 63 characters")
        wire.append(len(label))
        wire += label.encode("ascii").lower()
    wire.append(0)
    if len(wire) > MAX_NAME:
        raise WireError(f"{name!r} cannot be a DNS name: more than {MAX_NAME} bytes")
    return bytes(wire)


def soa_data(zone: bytes, minimum: int) -> bytes:
    """Build the RDATA of an SOA record, as RFC 6303 §3 has it.

    :param zone: in wire form.
    :param minimum: seconds that a denial may be kept.
    """
    return zone + _NO_MAILBOX + struct.pack("!5I", 1, 3600, 1200, 604800, minimum)


def reduce_ttls(message: bytes, seconds: int) -> bytes:
    """Return ``message`` with every TTL lowered by ``seconds`` (the Age of RFC 8484 §5.1).

    :raises WireError: it is malformed.
    """
    layout = walk(message)
    if layout.signed:
        return message
    changed = bytearray(message)
    for offset, ttl, _, _ in layout.ttls:
        _U32.pack_into(changed, offset, max(0, ttl - seconds))
    return bytes(changed)
