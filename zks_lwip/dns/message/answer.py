"""Answers: checked when they come from an upstream, kept without id and OPT, rendered per client.

:meth:`Answer.render` builds the very message that one client is to see: its id, its spelling of
the name (0x20), its EDNS, its limit of size.
"""

from __future__ import annotations

import struct

from .query import EDNS_SIZE, Query
from .wire import (
    AA,
    CD,
    DO,
    HEADER,
    MAX_MESSAGE,
    OPCODE,
    QR,
    RA,
    RD,
    TC,
    Ede,
    Layout,
    Rcode,
    Type,
    WireError,
    ede_option,
    filter_options,
    opt_record,
    soa_data,
    walk,
)

__all__ = ["Answer", "answer_from_upstream", "local_answer", "servfail"]

MAX_TTL = 86400
"""No answer is kept for longer than a day, whatever its TTL says (RFC 8767 §4)."""
MAX_NEGATIVE_TTL = 10800
"""No denial is kept for longer than three hours (RFC 2308 §5)."""

MAX_REWRITTEN = 4096
"""Bytes of an answer whose OPT record is not the last one: few servers do that, and writing 64 KiB
of records anew would hold everything up for a tenth of a second.
"""

_U32 = struct.Struct("!I")


class Answer:
    """An answer as it is kept: without id and OPT record, with the places of its TTLs.

    :param lifetime: seconds that it may be given from a cache; 0: not at all.
    """

    __slots__ = (
        "_age", "_extended", "_options", "_parts", "_tail", "_ttls", "_wire", "lifetime", "size",
    )  # fmt: skip

    def __init__(
        self,
        wire: bytes,
        question_end: int,
        ttls: tuple[tuple[int, int], ...],
        extended: int,
        options: bytes,
        lifetime: int,
    ) -> None:
        self._wire = wire
        self._ttls = ttls
        self._extended = extended
        self._options = options
        self.lifetime = lifetime
        additional = wire[10] << 8 | wire[11]
        # Header after the id, without and with one more additional record.
        self._parts = (wire[2:12], wire[2:10] + (additional + 1 & 0xFFFF).to_bytes(2, "big"))
        self._tail = wire[question_end:]
        self._age = 0
        self.size = 600 + 2 * len(wire) + len(options) + 130 * len(ttls)
        """Bytes that it holds, roughly."""

    @property
    def rcode(self) -> int:
        """The response code, with the upper bits of EDNS."""
        return self._extended << 4 | self._wire[3] & 0x0F

    def render(self, query: Query, *, limit: int = MAX_MESSAGE, age: int = 0) -> bytes:
        """Build the message for one client.

        :param limit: bytes at most (not less than 282); a longer answer becomes one with TC.
        :param age: seconds that the answer has been kept; the TTLs are lowered by it.
        """
        if age != self._age:
            self._grow_old(age)
        if not query.edns:
            if self._extended:
                return _empty(query, self._flags & ~0xF | Rcode.SERVFAIL)
            message = b"".join(
                (query.id.to_bytes(2, "big"), self._parts[0], query.question, self._tail)
            )
            return message if len(message) <= limit else _empty(query, self._flags | TC)
        opt = opt_record(EDNS_SIZE, DO if query.do else 0, self._extended, self._options)
        message = b"".join(
            (query.id.to_bytes(2, "big"), self._parts[1], query.question, self._tail, opt)
        )
        if len(message) <= limit:
            return message
        if limit == MAX_MESSAGE and len(message) - len(opt) <= limit:
            return b"".join(
                (query.id.to_bytes(2, "big"), self._parts[0], query.question, self._tail)
            )
        opt = opt_record(EDNS_SIZE, DO if query.do else 0, self._extended)
        return _empty(query, self._flags | TC, opt)

    def for_packet_cache(self, query: Query, *, limit: int) -> tuple[bytes, list[int]]:
        """Return the message as it is at age 0, without its id, and the offsets of its TTLs.

        :param limit: bytes of a message; a longer one is truncated, and has no TTLs.
        """
        self._grow_old(0)
        message = self.render(query, limit=limit)
        truncated = message[2] & TC >> 8
        return message[2:], [] if truncated else [offset - 2 for offset, _ in self._ttls]

    @property
    def _flags(self) -> int:
        return self._wire[2] << 8 | self._wire[3]

    def _grow_old(self, age: int) -> None:
        skipped = len(self._wire) - len(self._tail)
        tail = bytearray(self._tail)
        for offset, ttl in self._ttls:
            _U32.pack_into(tail, offset - skipped, max(0, ttl - age))
        self._tail = bytes(tail)
        self._age = age


def _empty(query: Query, flags: int, opt: bytes = b"") -> bytes:
    return HEADER.pack(query.id, flags, 1, 0, 0, 1 if opt else 0) + query.question + opt


def answer_from_upstream(message: bytes, query: Query) -> Answer:
    """Check what an upstream answered to ``query``.

    :raises WireError: it is not a well-formed response of id 0 to that very question.
    """
    if len(message) < 12:
        raise WireError("the answer is shorter than a header")
    ident, flags, questions, *counts = HEADER.unpack_from(message)
    if not flags & QR or flags & OPCODE:
        raise WireError("the answer is not a response to a query")
    if ident:
        raise WireError(f"the answer has id {ident}")
    if questions == 0 and counts[0] == counts[1] == 0:
        # Refusals sometimes come without the question; nothing can point into what is put in.
        message = message[:4] + b"\0\1" + message[6:12] + query.question + message[12:]
    layout = walk(message)
    end = layout.question_end
    if message[12 : end - 4].lower() != query.name or message[end - 4 : end] != query.question[-4:]:
        raise WireError("the answer is for another question")
    if layout.signed:
        raise WireError("the answer is signed with TSIG or SIG(0), which was not asked for")
    extended, options = 0, b""
    if layout.opt:
        extended = message[layout.opt + 5]
        options = filter_options(message[layout.opt + 11 : layout.opt_end])
        if layout.opt_end == len(message):
            additional = (counts[2] - 1).to_bytes(2, "big")
            message = message[:10] + additional + message[12 : layout.opt]
        else:
            message = _without_opt(message)
            layout = walk(message)
    negative, lifetime = _lifetime(message, flags, extended, layout, query)
    ttls = [(offset, ttl) for offset, ttl, _, _ in layout.ttls]
    if negative:
        for index, (offset, ttl, section, kind) in enumerate(layout.ttls):
            if kind == Type.SOA and section == 2:
                ttls[index] = offset, min(ttl, layout.soa_minimum or 0)
    return Answer(message, layout.question_end, tuple(ttls), extended, options, lifetime)


def _without_opt(message: bytes) -> bytes:
    """Take out an OPT record that is not the last one: later names may be pointed to, so all is
    written anew.
    """
    if len(message) > MAX_REWRITTEN:
        raise WireError(f"an OPT record that is not the last one, in {len(message)} bytes")
    import dns.exception  # here, as in query.py
    import dns.message

    try:
        parsed = dns.message.from_wire(message, keyring=False)
        parsed.use_edns(False)
        return parsed.to_wire(max_size=MAX_MESSAGE)
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        raise WireError(f"the answer cannot be read: {error}") from error


def _lifetime(
    message: bytes, flags: int, extended: int, layout: Layout, query: Query
) -> tuple[bool, int]:
    """Return whether an answer is a denial, and for how many seconds it may be kept.

    As RFC 2181 §8 and RFC 2308 §5 have it.
    """
    rcode = extended << 4 | flags & 0xF
    if not query.plain or flags & TC or rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return False, 0
    if query.klass in (254, 255) or 128 <= query.kind <= 254:
        return False, 0
    positive, lowest = False, MAX_TTL if layout.ttls else 0
    for _, ttl, section, kind in layout.ttls:
        lowest = min(lowest, ttl)
        if section == 1 and (kind == query.kind or query.kind == Type.ANY):
            positive = True
    if positive and rcode == Rcode.NOERROR:
        return False, lowest
    if layout.soa_minimum is None:
        return True, 0
    return True, min(lowest, layout.soa_minimum, MAX_NEGATIVE_TTL)


def local_answer(
    query: Query,
    records: list[tuple[int, bytes]] | tuple[()] = (),
    *,
    rcode: int = Rcode.NOERROR,
    ttl: int = 60,
    options: bytes = b"",
    denied_by: bytes = b"",
) -> Answer:
    """Build an answer.

    :param records: (type, RDATA without compressed names), owned by the name asked.
    :param ttl: seconds, of the records or of the denial.
    :param denied_by: the zone, in wire form, whose SOA record lets a denial be kept (RFC 2308).
    """
    flags = QR | AA | RA | (query.flags & (RD | CD)) | rcode
    wire = bytearray(HEADER.pack(0, flags, 1, len(records), 1 if denied_by else 0, 0))
    wire += query.question
    for kind, data in records:
        wire += struct.pack("!HHHIH", 0xC00C, kind, 1, ttl, len(data)) + data
    if denied_by:
        data = soa_data(denied_by, ttl)
        wire += denied_by + struct.pack("!HHIH", Type.SOA, 1, ttl, len(data)) + data
    return Answer(bytes(wire), 12 + len(query.question), (), 0, options, 0)


def servfail(query: Query, code: int = Ede.OTHER, text: str = "") -> Answer:
    """Build a SERVFAIL that says why (RFC 8914), to clients that speak EDNS."""
    wire = (
        HEADER.pack(0, QR | RA | (query.flags & (RD | CD)) | Rcode.SERVFAIL, 1, 0, 0, 0)
        + query.question
    )
    return Answer(wire, len(wire), (), 0, ede_option(code, text), 0)
