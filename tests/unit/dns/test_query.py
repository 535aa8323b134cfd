"""Queries read and answers rendered: golden messages, and dnspython as the second opinion."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from zks_lwip.dns.message.answer import Answer, answer_from_upstream, local_answer, servfail
from zks_lwip.dns.message.query import Query, Rejected, examine
from zks_lwip.dns.message.wire import WireError, reduce_ttls, walk

# dig +noedns www.example.com A: id 0x1234, RD.
PLAIN = bytes.fromhex(
    "1234 0100 0001 0000 0000 0000 03777777 076578616d706c65 03636f6d 00 0001 0001"
)


def query_of(message: bytes) -> Query:
    query = examine(message)
    assert isinstance(query, Query)
    return query


def rejection(message: bytes) -> Rejected:
    rejected = examine(message)
    assert isinstance(rejected, Rejected)
    return rejected


def make(
    name: str = "www.example.com", kind: str = "A", **arguments: object
) -> dns.message.Message:
    return dns.message.make_query(name, kind, **arguments)  # type: ignore[arg-type]


def response(
    query: Query, *records: str, authority: tuple[str, ...] = (), size: int = 1232
) -> dns.message.Message:
    made = dns.message.make_response(dns.message.from_wire(query.upstream(1232)))
    made.flags |= dns.flags.RA
    for section, texts in ((made.answer, records), (made.authority, authority)):
        for text in texts:
            name, ttl, kind, data = text.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made


def test_a_plain_query_is_read() -> None:
    query = query_of(PLAIN)
    assert (query.id, query.kind, query.klass) == (0x1234, 1, 1)
    assert query.name == b"\x03www\x07example\x03com\0"
    assert (query.edns, query.size, query.do, query.plain) == (False, 512, False, True)


def test_the_message_for_the_upstream_has_id_0_an_opt_record_and_padding() -> None:
    query = query_of(PLAIN)
    message = query.upstream(4096, 128)
    assert len(message) == 128
    assert message == bytes.fromhex(
        "0000 0100 0001 0000 0000 0001 03777777 076578616d706c65 03636f6d 00 0001 0001"
        "00 0029 1000 00000000 0054 000c 0050" + "00" * 80
    )
    for length in range(1, 60):
        name = "a" * length + ".example"
        assert len(query_of(make(name).to_wire()).upstream(4096, 128)) % 128 == 0


def test_the_types_that_look_like_letters_do_not_collide() -> None:
    """Type 65 (HTTPS) is the byte 'A': lower-casing the whole question would make it 97."""
    assert query_of(make(kind="HTTPS").to_wire()).key != query_of(make(kind="TYPE97").to_wire()).key


def test_spelling_and_id_do_not_matter_for_the_key_but_flags_do() -> None:
    keys = {
        query_of(make(name, use_edns=edns).to_wire()).key
        for name in ("WWW.example.com", "www.EXAMPLE.com")
        for edns in (False, 0)
    }
    assert len(keys) == 1
    variants = []
    for flags in ("RD", "", "RD CD", "RD AD"):
        for dnssec in (False, True):
            message = make(want_dnssec=dnssec)
            message.flags = dns.flags.from_text(flags)
            variants.append(query_of(message.to_wire()).key)
    assert len(set(variants)) == 8


def test_hop_by_hop_options_and_the_client_subnet_are_stripped() -> None:
    options = [
        dns.edns.ECSOption("198.51.100.0", 24),
        dns.edns.GenericOption(10, b"12345678"),
        dns.edns.GenericOption(12, bytes(30)),
        dns.edns.GenericOption(11, b""),
    ]
    query = query_of(make(use_edns=0, options=options, payload=4096).to_wire())
    assert (query.plain, query.options, query.size) == (True, b"", 4096)
    sent = dns.message.from_wire(query.upstream(1232))
    assert sent.options == ()
    # Another option goes on, and such a query has a key of its own.
    nsid = query_of(make(use_edns=0, options=[*options, dns.edns.GenericOption(3, b"")]).to_wire())
    assert not nsid.plain and nsid.key != query.key
    assert [option.otype for option in dns.message.from_wire(nsid.upstream(1232)).options] == [3]


def test_flags_and_do_go_to_the_upstream_untouched() -> None:
    message = make(want_dnssec=True)
    message.flags = dns.flags.from_text("CD AD")
    sent = dns.message.from_wire(query_of(message.to_wire()).upstream(1232))
    assert dns.flags.to_text(sent.flags) == "AD CD"
    assert sent.ednsflags & dns.flags.DO


@pytest.mark.parametrize(
    ("message", "reason", "reply"),
    [
        (b"", "short", None),
        (PLAIN[:11], "short", None),
        (PLAIN[:2] + b"\x81\x80" + PLAIN[4:], "response", None),
        (PLAIN[:12], "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:-1], "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN + b"\0", "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:5] + b"\0" + PLAIN[6:], "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:5] + b"\2" + PLAIN[6:], "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:12] + b"\xc0\x0c\0\1\0\1", "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:12] + b"\x40\0\1\0\1", "formerr", "1234 8101 0000 0000 0000 0000"),
        (PLAIN[:2] + b"\x29\0" + PLAIN[4:], "notimp", "1234 a904 0000 0000 0000 0000"),
        (
            PLAIN[:11] + b"\1" + PLAIN[12:] + b"\0\0\x29\x10\0\0\0",
            "formerr",
            "1234 8101" + "00" * 8,
        ),
    ],
)
def test_what_is_not_a_query(message: bytes, reason: str, reply: str | None) -> None:
    rejected = rejection(message)
    assert rejected.reason == reason
    assert rejected.reply == (None if reply is None else bytes.fromhex(reply))


def test_a_name_of_256_bytes_is_refused() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    head = PLAIN[:12]
    assert isinstance(examine(head + name + b"\0\1\0\1"), Query)
    long = (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0"
    assert rejection(head + long + b"\0\1\0\1").reason == "formerr"


def test_an_unknown_edns_version_is_answered_badvers() -> None:
    rejected = rejection(make(use_edns=1).to_wire())
    assert rejected.reply is not None
    told = dns.message.from_wire(rejected.reply)
    assert (told.rcode().name, told.edns) == ("BADVERS", 0)


def test_a_signed_query_is_refused_with_a_reason() -> None:
    message = make(use_edns=0)
    message.use_tsig({dns.name.from_text("key."): b"secret"})
    rejected = rejection(message.to_wire())
    assert rejected.reply is not None
    told = dns.message.from_wire(rejected.reply)
    assert told.rcode().name == "REFUSED" and told.options[0].code == 21
    assert told.question == message.question


def test_an_unusual_query_goes_through_dnspython_and_is_not_cached() -> None:
    message = make(kind="IXFR", use_edns=0, options=[dns.edns.ECSOption("198.51.100.0", 24)])
    message.authority.append(dns.rrset.from_text("example.com.", 0, "IN", "SOA", ". . 1 2 3 4 5"))
    query = query_of(message.to_wire())
    assert not query.plain
    sent = dns.message.from_wire(query.upstream(1232, 128))
    assert sent.authority == message.authority
    assert [option.otype for option in sent.options] == [12]
    huge = make()
    for number in range(2000):
        huge.additional.append(dns.rrset.from_text(f"n{number}.", 0, "IN", "A", "192.0.2.1"))
    assert rejection(huge.to_wire(max_size=65535)).reason == "formerr"


def test_an_answer_has_the_clients_id_spelling_and_edns() -> None:
    query = query_of(make("wWw.eXample.com").to_wire())
    upstream = response(query, "www.example.com. 300 A 192.0.2.1")
    answer = answer_from_upstream(upstream.to_wire(), query)
    seen = dns.message.from_wire(answer.render(query))
    assert seen.id == query.id and seen.edns == -1
    assert str(seen.question[0].name) == "wWw.eXample.com."
    assert str(seen.answer[0]) == "wWw.eXample.com. 300 IN A 192.0.2.1"
    with_edns = query_of(make(want_dnssec=True).to_wire())
    seen = dns.message.from_wire(answer.render(with_edns, age=299))
    assert (seen.edns, seen.payload, bool(seen.ednsflags & dns.flags.DO)) == (0, 1232, True)
    assert seen.answer[0].ttl == 1
    assert dns.message.from_wire(answer.render(with_edns, age=999)).answer[0].ttl == 0
    assert dns.message.from_wire(answer.render(with_edns, age=0)).answer[0].ttl == 300


def test_too_large_for_udp_is_truncated_and_whole_over_tcp() -> None:
    message = make(kind="TXT", use_edns=0, payload=1232)
    query = query_of(message.to_wire())
    upstream = response(query, f"www.example.com. 300 TXT {' '.join(['x' * 200] * 10)}")
    answer = answer_from_upstream(upstream.to_wire(max_size=65535), query)
    short = answer.render(query, limit=query.size)
    assert len(short) <= 1232
    seen = dns.message.from_wire(short)
    assert seen.flags & dns.flags.TC and not seen.answer and seen.edns == 0
    assert seen.question == message.question
    whole = dns.message.from_wire(answer.render(query))
    assert not whole.flags & dns.flags.TC and len(whole.answer[0][0].strings) == 10
    large = query_of(make(kind="TXT", use_edns=0, payload=4096).to_wire())
    assert not dns.message.from_wire(answer.render(large, limit=large.size)).flags & dns.flags.TC
    # A client that states less than 512 means 512.
    assert query_of(make(use_edns=0, payload=100).to_wire()).size == 512


def test_an_answer_of_65535_bytes_fits_over_tcp() -> None:
    query = query_of(make("example", "TXT", use_edns=0).to_wire())
    head = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + query.question + b"\xc0\x0c\0\x10\0\1\0\0\0\5"
    room = 65535 - len(head) - 2
    data = (
        (b"\xff" + b"x" * 255) * (room // 256) + bytes([room % 256 - 1]) + b"x" * (room % 256 - 1)
    )
    message = head + struct.pack("!H", room) + data
    assert len(message) == 65535
    answer = answer_from_upstream(message, query)
    rendered = answer.render(query)
    assert len(rendered) == 65535
    assert dns.message.from_wire(rendered).answer


def test_an_opt_record_that_is_not_the_last_one() -> None:
    query = query_of(make(use_edns=0).to_wire())
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\6\0\x0f\0\2\0\4"
    extra = b"\2ns" + b"\xc0\x10" + b"\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x35"
    more = (
        b"\xc0"
        + bytes([12 + len(query.question) + len(opt)])
        + b"\0\x1c\0\1\0\0\0\x3c\0\x10"
        + bytes(16)
    )
    message = b"\0\0\x81\x80\0\1\0\0\0\0\0\3" + query.question + opt + extra + more
    dns.message.from_wire(message)  # it is well formed
    seen = dns.message.from_wire(answer_from_upstream(message, query).render(query))
    assert {str(rrset.name) for rrset in seen.additional} == {"ns.example.com."}
    assert {rrset.rdtype for rrset in seen.additional} == {dns.rdatatype.A, dns.rdatatype.AAAA}
    assert seen.options[0].code == 4


def test_extended_errors_go_through_and_padding_does_not() -> None:
    query = query_of(make(use_edns=0).to_wire())
    upstream = response(query)
    upstream.set_rcode(dns.rcode.SERVFAIL)
    upstream.use_edns(
        0, 0, 1232, options=[dns.edns.EDEOption(6, "bogus"), dns.edns.GenericOption(12, bytes(99))]
    )
    seen = dns.message.from_wire(answer_from_upstream(upstream.to_wire(), query).render(query))
    assert [(option.code, option.text) for option in seen.options] == [(6, "bogus")]
    bare = query_of(make().to_wire())
    assert (
        dns.message.from_wire(answer_from_upstream(upstream.to_wire(), query).render(bare)).edns
        == -1
    )


def test_extended_rcodes_without_edns_become_servfail() -> None:
    query = query_of(make(use_edns=0).to_wire())
    upstream = response(query)
    upstream.set_rcode(dns.rcode.BADCOOKIE)
    answer = answer_from_upstream(upstream.to_wire(), query)
    assert answer.rcode == 23
    assert dns.message.from_wire(answer.render(query)).rcode() == dns.rcode.BADCOOKIE
    assert dns.message.from_wire(answer.render(query_of(PLAIN))).rcode() == dns.rcode.SERVFAIL


def test_a_refusal_without_a_question_gets_it_back() -> None:
    query = query_of(PLAIN)
    answer = answer_from_upstream(bytes.fromhex("0000 8185 0000 0000 0000 0000"), query)
    seen = dns.message.from_wire(answer.render(query))
    assert seen.rcode() == dns.rcode.REFUSED and str(seen.question[0].name) == "www.example.com."


def test_answers_that_do_not_answer_are_refused() -> None:
    query = query_of(PLAIN)
    good = response(query, "www.example.com. 300 A 192.0.2.1").to_wire()
    assert answer_from_upstream(good, query).lifetime == 300
    other = response(query_of(make("www.example.org").to_wire())).to_wire()
    loop = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + query.question
    cname = b"\xc0\x0c\0\5\0\1\0\0\0\5\0\2"
    for bad, words in (
        (good[:5], "shorter"),
        (b"\0\1" + good[2:], "id 1"),
        (good[:2] + b"\1\0" + good[4:], "not a response"),
        (other, "another question"),
        (good[:-1], "past the message"),
        (good + b"\0", "follow"),
        (loop + b"\xc0" + bytes([len(loop)]) + b"\0\1\0\1\0\0\0\5\0\4\1\2\3\4", "pointer"),
        (loop + cname + b"\xc0" + bytes([len(loop) + 12]), "pointer"),
        (good[:5] + b"\2" + good[6:], "2 questions"),
    ):
        with pytest.raises(WireError, match=words):
            answer_from_upstream(bad, query)


NEGATIVE = "example.com. 900 SOA ns.example.com. root.example.com. 1 3600 600 86400 120"


@pytest.mark.parametrize(
    ("records", "authority", "rcode", "lifetime"),
    [
        (["www.example.com. 300 A 192.0.2.1"], [], "NOERROR", 300),
        (["www.example.com. 300 CNAME a.test.", "a.test. 30 A 192.0.2.1"], [], "NOERROR", 30),
        (["www.example.com. 0 A 192.0.2.1"], [], "NOERROR", 0),
        (["www.example.com. 9999999 A 192.0.2.1"], [], "NOERROR", 86400),
        ([], [NEGATIVE], "NXDOMAIN", 120),
        ([], [NEGATIVE], "NOERROR", 120),
        (["www.example.com. 60 CNAME a.example.com."], [NEGATIVE], "NOERROR", 60),
        ([], [NEGATIVE.replace(" 120", " 999999").replace(" 900", " 999999")], "NXDOMAIN", 10800),
        ([], [], "NXDOMAIN", 0),
        ([], [], "NOERROR", 0),
        ([], ["example.com. 900 NS ns.example.com."], "NOERROR", 0),
        ([], [NEGATIVE], "SERVFAIL", 0),
        ([], [NEGATIVE], "REFUSED", 0),
    ],
)
def test_how_long_an_answer_is_kept(
    records: list[str], authority: list[str], rcode: str, lifetime: int
) -> None:
    query = query_of(PLAIN)
    upstream = response(query, *records, authority=tuple(authority))
    upstream.set_rcode(dns.rcode.from_text(rcode))
    assert answer_from_upstream(upstream.to_wire(), query).lifetime == lifetime


def test_a_denial_counts_down_from_the_lower_of_ttl_and_minimum() -> None:
    query = query_of(PLAIN)
    answer = answer_from_upstream(response(query, authority=(NEGATIVE,)).to_wire(), query)
    assert dns.message.from_wire(answer.render(query)).authority[0].ttl == 900
    assert dns.message.from_wire(answer.render(query, age=20)).authority[0].ttl == 100


def test_truncated_and_odd_answers_are_not_kept() -> None:
    query = query_of(PLAIN)
    upstream = response(query, "www.example.com. 300 A 192.0.2.1")
    upstream.flags |= dns.flags.TC
    assert answer_from_upstream(upstream.to_wire(), query).lifetime == 0
    high = response(query, "www.example.com. 300 A 192.0.2.1").to_wire()
    high = high.replace(struct.pack("!I", 300), b"\xff\0\0\0")
    assert answer_from_upstream(high, query).lifetime == 0


def test_servfail_says_why() -> None:
    query = query_of(make(use_edns=0).to_wire())
    seen = dns.message.from_wire(servfail(query, 23, "the tunnel is down").render(query))
    assert seen.rcode() == dns.rcode.SERVFAIL and seen.id == query.id
    assert (seen.options[0].code, seen.options[0].text) == (23, "the tunnel is down")
    bare = query_of(PLAIN)
    assert servfail(bare, 23, "x").render(bare) == PLAIN[:2] + b"\x81\x82" + PLAIN[4:]


def test_local_answers() -> None:
    query = query_of(PLAIN)
    answer = local_answer(query, [(1, bytes((192, 0, 2, 7)))], ttl=60)
    assert isinstance(answer, Answer) and answer.lifetime == 0
    seen = dns.message.from_wire(answer.render(query))
    assert str(seen.answer[0]) == "www.example.com. 60 IN A 192.0.2.7"


def test_ttls_are_reduced_by_the_age_of_an_http_answer() -> None:
    query = query_of(PLAIN)
    message = response(query, "www.example.com. 300 A 192.0.2.1", authority=(NEGATIVE,)).to_wire()
    seen = dns.message.from_wire(reduce_ttls(message, 310))
    assert (seen.answer[0].ttl, seen.authority[0].ttl) == (0, 590)
    assert walk(message).soa_minimum == 120


def test_pointers_to_pointers_are_bounded() -> None:
    """Each of thousands of owner names would be followed through thousands of pointers."""
    query = query_of(PLAIN)
    start = 12 + len(query.question)
    head = b"\0\0\x81\x80\0\1" + (4000).to_bytes(2, "big") + bytes(4) + query.question
    chain = bytearray(b"\0" + b"\0\x10\0\1\0\0\0\5" + (16_000).to_bytes(2, "big"))
    first = start + len(chain)
    chain += b"\xc0\x0c"
    while len(chain) < 11 + 16_000:
        target = start + len(chain) - 2
        chain += (0xC000 | target).to_bytes(2, "big")
    assert first < 16_384
    last = start + len(chain) - 2
    record = (0xC000 | last).to_bytes(2, "big") + b"\0\1\0\1\0\0\0\5\0\4\1\2\3\4"
    with pytest.raises(WireError, match="more than 127 compression pointers"):
        walk(head + bytes(chain) + record * 2999)
    # A name of as many labels as there can be, each behind a pointer of its own, is fine.
    message = bytearray(b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + b"\0\0\1\0\1")
    message += b"\0\0\x10\0\1\0\0\0\5" + (127 * 4).to_bytes(2, "big")
    target = 12
    for _ in range(126):
        here = len(message)
        message += b"\1a" + (0xC000 | target).to_bytes(2, "big")
        target = here
    message += bytes(4)
    owner = (0xC000 | target).to_bytes(2, "big")
    message[6:8] = b"\0\2"
    assert len(walk(bytes(message) + owner + record[2:]).ttls) == 2


def test_a_large_answer_with_an_odd_opt_record_is_refused() -> None:
    query = query_of(PLAIN)
    message = bytearray(b"\0\0\x81\x80\0\1\0\0\0\0" + (3001).to_bytes(2, "big") + query.question)
    message += b"\0\0\x29\x04\xd0" + bytes(6) + 3000 * (b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + bytes(4))
    with pytest.raises(WireError, match="OPT record"):
        answer_from_upstream(bytes(message), query)


def test_an_answer_of_thousands_of_records() -> None:
    query = query_of(PLAIN)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + bytes(4)
    message = b"\0\0\x81\x80\0\1" + (4000).to_bytes(2, "big") + bytes(4) + query.question
    answer = answer_from_upstream(message + 4000 * record, query)
    assert len(answer.render(query)) == len(message) + 4000 * 16
    assert answer.size > 4000 * 130  # what it takes of the cache's bytes
    assert answer.render(query, limit=1232)[2] & 2
