"""DNS under arbitrary bytes: nothing crashes, nothing is invented, and dnspython agrees."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import h2.config
import h2.connection
import h2.settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zks_lwip.dns.cache import Cache
from zks_lwip.dns.message.answer import Answer, answer_from_upstream
from zks_lwip.dns.message.framing import Deframer, frame
from zks_lwip.dns.message.query import Query, Rejected, examine
from zks_lwip.dns.message.wire import WireError, walk
from zks_lwip.dns.upstream.doh_session import AnswerReceived, DohSession, QueryFailed
from zks_lwip.dns.upstream.parse import parse_forward, parse_server
from zks_lwip.errors import ConfigError

labels = st.binary(min_size=1, max_size=12)
names = st.lists(labels, max_size=5).map(lambda parts: dns.name.Name((*parts, b"")))
kinds = st.sampled_from(["A", "AAAA", "HTTPS", "TXT", "ANY", "DS", "TYPE65280", "SOA"])
options = st.lists(
    st.tuples(st.sampled_from([3, 10, 11, 12, 65001]), st.binary(min_size=8, max_size=8)),
    max_size=3,
)


@st.composite
def queries(draw: st.DrawFn) -> dns.message.Message:
    message = dns.message.make_query(draw(names), draw(kinds))
    message.id = draw(st.integers(0, 65535))
    message.flags = dns.flags.Flag(draw(st.sampled_from([0, 0x100, 0x110, 0x120, 0x130])))
    if draw(st.booleans()):
        message.use_edns(
            0,
            draw(st.sampled_from([0, 0x8000])),
            draw(st.integers(0, 65535)),
            options=[dns.edns.GenericOption(code, data) for code, data in draw(options)],
        )
    return message


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Query, dns.message.Message, bytes]:
    """A query, and what an upstream answers to it."""
    query = examine(draw(queries()).to_wire())
    assert isinstance(query, Query)
    made = dns.message.make_response(dns.message.from_wire(query.upstream(1232)))
    owner = made.question[0].name
    for section in (made.answer, made.authority, made.additional):
        for number in range(draw(st.integers(0, 3))):
            name = draw(st.sampled_from([owner, dns.name.from_text(f"n{number}.example")]))
            ttl = draw(st.integers(0, 100_000))
            kind, text = draw(
                st.sampled_from(
                    [
                        ("A", "192.0.2.1"),
                        ("CNAME", "a.b.example."),
                        ("TXT", '"some text"'),
                        ("SOA", "ns.example. root.example. 1 2 3 4 77"),
                        ("MX", "10 mail.example."),
                        ("TYPE65280", r"\# 4 00000000"),
                    ]
                )
            )
            section.append(dns.rrset.from_text(name, ttl, "IN", kind, text))
    return query, made, made.to_wire(max_size=65535)


def sections(message: dns.message.Message) -> list[set[str]]:
    return [
        {rrset.to_text() for rrset in section}
        for section in (message.answer, message.authority, message.additional)
    ]


def without_ttls(message: dns.message.Message) -> list[set[tuple[str, ...]]]:
    return [
        {
            (str(rrset.name).lower(), str(rrset.rdtype), str(item))
            for rrset in section
            for item in rrset
        }
        for section in (message.answer, message.authority, message.additional)
    ]


@settings(max_examples=400)
@given(st.binary(max_size=120))
@example(bytes(12))
@example(b"\0\0\1\0\0\1\0\0\0\0\0\1\0\0\1\0\1\0\0\x29\x04\xd0\0\0\0\0\0\4\0\x0a\0\0")
@example(b"\0\0\1\0\0\1\0\0\0\0\0\1\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\0\0\0")
def test_any_bytes_are_a_query_or_refused(data: bytes) -> None:
    found = examine(data)
    if isinstance(found, Rejected):
        assert found.reply is None or found.reply[:2] == data[:2] and found.reply[2] & 0x80
        return
    ours = dns.message.from_wire(found.upstream(1232, 128))
    theirs = dns.message.from_wire(data, keyring=False)
    assert ours.question == theirs.question and ours.id == 0
    assert found.question[:-4].lower() == found.name


@settings(max_examples=300)
@given(st.data())
def test_broken_queries_are_refused_where_dnspython_refuses_them(data: st.DataObject) -> None:
    wire = bytearray(data.draw(queries()).to_wire())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(4, len(wire) - 1))] = data.draw(st.integers(0, 255))
    found = examine(bytes(wire))
    try:
        dns.message.from_wire(bytes(wire), keyring=False)
    except (dns.exception.DNSException, ValueError):
        assert isinstance(found, Rejected)


@settings(max_examples=200)
@given(queries())
def test_what_goes_on_is_what_was_asked(message: dns.message.Message) -> None:
    found = examine(message.to_wire())
    assert isinstance(found, Query)
    sent = dns.message.from_wire(found.upstream(4096, 128))
    assert sent.question == message.question and sent.flags == message.flags
    assert sent.ednsflags == max(message.ednsflags, 0) & 0x8000
    assert len(found.upstream(4096, 128)) % 128 == 0
    kept = [option.otype for option in message.options if option.otype not in (8, 10, 11, 12)]
    assert [option.otype for option in sent.options] == [*kept, 12]


@settings(max_examples=300)
@given(exchanges(), st.integers(0, 200_000))
def test_an_answer_equals_the_upstreams_but_for_id_and_ttl(
    exchange: tuple[Query, dns.message.Message, bytes], age: int
) -> None:
    query, made, wire = exchange
    answer = answer_from_upstream(wire, query)
    fresh = dns.message.from_wire(answer.render(query))
    reference = dns.message.from_wire(wire)
    assert fresh.id == query.id and fresh.flags == reference.flags
    assert fresh.question == reference.question and sections(fresh) == sections(reference)
    old = dns.message.from_wire(answer.render(query, age=age))
    assert without_ttls(old) == without_ttls(reference)
    for section in (old.answer, old.authority, old.additional):
        assert all(rrset.ttl <= max(0, 100_000 - age) for rrset in section)
    short = answer.render(query, limit=query.size, age=age)
    assert len(short) <= query.size
    assert dns.message.from_wire(short).question == reference.question
    if answer.lifetime:
        lowest = min(r.ttl for s in (made.answer, made.authority, made.additional) for r in s)
        assert answer.lifetime <= lowest


@settings(max_examples=300)
@given(st.data())
def test_broken_answers_are_refused_or_well_formed(data: st.DataObject) -> None:
    query, _, wire = data.draw(exchanges())
    broken = bytearray(wire)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        answer = answer_from_upstream(
            bytes(broken[: data.draw(st.integers(0, len(broken)))]), query
        )
        rendered = answer.render(query, limit=query.size, age=5)
        walk(rendered)


@given(st.lists(st.binary(max_size=300)), st.data())
def test_framing_survives_any_split(messages: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(frame(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    deframer = Deframer()
    got: list[bytes] = []
    for start, end in itertools.pairwise([0, *cuts, len(wire)]):
        got += deframer.feed(wire[start:end])
    assert got == messages and not deframer.partial


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 40), st.sampled_from(["get", "put", "flush"])),
        max_size=80,
    )
)
def test_the_cache_agrees_with_a_simple_model(steps: list[tuple[int, int, str]]) -> None:
    now = 0.0
    cache = Cache(8, clock=lambda: now)
    model: dict[bytes, tuple[Answer, float]] = {}
    for number, seconds, what in steps:
        now += seconds
        wire = dns.message.make_query(f"n{number}.example", "A").to_wire()
        query = examine(wire)
        assert isinstance(query, Query)
        if what == "put":
            made = dns.message.make_response(dns.message.from_wire(query.upstream(1232)))
            name = made.question[0].name
            made.answer.append(dns.rrset.from_text(name, 10 + number, "IN", "A", "192.0.2.1"))
            answer = answer_from_upstream(made.to_wire(), query)
            cache.put(query, answer)
            model[query.key] = (answer, now)
        elif what == "flush":
            cache.flush()
            model.clear()
        else:
            hit = cache.get(query)
            expected = model.get(query.key)
            if hit is not None:
                assert expected is not None and hit == (expected[0], now - expected[1])
                assert hit[1] < 10 + number
        assert len(cache) <= 8 and (cache.bytes > 0) == (len(cache) > 0)


def served(count: int) -> tuple[DohSession, h2.connection.H2Connection]:
    session = DohSession("dns.test", "/dns-query")
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    for token in range(count):
        session.ask(token, b"x" * 128)
    server.receive_data(session.data_to_send())
    return session, server


@settings(max_examples=150)
@given(st.data())
def test_a_hostile_http2_server_ends_each_query_once(data: st.DataObject) -> None:
    session, server = served(8)
    for number in data.draw(st.lists(st.sampled_from(range(1, 16, 2)), unique=True, max_size=8)):
        kind = data.draw(st.sampled_from(["application/dns-message", "text/html"]))
        server.send_headers(number, [(":status", "200"), ("content-type", kind)])
        server.send_data(number, data.draw(st.binary(max_size=50)), end_stream=True)
    if data.draw(st.booleans()):
        server.close_connection(last_stream_id=data.draw(st.integers(0, 20)))
    wire = bytearray(server.data_to_send())
    for _ in range(data.draw(st.integers(0, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    events: list[AnswerReceived | QueryFailed] = []
    step = data.draw(st.integers(1, 60))
    for start in range(0, len(wire), step):
        events += session.receive(bytes(wire[start : start + step]))
    session.data_to_send()
    events += session.fail("the end")
    assert sorted(event.token for event in events) == list(range(8))
    assert session.in_flight == 0


@given(st.binary(max_size=200))
def test_garbage_instead_of_http2(data: bytes) -> None:
    session, _ = served(3)
    events = session.receive(data) + session.fail("the end")
    assert sorted(event.token for event in events) == [0, 1, 2]


@settings(max_examples=200)
@given(st.text(max_size=40), st.sampled_from(["", "https://", "tls://", "https://a.b/c@"]))
def test_arguments_are_read_or_refused_with_a_reason(text: str, prefix: str) -> None:
    for parse in (parse_server, parse_forward):
        with contextlib.suppress(ConfigError):
            parse(prefix + text)


@settings(max_examples=150)
@given(st.data())
def test_it_does_not_matter_how_an_answer_is_cut(data: st.DataObject) -> None:
    """In one piece, or in pieces of any size: with the same result."""
    server = served(6)[1]
    later: list[Callable[[], None]] = []
    for number in data.draw(st.permutations(range(1, 12, 2))):
        kind = data.draw(st.sampled_from(["application/dns-message", "text/html"]))
        headers = [(":status", data.draw(st.sampled_from(["200", "404"]))), ("content-type", kind)]
        headers += data.draw(st.lists(st.sampled_from([("age", "5"), ("server", "s")]), max_size=2))
        body = data.draw(st.binary(max_size=30))
        if data.draw(st.booleans()):
            headers.append(("content-length", str(len(body))))
        if data.draw(st.booleans()):
            server.send_headers(number, [(":status", "103"), ("link", "x")])
        server.send_headers(number, headers)
        cut = data.draw(st.integers(0, len(body)))
        padding = data.draw(st.sampled_from([None, 3]))
        how = data.draw(st.sampled_from(["data", "trailers", "reset"]))

        def finish(number: int = number, body: bytes = body, cut: int = cut, how: str = how,
                   padding: int | None = padding) -> None:  # fmt: skip
            if cut:
                server.send_data(number, body[:cut], pad_length=padding)
            if how == "data":
                server.send_data(number, body[cut:], end_stream=True, pad_length=padding)
            elif how == "trailers" and cut == len(body):
                server.send_headers(number, [("x", "y")], end_stream=True)
            else:
                server.reset_stream(number)

        if data.draw(st.booleans()):
            later.append(finish)
        else:
            finish()
    for finish in data.draw(st.permutations(later)):
        finish()
    wire = server.data_to_send()
    whole, split = served(6)[0], served(6)[0]
    events = whole.receive(wire)
    assert not whole.dead and len(events) == 6
    step = data.draw(st.integers(1, 40))
    parts = [wire[start : start + step] for start in range(0, len(wire), step)]
    expected = [event for part in parts for event in split.receive(part)]
    # (That an answer is of no use is said after its headers, or when it is whole.)
    assert sorted(map(repr, events)) == sorted(map(repr, expected))
