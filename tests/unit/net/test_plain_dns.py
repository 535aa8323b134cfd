"""What counts as an answer to a query of plain DNS."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from zks_lwip.net.plain_dns import (
    ask_stream,
    is_answer,
    question_of,
    receive_answer,
    with_random_id,
)

QUESTION = b"\3www\7Example\0\0\1\0\1"
QUERY = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + QUESTION


def answer(**changes: bytes) -> bytes:
    parts = {"id": QUERY[:2], "flags": b"\x81\x80", "count": b"\0\1", "question": QUESTION}
    parts |= changes
    return parts["id"] + parts["flags"] + parts["count"] + bytes(6) + parts["question"]


@pytest.mark.parametrize(
    "message",
    [
        answer(),
        answer(question=QUESTION.lower()),
        answer() + b"records",
        answer(flags=b"\x81\x82", count=b"\0\0", question=b""),
    ],
)
def test_answers(message: bytes) -> None:
    assert is_answer(message, QUERY)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        answer()[:11],
        answer(id=b"\x12\x35"),
        answer(flags=b"\x01\x00"),
        answer(question=b"\3wwx\7Example\0\0\1\0\1"),
        answer(question=b"\3www\7Example\0\0\1\0\3"),
        answer(question=b"\3www\7Example\0\0\x41\0\1"),  # "A" and "a" differ in a type
        answer(question=QUESTION[:-1]),
        answer(question=b"\xc0\x0c\0\1\0\1"),
        answer(count=b"\0\2", question=QUESTION * 2),
        answer(count=b"\0\0", question=b""),
        answer(flags=b"\x81\x83", count=b"\0\0", question=b""),
    ],
)
def test_what_answers_nothing(message: bytes) -> None:
    assert not is_answer(message, QUERY)


def test_the_question() -> None:
    assert question_of(QUERY) == QUESTION
    for wrong in (b"", QUERY[:20], QUERY[:12], QUERY[:5] + b"\2" + QUERY[6:], b"\xff" * 40):
        with pytest.raises(ValueError):
            question_of(wrong)


def test_ids_are_random() -> None:
    assert len({with_random_id(QUERY)[:2] for _ in range(64)}) > 32
    assert with_random_id(QUERY)[2:] == QUERY[2:]


async def test_over_tcp_other_messages_are_passed_over() -> None:
    near, far = trio.testing.memory_stream_pair()
    strays = []
    wire = b"".join(
        len(each).to_bytes(2, "big") + each for each in (b"", answer(id=b"\0\0"), answer())
    )

    async def serve() -> None:
        assert await far.receive_some() == len(QUERY).to_bytes(2, "big") + QUERY
        for byte in wire:
            await far.send_all(bytes([byte]))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert await ask_stream(near, QUERY, lambda: strays.append(1)) == answer()
    assert len(strays) == 2


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20half"])
async def test_over_tcp_an_end_without_an_answer(sent: bytes) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(sent)
    await far.send_eof()
    with trio.fail_after(30), pytest.raises(ConnectionError):
        await ask_stream(near, QUERY)


async def test_over_udp_other_datagrams_are_passed_over() -> None:
    strays = []
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as sock,
    ):
        server.bind(("127.0.0.1", 0))
        sock.connect(server.getsockname())
        sock.setblocking(False)
        for message in (b"", answer(id=b"\0\0"), answer()):
            server.sendto(message, sock.getsockname())
        with trio.fail_after(30):
            assert await receive_answer(sock, QUERY, lambda: strays.append(1)) == answer()
    assert len(strays) == 2
