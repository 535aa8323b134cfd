"""The HTTP/2 side of DNS over HTTPS against h2 as a server, without sockets."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from zks_lwip.dns.upstream.doh_session import (
    CONNECTION_WINDOW,
    MAX_IDLE_FRAMES,
    AnswerReceived,
    DohSession,
    Event,
    QueryFailed,
)

HEADERS = [(":status", "200"), ("content-type", "application/dns-message")]


class Pair:
    """A session, and a server for it."""

    def __init__(self) -> None:
        self.session = DohSession("dns.test", "/dns-query")
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.server.initiate_connection()
        self._next = 0

    def settle(self) -> list[Event]:
        """Carry bytes in both directions until there are none; what ended."""
        events: list[Event] = []
        while True:
            up, down = self.session.data_to_send(), b""
            if up:
                self.server.receive_data(up)
            down = self.server.data_to_send()
            events += self.session.receive(down)
            if not up and not down:
                return events

    def ask(self) -> tuple[int, int]:
        """A token, and its stream."""
        token = self._next
        self._next += 1
        self.session.ask(token, b"q" * 128)
        return token, 2 * token + 1


def test_an_answer_in_one_piece_and_in_many() -> None:
    for pieces in (1, 3):
        pair = Pair()
        token, number = pair.ask()
        pair.settle()
        pair.server.send_headers(number, [*HEADERS, ("age", "7"), ("content-length", "12")])
        for piece in range(pieces):
            size = 12 // pieces
            pair.server.send_data(number, b"a" * size, end_stream=piece == pieces - 1)
        assert pair.settle() == [AnswerReceived(token, b"a" * 12, 7)]
        assert pair.session.in_flight == 0


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([(":status", "502"), HEADERS[1]], "HTTP status 502"),
        ([HEADERS[0], ("content-type", "text/html")], "the content type is text/html"),
        ([*HEADERS, ("content-length", "100000")], "an answer of 100000 bytes"),
    ],
)
def test_an_answer_in_one_piece_is_judged_like_any_other(
    headers: list[tuple[str, str]], words: str
) -> None:
    for together in (True, False):
        pair = Pair()
        (token, number), (other, after) = pair.ask(), pair.ask()
        pair.settle()
        pair.server.send_headers(number, headers)
        if together:
            pair.server.send_data(number, b"a" * 12, end_stream=True)
            events = []
        else:
            events = pair.settle()  # the server is told to stop
        pair.server.send_headers(after, HEADERS)
        pair.server.send_data(after, b"b", end_stream=True)
        events += pair.settle()
        assert events == [QueryFailed(token, words, False), AnswerReceived(other, b"b", 0)]


def test_a_length_that_is_not_that_of_the_answer() -> None:
    """For h2 that is an error of the connection: each query ends, and may be asked on another."""
    pair = Pair()
    (token, number), (other, after) = pair.ask(), pair.ask()
    pair.settle()
    pair.server.send_headers(after, HEADERS)
    pair.server.send_data(after, b"b", end_stream=True)
    pair.server.send_headers(number, [*HEADERS, ("content-length", "13")])
    pair.server.send_data(number, b"a" * 12, end_stream=True)
    good, bad = pair.settle()
    assert good == AnswerReceived(other, b"b", 0)
    assert isinstance(bad, QueryFailed) and bad.token == token and bad.retry
    assert "Expected 13 bytes, received 12" in bad.reason and pair.session.dead == bad.reason


def test_the_window_is_refilled_for_answers_in_one_piece() -> None:
    """Twice what the connection's window holds, from a server that keeps to it."""
    pair = Pair()
    body = b"a" * 16000
    for _ in range(2 * CONNECTION_WINDOW // len(body)):
        token, number = pair.ask()
        pair.settle()
        pair.server.send_headers(number, HEADERS)
        pair.server.send_data(number, body, end_stream=True)
        assert pair.settle() == [AnswerReceived(token, body, 0)]


def test_what_comes_for_an_answered_query_does_no_harm() -> None:
    """RST_STREAM, as servers send that have no use for the rest of a request; a late cancel."""
    pair = Pair()
    token, number = pair.ask()
    pair.settle()
    pair.server.send_headers(number, HEADERS)
    pair.server.send_data(number, b"a", end_stream=True)
    raw = pair.server.data_to_send()
    raw += b"\0\0\4\3\0" + number.to_bytes(4, "big") + bytes(4)
    raw += b"\0\0\4\x08\0" + number.to_bytes(4, "big") + b"\0\0\0\1"
    assert pair.session.receive(raw) == [AnswerReceived(token, b"a", 0)]
    pair.session.cancel(token)
    token, number = pair.ask()
    pair.settle()
    pair.server.send_headers(number, HEADERS)
    pair.server.send_data(number, b"b", end_stream=True)
    assert pair.settle() == [AnswerReceived(token, b"b", 0)]
    assert not pair.session.dead


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + number.to_bytes(4, "big") + payload


STATUS = b"\x88"  # :status 200, by its index
BLOCK = STATUS + b"\x0f\x10\x17application/dns-message"


def test_headers_in_several_frames() -> None:
    """Only CONTINUATION may follow; even an answer in one piece may not come in between."""
    pair = Pair()
    (token, number), (other, after) = pair.ask(), pair.ask()
    pair.settle()
    begin, rest = _frame(1, 0, number, STATUS), _frame(9, 4, number, BLOCK[1:])
    end = _frame(0, 1, number, b"a")
    whole = _frame(1, 4, after, BLOCK) + _frame(0, 1, after, b"b")
    assert pair.session.receive(begin + rest + end + whole) == [
        AnswerReceived(token, b"a", 0),
        AnswerReceived(other, b"b", 0),
    ]
    pair = Pair()
    pair.ask(), pair.ask()
    pair.settle()
    events = pair.session.receive(begin + whole + rest + end)
    assert len(events) == 2
    assert all(isinstance(event, QueryFailed) and event.retry for event in events)
    assert "broke HTTP/2" in pair.session.dead


def test_headers_that_come_twice() -> None:
    pair = Pair()
    _, number = pair.ask()
    pair.settle()
    headers = _frame(1, 4, number, BLOCK)
    (event,) = pair.session.receive(headers + headers + _frame(0, 1, number, b"a"))
    assert isinstance(event, QueryFailed) and pair.session.dead


def test_an_answer_before_the_query_has_been_sent() -> None:
    """The server opens its window by 10 bytes only, answers, and is told that no more comes."""
    pair = Pair()
    pair.server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.settle()
    token, number = pair.ask()
    pair.settle()
    pair.server.send_headers(number, HEADERS)
    pair.server.send_data(number, b"a", end_stream=True)
    assert pair.session.receive(pair.server.data_to_send()) == [AnswerReceived(token, b"a", 0)]
    seen = pair.server.receive_data(pair.session.data_to_send())
    assert [type(event) for event in seen] == [h2.events.StreamReset]


def test_frames_of_several_answers_in_turn() -> None:
    """As servers send them that have many answers at once; with a GOAWAY in between."""
    pair = Pair()
    (one, number), (two, after) = pair.ask(), pair.ask()
    pair.settle()
    first = _frame(1, 4, number, BLOCK) + _frame(1, 4, after, BLOCK)
    last = _frame(0, 1, after, b"b") + _frame(0, 1, number, b"a")
    assert pair.session.receive(first + last) == [
        AnswerReceived(two, b"b", 0),
        AnswerReceived(one, b"a", 0),
    ]
    (one, number), (two, after) = pair.ask(), pair.ask()
    first = _frame(1, 4, number, BLOCK) + _frame(1, 4, after, BLOCK)
    last = _frame(0, 1, after, b"b") + _frame(0, 1, number, b"a")
    goaway = _frame(7, 0, 0, number.to_bytes(4, "big") + bytes(4))
    assert pair.session.receive(first + goaway + last) == [
        QueryFailed(two, "the server is going away", True),
        AnswerReceived(one, b"a", 0),
    ]
    assert pair.session.closing and not pair.session.dead and not pair.session.in_flight


def test_a_frame_that_is_too_large_is_refused_by_its_header() -> None:
    """What is to come of it, up to 16 MiB, is not waited for, let alone kept."""
    pair = Pair()
    token, number = pair.ask()
    pair.settle()
    assert not pair.session.receive(_frame(0x42, 0, 0, bytes(16384)))
    (event,) = pair.session.receive((16385).to_bytes(3, "big") + bytes(6))
    assert isinstance(event, QueryFailed) and event.token == token and event.retry
    assert "a frame of 16385 bytes" in pair.session.dead


def test_a_goaway_that_is_cut_short() -> None:
    pair = Pair()
    pair.ask()
    pair.settle()
    (event,) = pair.session.receive(_frame(7, 0, 0, bytes(7)))
    assert isinstance(event, QueryFailed) and event.retry and pair.session.dead


def test_repeated_goaways_are_bounded() -> None:
    """Each is read beside h2, and counts like other frames that answer nothing."""
    pair = Pair()
    _, number = pair.ask()
    pair.settle()
    goaway = _frame(7, 0, 0, number.to_bytes(4, "big") + bytes(4))
    (event,) = pair.session.receive(goaway * (MAX_IDLE_FRAMES + 1))
    assert isinstance(event, QueryFailed) and event.retry and pair.session.dead


FLOODS = {
    "PING": _frame(6, 0, 0, bytes(8)),
    "answered PING": _frame(6, 1, 0, bytes(8)),
    "SETTINGS": _frame(4, 0, 0, b"\0\4\0\1\0\0"),
    "empty SETTINGS": _frame(4, 0, 0, b""),
    "WINDOW_UPDATE": _frame(8, 0, 0, b"\0\0\0\1"),
    "PRIORITY": _frame(2, 0, 1, b"\0\0\0\3\1"),
    "RST_STREAM": _frame(3, 0, 1, bytes(4)),
    "empty DATA": _frame(0, 0, 1, b""),
    "DATA of a byte": _frame(0, 0, 1, b"a"),
    "padding": _frame(0, 8, 1, b"\xff" + bytes(255)),
    "unknown": _frame(0x42, 0, 0, b""),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames_ends_the_connection(kind: str) -> None:
    pair = Pair()
    token, number = pair.ask()
    pair.settle()
    pair.session.receive(_frame(1, 4, number, BLOCK))
    seen: list[Event] = []
    sent = answered = 0
    while not pair.session.dead:
        seen += pair.session.receive(FLOODS[kind] * 100)
        sent += 100
        answered += len(pair.session.data_to_send())
        assert sent <= MAX_IDLE_FRAMES + 100
    assert answered < 100 * MAX_IDLE_FRAMES
    (event,) = seen
    assert isinstance(event, QueryFailed) and event.token == token and event.retry


def test_header_blocks_without_an_end_are_bounded() -> None:
    pair = Pair()
    _, number = pair.ask()
    pair.settle()
    pair.session.receive(_frame(1, 0, number, STATUS))
    sent = 0
    while not pair.session.dead:
        pair.session.receive(_frame(9, 0, number, b""))
        sent += 1
        assert sent <= MAX_IDLE_FRAMES
    pair = Pair()
    _, number = pair.ask()
    pair.settle()
    block = STATUS + b"\x00\x01a\x7f\x81\x3e" + bytes(319)  # a value of 446 bytes
    while not pair.session.dead:
        pair.session.receive(_frame(1, 4, number, block * 40))
        assert number < 20
        number += 2


def test_answers_pay_for_other_frames() -> None:
    """A server that measures the path by a PING for each answer may go on for ever."""
    pair = Pair()
    for pieces in (1, 3):
        for _ in range(MAX_IDLE_FRAMES):
            token, number = pair.ask()
            pair.settle()
            pair.server.ping(bytes(8))
            pair.server.send_headers(number, HEADERS)
            for piece in range(pieces):
                pair.server.send_data(number, b"a", end_stream=piece == pieces - 1)
            assert pair.settle() == [AnswerReceived(token, b"a" * pieces, 0)]
    assert not pair.session.dead


def test_errors_of_http_pay_for_their_frames() -> None:
    """Of a server that limits its clients (429), say: other queries are not failed for that."""
    pair = Pair()
    for _ in range(MAX_IDLE_FRAMES):
        token, number = pair.ask()
        pair.settle()
        pair.server.send_headers(number, [(":status", "429"), HEADERS[1]])
        pair.server.send_data(number, b"slower", end_stream=True)
        assert pair.settle() == [QueryFailed(token, "HTTP status 429", False)]
    assert not pair.session.dead


def test_a_server_that_opens_no_window_and_no_stream_costs_nothing_that_stays() -> None:
    """Every query is given up in the end; what they took is free again."""
    for setting in (
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE,
        h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS,
    ):
        pair = Pair()
        pair.server.update_settings({setting: 0})
        pair.settle()
        for _ in range(3000):
            token, _ = pair.ask()
            pair.session.data_to_send()
            pair.session.cancel(token)
        session = pair.session
        assert session.in_flight == 0 and not session.dead
        assert session.held_streams <= 1


def test_rapid_resets_by_the_server_end_queries_and_nothing_more() -> None:
    pair = Pair()
    for _ in range(500):
        token, number = pair.ask()
        pair.settle()
        pair.server.reset_stream(number, 7)
        (event,) = pair.settle()
        assert isinstance(event, QueryFailed) and event.retry and event.token == token
    assert pair.session.in_flight == 0
