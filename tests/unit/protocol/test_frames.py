"""Golden bytes of every frame of PROTOCOL.md, and what a reader must refuse."""

from __future__ import annotations

import dataclasses
import json
import struct

import pytest

from zks_lwip import protocol as frames
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Ack,
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    Error,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
    parse,
    parse_v1,
)

DNS = bytes.fromhex("1234010000010000000000000161000001 0001".replace(" ", ""))

GOLDEN: list[tuple[Frame, str]] = [
    (Connect(1, "example.com", 443), "01 00000001 01bb 000b 6578616d706c652e636f6d"),
    (Connect(0xFFFFFFFF, "2001:db8::1", 65535), "01 ffffffff ffff 000b 323030313a6462383a3a31"),
    (Connect(2, "bücher.example", 80), "01 00000002 0050 000f 62c3bc636865722e6578616d706c65"),
    (Data(1, b"GET /"), "02 00000001 00000005 474554202f"),
    (Data(7, b""), "02 00000007 00000000"),
    (Close(0x01020304), "03 01020304"),
    (Error(5, 111, "refused"), "04 00000005 006f 0007 72656675736564"),
    (Error(5, 503, ""), "04 00000005 01f7 0000"),
    (Ping(), "05"),
    (Pong(), "06"),
    (Udp(9, "192.0.2.1", 53, b"\0\xff"), "07 00000009 0035 0009 3139322e302e322e31 00000002 00ff"),
    (Udp(9, "::1", 1, b""), "07 00000009 0001 0003 3a3a31 00000000"),
    (DnsQuery(3, DNS), "08 00000003 00000013 12340100000100000000000001610000010001"),
    (DnsResponse(3, b"\x12\x34"), "09 00000003 00000002 1234"),
    (Connected(1), "0a 00000001"),
    (
        Hello(),
        "40 00000000 00000043"
        + b'{"version":2,"window":65536,"max_data":65535,"max_message":1048576}'.hex(),
    ),
    (
        Hello(resume=30, ack=1 << 20),
        "40 00000000 0000005d"
        + (
            b'{"version":2,"window":65536,"max_data":65535,"max_message":1048576,'
            b'"resume":30,"ack":1048576}'
        ).hex(),
    ),
    (
        Hello(window=1 << 20, session="a1", received=7, streams=5, udp=True, resume=30),
        "40 00000000 00000084"
        + (
            b'{"version":2,"window":1048576,"max_data":65535,"max_message":1048576,'
            b'"session":"a1","received":7,"streams":5,"udp":true,"resume":30}'
        ).hex(),
    ),
    (Eof(2), "41 00000002 00000000"),
    (Window(2, 65536), "42 00000002 00000004 00010000"),
    (Window(2, 0), "42 00000002 00000004 00000000"),
    (Ack(2**40 + 5), "43 00000000 00000008 0000010000000005"),
    (UdpClose(9), "44 00000009 00000000"),
    (Echo(4, "192.0.2.1", b"ping"), "45 00000004 0000000f 0009 3139322e302e322e31 70696e67"),
    (EchoReply(4, b"ping"), "46 00000004 00000004 70696e67"),
    (GoAway(1001, "bye"), "47 00000000 00000005 03e9 627965"),
    (GoAway(1001, ""), "47 00000000 00000002 03e9"),
    (UdpError(9, 111, "192.0.2.1", 53), "48 00000009 0000000f 006f 0035 0009 3139322e302e322e31"),
    (Unknown(0x49, 8, b"x"), "49 00000008 00000001 78"),
    (Unknown(0x60, 0, b""), "60 00000000 00000000"),
    (Unknown(0x7F, 1, b"ab"), "7f 00000001 00000002 6162"),
]


@pytest.mark.parametrize(("frame", "text"), GOLDEN, ids=lambda value: str(value)[:30])
def test_golden(frame: Frame, text: str) -> None:
    golden = bytes.fromhex(text.replace(" ", ""))
    assert frame.encode() == golden
    assert parse(golden) == [frame]
    assert parse(bytearray(golden)) == [frame]
    assert parse(memoryview(golden)) == [frame]


def test_every_frame_has_golden_bytes() -> None:
    kinds = {type(frame) for frame, _ in GOLDEN}
    assert kinds == set(frames.Frame.__args__)
    assert {frame.command for frame, _ in GOLDEN} >= {*range(0x01, 0x0B), *range(0x40, 0x49)}


def test_counted_frames_are_those_of_section_6() -> None:
    counted = {type(frame) for frame, _ in GOLDEN if frame.counted}
    assert counted == {Connect, Connected, Data, Eof, Close, Error, Window, Unknown}
    assert not Unknown(0x5F, 0, b"").counted
    assert Unknown(0x60, 0, b"").counted


def test_many_frames_share_a_message() -> None:
    message = b"".join(frame.encode() for frame, _ in GOLDEN)
    assert parse(message) == [frame for frame, _ in GOLDEN]


@pytest.mark.parametrize(("frame", "text"), GOLDEN, ids=lambda value: str(value)[:30])
def test_cut_short_anywhere(frame: Frame, text: str) -> None:
    golden = bytes.fromhex(text.replace(" ", ""))
    for size in range(len(golden)):
        with pytest.raises(ProtocolError):
            parse(golden[:size])
    name = {Eof: "EOF", GoAway: "GOAWAY", Data: "DATA", Udp: "UDP"}.get(type(frame))
    if name is not None:
        with pytest.raises(ProtocolError, match=f"^{name}: it runs past the end"):
            parse(golden[:-1] if len(golden) > 9 else golden[:8])


def test_payloads_are_views_into_the_message() -> None:
    message = bytearray(Data(1, b"abc").encode() + Udp(1, "192.0.2.1", 1, b"def").encode())
    data, udp = parse(message)
    message[9] = ord("x")
    message[-1] = ord("y")
    assert isinstance(data, Data) and bytes(data.payload) == b"xbc"
    assert isinstance(udp, Udp) and bytes(udp.payload) == b"dey"


def test_frames_are_frozen_and_slotted() -> None:
    for frame, _ in GOLDEN:
        assert not hasattr(frame, "__dict__")
        for field in dataclasses.fields(frame):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(frame, field.name, 1)


@pytest.mark.parametrize("command", [0x00, 0x0B, 0x20, 0x3F, 0x80, 0xC0, 0xFF])
def test_unknown_commands_outside_the_skippable_range(command: int) -> None:
    message = bytes([command]) + struct.pack(">II", 1, 0)
    with pytest.raises(ProtocolError, match=f"command 0x{command:02x} is unknown"):
        parse(message)


def test_error_carries_status_1002() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(b"\x00")
    assert caught.value.status == 1002


def test_empty_message() -> None:
    with pytest.raises(ProtocolError, match="no frame"):
        parse(b"")


BAD = [
    ("EOF", "41 00000001 00000001 00", "length is 1, not 0"),
    ("WINDOW", "42 00000001 00000003 000001", "length is 3, not 4"),
    ("WINDOW", "42 00000001 00000005 0000000100", "length is 5, not 4"),
    ("ACK", "43 00000000 00000004 00000001", "length is 4, not 8"),
    ("ACK", "43 00000001 00000008 0000000000000001", "id is 1, not 0"),
    ("UDP_CLOSE", "44 00000001 00000001 00", "length is 1, not 0"),
    ("GOAWAY", "47 00000001 00000002 03e9", "id is 1, not 0"),
    ("GOAWAY", "47 00000000 00000001 03", "cut short"),
    ("GOAWAY", "47 00000000 00000003 03e9 ff", "not UTF-8"),
    ("ERROR", "04 00000001 006f 0001 ff", "not UTF-8"),
    ("ECHO", "45 00000001 00000001 00", "cut short"),
    ("ECHO", "45 00000001 00000003 0002 61", "cut short"),
    ("ECHO", "45 00000001 00000002 0000", "0 bytes"),
    ("UDP_ERROR", "48 00000001 00000005 006f003500", "cut short"),
    ("UDP_ERROR", "48 00000001 00000008 006f 0035 0001 61 62", "length is 8, not 7"),
    ("UDP_ERROR", "48 00000001 00000007 006f 0035 0002 61", "length is 7, not 8"),
    ("UDP_ERROR", "48 00000001 00000006 006f 0035 0000", "0 bytes"),
    ("CONNECT", "01 00000001 01bb 0000", "0 bytes"),
    ("CONNECT", "01 00000001 01bb 0003 610062", "NUL"),
    ("CONNECT", "01 00000001 01bb 0001 ff", "not UTF-8"),
    ("CONNECT", "01 00000001 01bb 0100" + "61" * 256, "256 bytes"),
    ("UDP", "07 00000001 0035 0000 00000000", "0 bytes"),
    ("UDP", "07 00000001 0035 0001 c3 00000000", "not UTF-8"),
    ("UDP", "07 00000001 0035 0001 61 0000ffe4" + "00" * 65508, "65508 bytes, over 65507"),
    ("DNS_QUERY", "08 00000001 00010000" + "00" * 65536, "65536 bytes, over 65535"),
    ("DNS_RESPONSE", "09 00000001 00010000" + "00" * 65536, "65536 bytes, over 65535"),
    ("HELLO", "40 00000001 00000002 7b7d", "id is 1, not 0"),
    ("HELLO", "40 00000000 00002001" + "20" * 8193, "8193 bytes of JSON, over 8192"),
]


@pytest.mark.parametrize(("name", "text", "what"), BAD, ids=lambda value: value[:24])
def test_malformed(name: str, text: str, what: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{name}: .*{what}"):
        parse(bytes.fromhex(text.replace(" ", "")))


def test_lengths_of_the_whole_u32_range() -> None:
    for command in (0x02, 0x08, 0x09, 0x40, 0x45, 0x5E, 0x7F):
        with pytest.raises(ProtocolError, match="past the end"):
            parse(struct.pack(">BII", command, 1, 0xFFFFFFFF) + b"x" * 100)


@pytest.mark.parametrize("size", [1, 255])
def test_longest_and_shortest_hosts(size: int) -> None:
    host = "h" * size
    for frame in (Connect(1, host, 1), Udp(1, host, 1, b""), Echo(1, host, b"")):
        assert parse(frame.encode()) == [frame]


@pytest.mark.parametrize("host", ["", "a" * 256, "é" * 128, "a\0b"])
def test_hosts_that_no_frame_holds(host: str) -> None:
    for frame in (
        Connect(1, host, 1),
        Udp(1, host, 1, b""),
        Echo(1, host, b""),
        UdpError(1, 111, host, 1),
    ):
        with pytest.raises(ValueError, match="not a host"):
            frame.encode()


def test_what_is_too_big_to_encode() -> None:
    with pytest.raises(ValueError, match="65508"):
        Udp(1, "a", 1, bytes(65508)).encode()
    for kind in (DnsQuery, DnsResponse):
        with pytest.raises(ValueError, match="65536"):
            kind(1, bytes(65536)).encode()
    assert len(Udp(1, "a", 1, bytes(65507)).encode()) == 14 + 65507


def hello(text: bytes) -> bytes:
    return struct.pack(">BII", 0x40, 0, len(text)) + text


def test_hello_defaults_are_those_of_the_page() -> None:
    (frame,) = parse(hello(b"{}"))
    assert frame == Hello()
    assert dataclasses.asdict(Hello()) == {
        "window": 65536,
        "max_data": 65535,
        "max_message": 1048576,
        "session": None,
        "received": 0,
        "attempt": 0,
        "streams": 1024,
        "associations": 1024,
        "requests": 256,
        "udp": False,
        "icmp": False,
        "dns": False,
        "ipv6": False,
        "resume": None,
        "idle_udp": 60,
        "keepalive": 0,
        "ack": 524288,
        "version": 2,
    }


def test_hello_ignores_unknown_keys() -> None:
    (frame,) = parse(hello(b'{"window": 5, "colour": [1, {"x": null}], "command": 1}'))
    assert frame == Hello(window=5)


def test_hello_of_exactly_8_kib() -> None:
    text = b'{"window":9}'
    assert parse(hello(text + b" " * (8192 - len(text)))) == [Hello(window=9)]


HELLO_RANGES = [
    ("window", 1, 2**31 - 1),
    ("max_data", 1024, None),
    ("max_message", 131072, None),
    ("received", 0, 2**64 - 1),
    ("streams", 0, None),
    ("associations", 0, None),
    ("requests", 0, None),
    ("resume", 0, None),
    ("idle_udp", 0, None),
    ("keepalive", 0, None),
    ("ack", 524288, None),
    ("version", 2, 2),
]


@pytest.mark.parametrize(("key", "least", "most"), HELLO_RANGES)
def test_hello_ranges(key: str, least: int, most: int | None) -> None:
    good = [least] if most is None else [least, most]
    bad = [least - 1, -(2**70), 10**5000 if key == "window" else 2**70]
    if most is not None:
        bad.append(most + 1)
    for value in good:
        (frame,) = parse(hello(json.dumps({key: value}).encode()))
        assert getattr(frame, key) == value
    for value in bad:
        text = b'{"%s": %s}' % (key.encode(), b"9" * 5000 if value > 2**80 else b"%d" % value)
        with pytest.raises(ProtocolError, match="^HELLO: "):
            parse(hello(text))
    for text in ("null", "true", "1.5", "2.0", '"2"', "[2]", "{}"):
        with pytest.raises(ProtocolError, match=f"^HELLO: {key} is .*, not an integer"):
            parse(hello(f'{{"{key}": {text}}}'.encode()))


@pytest.mark.parametrize("key", ["udp", "icmp", "dns", "ipv6"])
def test_hello_flags(key: str) -> None:
    (frame,) = parse(hello(f'{{"{key}": true}}'.encode()))
    assert getattr(frame, key) is True
    for text in ("null", "0", "1", '"true"', "[]"):
        with pytest.raises(ProtocolError, match=f"^HELLO: {key} is"):
            parse(hello(f'{{"{key}": {text}}}'.encode()))


@pytest.mark.parametrize(
    "text", ["null", "1", '""', '"a b"', '"\\ud800"', '"\\r\\nx"', '"é"', f'"{"a" * 256}"']
)
def test_hello_sessions_that_are_none(text: str) -> None:
    with pytest.raises(ProtocolError, match="^HELLO: session"):
        parse(hello(f'{{"session": {text}}}'.encode()))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b"{",
        b'{"window": 1} x',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"x": NaN}',
        b'{"x": Infinity}',
        b"[" * 8000,
        b'{"x":' * 1600,
        b'{"window": %s}' % (b"1" * 8000),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hello_that_is_no_json_object(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="^HELLO: ") as caught:
        parse(hello(text))
    assert len(str(caught.value)) < 120


def test_hello_checks_what_we_say_too() -> None:
    with pytest.raises(ProtocolError, match="window is 0"):
        Hello(window=0)


def test_v1_takes_exactly_one_frame() -> None:
    for frame, text in GOLDEN:
        golden = bytes.fromhex(text.replace(" ", ""))
        if frame.command <= 0x0A:
            assert parse_v1(golden) == frame
            with pytest.raises(ProtocolError, match="1 bytes follow it"):
                parse_v1(golden + b"\x05")
            for size in range(len(golden)):
                with pytest.raises(ProtocolError):
                    parse_v1(golden[:size])
        else:
            with pytest.raises(ProtocolError, match="is unknown"):
                parse_v1(golden)
