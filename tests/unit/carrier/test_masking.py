"""WebSocket framing in C, against RFC 6455 and against wsproto's own."""

from __future__ import annotations

import math
import os
import random
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from zks_lwip.carrier.buffers import Spares
from zks_lwip.carrier.framing import BoundedConnection
from zks_lwip.carrier.masking import (
    RECEIVE_BUFFERS,
    SEND_BUFFERS,
    FramedConnection,
    FramingInC,
    frame,
    make_protocol,
    self_check,
    unmask,
)
from zks_lwip.carrier.pacing import MAX_LIMIT

SIZES = (0, 1, 2, 3, 4, 7, 8, 63, 64, 65, 125, 126, 127, 1000, 65535, 65536, 65537, 300_001)


def xor(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def opened(client: WSConnection, server: WSConnection) -> None:
    server.receive_data(client.send(Request(host="test", target="/")))
    assert [type(event) for event in server.events()] == [Request]
    client.receive_data(server.send(AcceptConnection()))
    assert [type(event) for event in client.events()] == [AcceptConnection]
    for each in (client, server):
        if isinstance(each, BoundedConnection):
            each.slice = math.inf  # all at once, however busy the machine is


@pytest.fixture(autouse=True)
def no_spares() -> None:
    """No buffer of another test is used."""
    SEND_BUFFERS.clear()
    RECEIVE_BUFFERS.clear()


@pytest.fixture
def client() -> FramedConnection:
    return FramedConnection(ConnectionType.CLIENT)


@pytest.fixture
def server(client: FramedConnection) -> FramedConnection:
    server = FramedConnection(ConnectionType.SERVER)
    opened(client, server)
    return server


# C


def test_the_masked_hello_of_rfc_6455() -> None:
    out = bytearray(32)
    length = frame(b"Hello", bytes.fromhex("37fa213d"), out, opcode=1)
    assert out[:length] == bytes.fromhex("818537fa213d7f9f4d5158")
    length = frame(b"Hello", None, out, opcode=1)
    assert out[:length] == bytes.fromhex("810548656c6c6f")


@pytest.mark.parametrize("size", SIZES)
def test_header_and_payload_of_every_length_form(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    key = b"\x01\x80\xfe\x5a"
    if size <= 125:
        length = bytes([0x80 | size])
    elif size <= 65535:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    out = bytearray(size + 14)
    written = frame(payload, key, out)
    assert out[:written] == b"\x82" + length + key + xor(payload, key)
    assert not any(out[written:])
    written = frame(memoryview(payload), None, out)
    assert out[:written] == b"\x82" + bytes([length[0] & 0x7F]) + length[1:] + payload


@pytest.mark.parametrize("offset", range(9))
def test_unmasking_at_every_alignment(offset: int) -> None:
    key = os.urandom(4)
    for size in (*range(20), 63, 64, 65, 200, 4097):
        data = os.urandom(size)
        buffer = bytearray(b"\xaa" * offset + data + b"\xbb" * 8)
        with memoryview(buffer) as view:
            unmask(view[offset : offset + size], key)
        assert buffer == b"\xaa" * offset + xor(data, key) + b"\xbb" * 8


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="14 bytes"):
        frame(b"12345", None, bytearray(18))
    with pytest.raises(ValueError, match="key of 4"):
        frame(b"12345", b"123", bytearray(40))
    with pytest.raises(ValueError, match="4 bytes"):
        unmask(bytearray(8), b"12345")


# the seam


def test_ours_is_used_when_all_is_well() -> None:
    assert self_check() is None
    assert isinstance(make_protocol(ConnectionType.CLIENT), FramedConnection)


def test_wsproto_takes_over_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def changed(self: object, event: object) -> bytes:
        raise TypeError("send() takes something else now")

    monkeypatch.setattr(WSConnection, "send", changed)
    made = make_protocol(ConnectionType.SERVER, framing=FramingInC())
    assert type(made) is BoundedConnection
    assert "takes something else now" in caplog.text


def test_wsproto_takes_over_without_the_extension(caplog: pytest.LogCaptureFixture) -> None:
    framing = FramingInC(ImportError("no module"))
    for _ in range(2):
        made = make_protocol(ConnectionType.CLIENT, framing=framing)
        assert type(made) is BoundedConnection
    assert len(caplog.messages) == 1
    assert "not built" in caplog.text


@pytest.mark.parametrize("ours", [ConnectionType.CLIENT, ConnectionType.SERVER])
def test_wsproto_understands_us_and_we_it(ours: ConnectionType) -> None:
    theirs = ConnectionType.SERVER if ours is ConnectionType.CLIENT else ConnectionType.CLIENT
    mine, other = FramedConnection(ours), WSConnection(theirs)
    opened(*((mine, other) if mine.client else (other, mine)))
    for size in SIZES:
        payload = os.urandom(size)
        other.receive_data(bytes(mine.send(BytesMessage(data=payload))))
        got = [bytes(event.data) for event in other.events()]
        assert b"".join(got) == payload
        mine.receive_data(bytes(other.send(BytesMessage(data=payload))))
        (event,) = mine.events()
        assert isinstance(event, BytesMessage)
        assert event.data == payload and event.message_finished


def test_every_frame_has_a_masking_key_of_its_own(client: FramedConnection) -> None:
    server = WSConnection(ConnectionType.SERVER)
    opened(client, server)
    keys = {bytes(client.send(BytesMessage(data=b"x"))[2:6]) for _ in range(50)}
    assert len(keys) == 50


def test_every_frame_that_is_masked_in_place_has_one_too(client: FramedConnection) -> None:
    opened(client, WSConnection(ConnectionType.SERVER))
    keys = set()
    for _ in range(50):
        message = bytearray(5000)
        restores: list[Callable[[bytearray], None]] = []
        header, body = client.frame_message(message, gather=True, on_change=restores.append)
        assert body is message
        keys.add(bytes(header[-4:]))
        assert message[:4] == header[-4:]
        (restore,) = restores
        restore(message)
        assert message == bytes(5000)
    assert len(keys) == 50


def test_a_frame_that_is_held_is_not_overwritten(
    client: FramedConnection, server: FramedConnection
) -> None:
    first = client.send(BytesMessage(data=b"one"))
    second = client.send(BytesMessage(data=b"two"))
    for data in (first, second):
        server.receive_data(bytes(data))
    assert [event.data for event in server.events()] == [b"one", b"two"]


def chunks(data: bytes, rng: random.Random) -> list[bytes]:
    result = []
    while data:
        n = rng.choice([1, 2, 3, 7, 100, 5000, 70000])
        result.append(data[:n])
        data = data[n:]
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("into_buffer", [False, True])
def test_any_split_gives_the_same_messages_in_order(seed: int, into_buffer: bool) -> None:
    """Whole, fragmented and control frames, cut anywhere, received by copy or in place."""
    rng = random.Random(seed)
    client, server = WSConnection(ConnectionType.CLIENT), FramedConnection(ConnectionType.SERVER)
    opened(client, server)
    wire, expected = b"", []
    for number in range(40):
        body = rng.randbytes(rng.choice([0, 1, 125, 126, 3000, 66000]))
        kind = rng.randrange(4)
        if kind == 0:
            wire += client.send(Ping(payload=b"%d" % number))
            expected.append(b"ping %d" % number)
        elif kind == 1:
            half = len(body) // 2
            wire += client.send(BytesMessage(data=body[:half], message_finished=False))
            wire += client.send(Ping(payload=b"in %d" % number))
            wire += client.send(BytesMessage(data=body[half:]))
            expected += [b"ping in %d" % number, body]
        else:
            wire += client.send(BytesMessage(data=body))
            expected.append(body)
    got: list[bytes] = []
    server.on_message = lambda message: got.append(bytes(message))
    for piece in chunks(wire, rng):
        while piece:
            taken = len(piece)
            if into_buffer:
                room = server.get_buffer()
                assert room is not None
                taken = min(taken, len(room))
                room[:taken] = piece[:taken]
                server.receive_data(room[:taken])
            else:
                server.receive_data(piece)
            piece = piece[taken:]
            for event in server.events():
                assert isinstance(event, Ping)
                got.append(b"ping " + bytes(event.payload))
    assert got == expected


def test_a_message_that_is_held_stays_as_it_was(
    client: FramedConnection, server: FramedConnection
) -> None:
    held: list[memoryview] = []
    server.on_message = lambda message: held.append(message[1:])
    for number in range(8):
        wire = bytes(client.send(BytesMessage(data=bytes([number]) * 9000)))
        room = server.get_buffer()
        assert room is not None
        while wire:
            n = min(len(wire), len(room))
            room[:n] = wire[:n]
            server.receive_data(room[:n])
            wire = wire[n:]
            assert list(server.events()) == []
            room = server.get_buffer()
            assert room is not None
        del room
    assert [bytes(each) for each in held] == [bytes([n]) * 8999 for n in range(8)]


def test_the_buffer_is_used_again_when_it_is_not_held(
    client: FramedConnection, server: FramedConnection
) -> None:
    server.on_message = lambda message: None
    for _ in range(8):
        room = server.get_buffer()
        assert room is not None
        wire = bytes(client.send(BytesMessage(data=bytes(9000))))
        room[: len(wire)] = wire
        server.receive_data(room[: len(wire)])
        buffer = room.obj
        assert list(server.events()) == []
        del room
        assert server.get_buffer().obj is buffer


def test_a_buffer_that_was_given_back_goes_to_no_other_thread() -> None:
    """Who gives one back may use it on, until another task of the same thread has its turn."""
    spares = Spares(4)
    buffer = spares.take(1000)
    spares.give(buffer)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(spares.take, 1000).result() is not buffer
    assert spares.take(1000) is buffer


def test_large_messages_are_hardly_ever_moved_in_the_buffer(
    client: FramedConnection, server: FramedConnection
) -> None:
    """What is left of a batch goes to the buffer's front: that must be little of what comes."""
    server.on_message = lambda message: None
    wire = bytes(client.send(BytesMessage(data=bytes(MAX_LIMIT)))) * 32
    at = 0
    while at < len(wire):
        room = server.get_buffer()
        taken = min(len(room), len(wire) - at)
        room[:taken] = wire[at : at + taken]
        server.receive_data(room[:taken])
        del room
        assert list(server.events()) == []
        at += taken
    assert server.bytes_moved < at / 16


def test_frames_that_come_with_the_handshake_are_not_lost(client: FramedConnection) -> None:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="test", target="/")))
    list(server.events())
    answer = server.send(AcceptConnection()) + server.send(BytesMessage(data=b"early"))
    for byte in answer[:-3]:
        client.receive_data(bytes([byte]))
        assert all(isinstance(event, AcceptConnection) for event in client.events())
    client.receive_data(answer[-3:])
    assert [event.data for event in client.events()] == [b"early"]  # type: ignore[attr-defined]


def test_an_oversized_message_is_never_assembled(client: FramedConnection) -> None:
    server = FramedConnection(ConnectionType.SERVER, max_message=1000)
    opened(client, server)
    server.on_message = lambda message: pytest.fail("it is over max_message")
    wire = bytes(client.send(BytesMessage(data=bytes(2000))))
    pieces = []
    for start in range(0, len(wire), 500):
        server.receive_data(wire[start : start + 500])
        pieces += [len(event.data) for event in server.events()]  # type: ignore[attr-defined]
    assert sum(pieces) > 1000  # what makes its owner close with 1009
    # and a length that no memory could ever hold costs nothing
    server = FramedConnection(ConnectionType.SERVER, max_message=1000)
    other = FramedConnection(ConnectionType.CLIENT)
    opened(other, server)
    server.receive_data(b"\x82\xff" + struct.pack("!Q", 2**62) + b"keyy" + b"x" * 10)
    list(server.events())
    assert server.buffer_size <= 64 * 1024


def test_a_header_that_promises_much_costs_little(client: FramedConnection) -> None:
    """What is held for a frame in progress is twice what has come of it, or little."""
    server = FramedConnection(ConnectionType.SERVER, max_message=1 << 20)
    opened(client, server)
    server.on_message = lambda message: None
    server.receive_data(b"\x82\xff" + struct.pack("!Q", 1 << 20) + b"keyy")
    came = 14
    while came < (1 << 20) + 14:
        assert list(server.events()) == []
        room = server.get_buffer()
        assert server.buffer_size <= max(64 << 10, 2 * came + 4096)
        taken = min(len(room), 10_000, (1 << 20) + 14 - came)
        server.receive_data(room[:taken])
        del room
        came += taken
    messages: list[int] = []
    server.on_message = lambda message: messages.append(len(message))
    assert list(server.events()) == [] and messages == [1 << 20]


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\x82\x02ab", 1002),  # not masked
        (b"\xc2\x81keyya", 1002),  # a reserved bit
        (b"\x83\x81keyya", 1002),  # an opcode that does not exist
        (b"\x80\x81keyya", 1002),  # a continuation of nothing
        (b"\x82\xfe\x00\x05keyyabcde", 1002),  # a length in more bytes than needed
        (b"\x82\xff" + bytes(8) + b"keyy", 1002),
        (b"\x09\x81keyya", 1002),  # a ping in fragments
        (b"\x02\x81keyya\x82\x81keyya", 1002),  # a message within a fragmented one
        (b"\x81\x84\0\0\0\0\xff\xfe\xfd\xfc", 1007),  # text that is not UTF-8
    ],
)
def test_a_peer_that_breaks_the_rules_is_told_so(
    client: FramedConnection, server: FramedConnection, wire: bytes, status: int
) -> None:
    for byte in wire:
        server.receive_data(bytes([byte]))
        events = list(server.events())
        if events and isinstance(events[-1], CloseConnection):
            break
    assert isinstance(events[-1], CloseConnection)
    assert events[-1].code == status
    assert server.state is ConnectionState.REMOTE_CLOSING  # makes its owner answer
    client.receive_data(bytes(server.send(events[-1].response())))
    (told,) = client.events()
    assert isinstance(told, CloseConnection) and told.code == status
    server.receive_data(b"\x82\x81keyyx")
    assert list(server.events()) == []


def test_control_frames_and_text_go_through_wsproto(
    client: FramedConnection, server: FramedConnection
) -> None:
    server.receive_data(client.send(Ping(payload=b"p")) + client.send(TextMessage(data="täxt")))
    server.receive_data(client.send(Pong()) + client.send(CloseConnection(code=4001, reason="r")))
    ping, text, pong, close = server.events()
    assert isinstance(ping, Ping) and ping.payload == b"p"
    assert isinstance(text, TextMessage) and text.data == "täxt"
    assert isinstance(pong, Pong)
    assert isinstance(close, CloseConnection) and (close.code, close.reason) == (4001, "r")
    assert server.state is ConnectionState.REMOTE_CLOSING


def test_a_rest_changes_nothing() -> None:
    """Whatever wsproto is in the midst of, it still is after a rest."""
    client, server = WSConnection(ConnectionType.CLIENT), FramedConnection(ConnectionType.SERVER)
    opened(client, server)
    received: list[Any] = []
    pieces = (
        client.send(BytesMessage(data=b"a", message_finished=False)),
        client.send(Ping(payload=b"whole")),
        client.send(BytesMessage(data=b"b", message_finished=True)),
        client.send(Ping(payload=b"cut")),
        client.send(BytesMessage(data=b"c")),
        client.send(CloseConnection(code=4001)),
    )
    for piece in pieces:
        for byte in bytes(piece):
            server.receive_data(bytes([byte]))
            received += server.events()
            server.rest()
    ping, whole, cut, last, close = received
    assert isinstance(ping, Ping) and ping.payload == b"whole"
    assert isinstance(whole, BytesMessage) and whole.data == b"ab"
    assert isinstance(cut, Ping) and cut.payload == b"cut"
    assert isinstance(last, BytesMessage) and last.data == b"c"
    assert isinstance(close, CloseConnection) and close.code == 4001
    assert server.state is ConnectionState.REMOTE_CLOSING
    client.receive_data(server.send(close.response()))
    assert [type(event) for event in client.events()] == [CloseConnection]
    assert client.state is server.state is ConnectionState.CLOSED


def test_after_a_rest_a_breach_is_still_one(
    client: FramedConnection, server: FramedConnection
) -> None:
    server.rest()
    server.receive_data(b"\x83\x80keyy")
    (told,) = server.events()
    server.rest()
    assert isinstance(told, CloseConnection) and told.code == 1002
    assert server.state is ConnectionState.REMOTE_CLOSING


def test_a_ping_after_our_close_is_not_answered(
    client: FramedConnection, server: FramedConnection
) -> None:
    server.send(CloseConnection(code=1000))
    server.receive_data(client.send(Ping(payload=b"late")))
    assert list(server.events()) == []
