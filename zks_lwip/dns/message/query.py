"""A client's query: message in, :class:`Query` or a refusal out.

A plain query is read in a few microseconds. Whatever is not plain (records in the answer or
authority section, several additional ones, a compressed question) goes through dnspython, which
also decides what is FORMERR.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .wire import (
    AD,
    CD,
    DO,
    HEADER,
    MAX_MESSAGE,
    OPCODE,
    QR,
    RA,
    RD,
    Ede,
    Option,
    Rcode,
    ede_option,
    filter_options,
    name_end,
    opt_record,
)

__all__ = ["Query", "Rejected", "examine"]

EDNS_SIZE = 1232
"""Bytes: the UDP payload size stated to applications (that of DNS Flag Day 2020)."""

_OPTION = struct.Struct("!HH")  # code, length
_KEY_FLAGS = RD | AD | CD
MAX_UNUSUAL = 4096
"""Bytes of a query that dnspython reads: 64 KiB of records would take it a tenth of a second."""


@dataclass(slots=True)
class Query:
    """A query that is well formed."""

    id: int
    flags: int
    name: bytes
    """The name in wire form, in lower case."""
    kind: int
    """QTYPE."""
    klass: int
    """QCLASS."""
    question: bytes
    """The question as the client spelled it: name, type, class."""
    edns: bool
    size: int
    """The largest answer that the client takes over UDP: 512 or what its OPT record says."""
    do: bool
    options: bytes
    """EDNS options that go on (hop-by-hop ones and ECS removed)."""
    body: bytes
    """The message without its OPT record."""
    key: bytes
    """Queries with the same key are answered alike: name, type, class, RD, AD, CD, DO; for the
    unusual ones more.
    """
    plain: bool
    """May be answered from the cache."""

    @property
    def held(self) -> int:
        """Bytes of messages that it holds."""
        return len(self.question) + len(self.options) + len(self.body) + len(self.key)

    def upstream(self, size: int, padding: int = 0) -> bytes:
        """Build the message for an upstream: id 0, always an OPT record, no ECS.

        :param size: the UDP payload size to state, in bytes.
        :param padding: the length becomes a multiple of it (RFC 8467); 0: it is not padded.
        """
        options = self.options
        if padding:
            missing = -(len(self.body) + 11 + len(options) + 4) % padding
            options += _OPTION.pack(Option.PADDING, missing) + bytes(missing)
        body = self.body
        additional = body[10] << 8 | body[11]
        return b"".join(
            (
                b"\0\0",
                body[2:10],
                (additional + 1).to_bytes(2, "big"),
                body[12:],
                opt_record(size, DO if self.do else 0, 0, options),
            )
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is no query to be asked. ``reply`` is None where it is dropped."""

    reply: bytes | None
    reason: str
    """A counter's name: short, response, formerr, notimp, badvers, signed."""


_SHORT = Rejected(None, "short")
_RESPONSE = Rejected(None, "response")


def examine(message: bytes) -> Query | Rejected:
    """Read a query. Never raises, whatever the bytes."""
    size = len(message)
    if size < 12:
        return _SHORT
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & QR:
        # Never answer an answer: two that do would do it for ever.
        return _RESPONSE
    if flags & OPCODE:
        return Rejected(_bare(ident, flags, Rcode.NOTIMP), "notimp")
    if questions != 1:
        return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
    position = 12
    try:
        count = message[12]
        while count:
            if count > 63:
                return _examine_slowly(message)
            position += count + 1
            count = message[position]
    except IndexError:
        return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
    position += 1
    end = position + 4
    if end > size or position - 12 > 255:
        return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
    if answers or authorities or additionals > 1:
        return _examine_slowly(message)
    question = message[12:end]
    name = message[12:position].lower()
    kind = message[position] << 8 | message[position + 1]
    klass = message[position + 2] << 8 | message[position + 3]
    if not additionals:
        if end != size:
            return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
        key = b"%b%b%c" % (name, question[-4:], (flags & _KEY_FLAGS) >> 4)
        return Query(
            ident, flags, name, kind, klass, question, False, 512, False, b"", message, key, True
        )
    if message[end : end + 3] != b"\0\0\x29" or end + 11 > size:
        return _examine_slowly(message)
    payload, version, edns_flags, length = struct.unpack_from("!HxBHH", message, end + 3)
    if length or end + 11 != size:
        # EDNS options are checked by dnspython: most queries have none.
        return _examine_slowly(message)
    body = message[:10] + b"\0\0" + message[12:end]
    return _with_edns(
        ident, flags, name, kind, klass, question, payload, version, edns_flags, b"", body, True
    )


def _with_edns(
    ident: int,
    flags: int,
    name: bytes,
    kind: int,
    klass: int,
    question: bytes,
    payload: int,
    version: int,
    edns_flags: int,
    options: bytes,
    body: bytes,
    plain: bool,
) -> Query | Rejected:
    if version:
        reply = HEADER.pack(ident, QR | RA | (flags & (RD | CD)), 1, 0, 0, 1) + question
        return Rejected(reply + opt_record(EDNS_SIZE, 0, Rcode.BADVERS >> 4), "badvers")
    do = bool(edns_flags & DO)
    key = b"%b%b%c" % (name, question[-4:], (flags & _KEY_FLAGS) >> 4 | (8 if do else 0))
    if options or not plain:
        plain = False
        key += b"\0" + options + body[12:]
    size = max(512, payload)
    return Query(
        ident, flags, name, kind, klass, question, True, size, do, options, body, key, plain
    )


def _examine_slowly(message: bytes) -> Query | Rejected:
    """Let dnspython judge what is not a plain query."""
    ident, flags, _, answers, authorities, additionals = HEADER.unpack_from(message)
    if len(message) > MAX_UNUSUAL:
        return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
    import dns.exception  # here: it takes long to load, and hardly any program needs it
    import dns.message
    import dns.rdatatype

    try:
        parsed = dns.message.from_wire(message, keyring=False)
        version, edns_flags, payload = parsed.edns, parsed.ednsflags, int(parsed.payload)
        options = b"".join(
            struct.pack("!HH", option.otype, len(value)) + value
            for option in parsed.options
            if (value := option.to_wire()) is not None
        )
        signed = parsed.had_tsig or any(
            record.rdtype == dns.rdatatype.SIG for record in parsed.additional
        )
        parsed.use_edns(False)
        body = parsed.to_wire(max_size=MAX_MESSAGE) if not signed else message
        end = name_end(body, 12)
    except (dns.exception.DNSException, ValueError, struct.error):
        return Rejected(_bare(ident, flags, Rcode.FORMERR), "formerr")
    question = body[12 : end + 4]
    if signed:
        # A signature would not survive the new id, nor can the resolver that is really asked know
        # the key.
        extra = (
            opt_record(EDNS_SIZE, 0, 0, ede_option(Ede.NOT_SUPPORTED, "signed queries"))
            if version >= 0
            else b""
        )
        reply = HEADER.pack(
            ident, QR | RA | (flags & (RD | CD)) | Rcode.REFUSED, 1, 0, 0, 1 if extra else 0
        )
        return Rejected(reply + question + extra, "signed")
    name = question[:-4].lower()
    kind, klass = struct.unpack("!HH", question[-4:])
    if version >= 0:
        options = filter_options(options)
        plain = not answers and not authorities and additionals == 1
        return _with_edns(
            ident, flags, name, kind, klass, question, payload, version, edns_flags, options, body,
            plain,
        )  # fmt: skip
    key = b"%b%b%c\0%b" % (name, question[-4:], (flags & _KEY_FLAGS) >> 4, body[12:])
    return Query(
        ident, flags, name, kind, klass, question, False, 512, False, b"", body, key, False
    )


def _bare(ident: int, flags: int, rcode: int) -> bytes:
    """Return a header alone, for what could not be read far enough to repeat its question."""
    return HEADER.pack(ident, QR | (flags & (OPCODE | RD | CD)) | rcode, 0, 0, 0, 0)
