"""The codec of SOCKS5: bytes of RFC 1928 and RFC 1929, in any pieces."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kits.proxy import address, request
from zks_lwip.proxy.socks5 import (
    Credentials,
    Method,
    MethodsOffered,
    Reply,
    Request,
    Socks5,
    Socks5Error,
    decode_datagram,
    encode_header,
    encode_reply,
)

Event = MethodsOffered | Credentials | Request


def played(pieces: list[bytes], method: Method = Method.NONE) -> tuple[list[Event], bytes, bytes]:
    """What a server makes of these pieces: events, what it sends, and what is left."""
    socks, events, sent = Socks5(), [], b""
    for piece in pieces:
        socks.receive(piece)
        while (event := socks.next_event()) is not None:
            events.append(event)
            match event:
                case MethodsOffered():
                    sent += socks.choose(method)
                case Credentials():
                    sent += socks.verdict(event.password == b"right")
                case Request():
                    sent += encode_reply(Reply.SUCCEEDED)
    return events, sent, socks.rest


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def test_the_bytes_of_rfc_1928() -> None:
    data = bytes.fromhex("05 01 00  05 01 00 01 c0000201 01bb") + b"early"
    events, sent, rest = played([data])
    assert events == [MethodsOffered(b"\0"), Request(1, "192.0.2.1", 443)]
    assert sent == bytes.fromhex("05 00  05 00 00 01 00000000 0000")
    assert rest == b"early"


def test_the_bytes_of_rfc_1929() -> None:
    data = bytes.fromhex("05 02 00 02") + b"\x01\x02me\x05right" + request(3, "::", 0)
    events, sent, _ = played([data], Method.PASSWORD)
    assert events[1:] == [Credentials(b"me", b"right"), Request(3, "::", 0)]
    assert sent.startswith(bytes.fromhex("05 02  01 00"))
    wrong = bytes.fromhex("05 01 02") + b"\x01\x02me\x05wrong" + request(3, "::", 0)
    events, sent, _ = played([wrong], Method.PASSWORD)
    assert (sent, len(events)) == (bytes.fromhex("05 02  01 01"), 2), "over after a wrong password"


def test_a_password_is_not_shown() -> None:
    assert "right" not in repr(Credentials(b"me", b"right"))


def test_no_method_is_acceptable() -> None:
    events, sent, _ = played([b"\x05\x01\x01" + request(1, "192.0.2.1", 1)], Method.NOT_ACCEPTABLE)
    assert (events, sent) == ([MethodsOffered(b"\x01")], b"\x05\xff")


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    # (IPv4-mapped ones come as IPv4: see below)
    st.ip_addresses(v=6).filter(lambda each: each.ipv4_mapped is None).map(str),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(
        lambda text: not is_address(text)
    ),
)


def is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


@given(
    methods=st.binary(min_size=0, max_size=255),
    name=st.binary(min_size=0, max_size=255),
    command=st.integers(0, 255),
    host=hosts,
    port=st.integers(0, 65535),
    early=st.binary(max_size=50),
    places=st.lists(st.integers(0, 2000), max_size=30),
)
def test_any_split_gives_the_same(
    methods: bytes,
    name: bytes,
    command: int,
    host: str,
    port: int,
    early: bytes,
    places: list[int],
) -> None:
    data = bytes((5, len(methods))) + methods
    data += bytes((1, len(name))) + name + b"\x05right"
    data += request(command, host, port) + early
    events, _, rest = played(cut(data, places), Method.PASSWORD)
    assert events == [
        MethodsOffered(methods),
        Credentials(name, b"right"),
        Request(command, host, port),
    ]
    assert rest == early


@given(data=st.binary(max_size=600), places=st.lists(st.integers(0, 600), max_size=20))
def test_any_bytes_give_events_or_a_clear_error(data: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return played(pieces, Method.PASSWORD)
        except Socks5Error as error:
            return str(error), error.answer

    assert outcome([data]) == outcome(cut(data, places))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("04 01 00 50 7f000001 00", ""),
        ("05 01 00  04", "05 01 00 01 00000000 0000"),
        ("05 01 00  05 01 00 02 00", "05 08 00 01 00000000 0000"),
        ("05 01 00  05 01 00 03 00", "05 01 00 01 00000000 0000"),
        ("05 01 00  05 01 00 03 02 ff fe 00 50", "05 01 00 01 00000000 0000"),
    ],
    ids=["version", "version of the request", "address type", "empty name", "no UTF-8"],
)
def test_what_is_wrong_is_answered(data: str, answer: str) -> None:
    with pytest.raises(Socks5Error) as caught:
        played([bytes.fromhex(data)])
    assert caught.value.answer == bytes.fromhex(answer)


def test_a_wrong_version_of_the_password_is_answered() -> None:
    with pytest.raises(Socks5Error) as caught:
        played([b"\x05\x01\x02\x02"], Method.PASSWORD)
    assert caught.value.answer == b"\x01\x01"


def test_an_ipv4_mapped_address_is_ipv4() -> None:
    events, _, _ = played([b"\x05\x01\0" + request(1, "::ffff:192.0.2.1", 80)])
    assert events[1] == Request(1, "192.0.2.1", 80)


def test_replies() -> None:
    assert encode_reply(Reply.REFUSED) == bytes.fromhex("05 05 00 01 00000000 0000")
    assert encode_reply(Reply.SUCCEEDED, "2001:db8::1", 1) == (
        bytes.fromhex("05 00 00 04 20010db8 00000000 00000000 00000001 0001")
    )
    assert encode_reply(Reply.SUCCEEDED, "fe80::1%eth0", 1)[4:6] == b"\xfe\x80"


@given(host=hosts, port=st.integers(0, 65535), fragment=st.integers(0, 255), payload=st.binary())
def test_datagrams(host: str, port: int, fragment: int, payload: bytes) -> None:
    header = b"\0\0" + bytes((fragment,)) + address(host, port)
    read = decode_datagram(memoryview(header + payload))
    assert (read.fragment, read.host, read.port) == (fragment, host, port)
    assert bytes(read.payload) == payload
    for size in range(len(header)):
        with pytest.raises(Socks5Error):
            decode_datagram(memoryview(header[:size]))
    if is_address(host):
        assert encode_header(host, port) == b"\0\0\0" + address(host, port)


def test_a_header_is_that_of_rfc_1928() -> None:
    assert encode_header("192.0.2.1", 53) == bytes.fromhex("0000 00 01 c0000201") + struct.pack(
        "!H", 53
    )
