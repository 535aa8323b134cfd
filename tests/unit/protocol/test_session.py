"""HELLO, messages, streams and sources (PROTOCOL.md §2 to §4)."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kits.session import (
    WORKER,
    Bytes,
    broken,
    came,
    client,
    connected_client,
    connected_worker,
    drain,
    feed,
    worker,
)
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
    EofReceived,
    Error,
    Event,
    Frame,
    GoAway,
    GoAwayReceived,
    Hello,
    Ping,
    Pong,
    Role,
    Session,
    SessionReady,
    Settings,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
    Udp,
    UdpError,
    Unknown,
    Window,
    first_hello,
    parse,
)

# HELLO


def test_client_says_hello_at_once_and_nothing_else() -> None:
    session = Session(Role.CLIENT, Settings(window=70000, streams=7, udp=True))
    session.attach()
    assert session.has_output and not session.ready and not session.can_connect
    session.ping()
    session.goaway(1000)
    assert not session.send_udp(1, "192.0.2.1", 1, b"x")
    message = session.next_message()
    assert message is not None
    values = json.loads(bytes(message[9:]))
    assert values.pop("resume") == 0
    assert values == {"version": 2, "window": 70000, "max_data": 262144, "max_message": 1048576}
    assert not session.has_output and session.next_message() is None
    with pytest.raises(RuntimeError, match="can_connect"):
        session.connect("h", 1, Bytes())


def test_worker_answers_hello() -> None:
    session = Session(Role.WORKER, WORKER)
    session.attach()
    assert not session.has_output and session.next_message() is None
    hello = Settings().hello(Role.CLIENT)
    assert feed(session, hello) == [SessionReady(hello)]
    assert session.ready and session.peer == hello
    (answer,) = drain(session)
    assert isinstance(answer, Hello)
    assert answer.session is not None and len(answer.session) >= 22
    assert dataclasses.replace(answer, session=None) == WORKER.hello(Role.WORKER)
    other = Session(Role.WORKER, WORKER)
    other.attach()
    feed(other, hello)
    (second,) = drain(other)
    assert isinstance(second, Hello) and second.session != answer.session


def test_worker_says_the_session_it_was_given() -> None:
    session = Session(Role.WORKER, Settings(session="abc"))
    session.attach()
    feed(session, Hello())
    (answer,) = drain(session)
    assert isinstance(answer, Hello) and answer.session == "abc"


def test_settings_are_checked() -> None:
    for bad in ({"window": 0}, {"max_data": 1023}, {"max_message": 131071}, {"session": ""}):
        with pytest.raises(ValueError, match="session settings: "):
            Settings(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="session settings: max_kept"):
        Settings(max_kept=262143)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "frame",
    [Ping(), Connected(1), Data(1, b"x"), Udp(1, "h", 1, b""), Unknown(0x60, 0, b""), Ack(0)],
    ids=lambda frame: type(frame).__name__,
)
def test_nothing_before_hello(role: Role, frame: Frame) -> None:
    session = Session(role, Settings())
    session.attach()
    broken(session, "before HELLO", frame)


def test_worker_hello_may_have_frames_behind_it() -> None:
    session = Session(Role.CLIENT, Settings())
    session.attach()
    drain(session)
    assert feed(session, Hello(), Ping(), GoAway(1001, "")) == [
        SessionReady(Hello()),
        GoAwayReceived(1001, ""),
    ]
    assert drain(session) == [Pong()]


def test_client_may_send_nothing_before_our_hello() -> None:
    session = Session(Role.WORKER, WORKER)
    session.attach()
    broken(session, "CONNECT: .*before our HELLO", Hello(), Connect(1, "h", 1))
    session = Session(Role.WORKER, WORKER)
    session.attach()
    feed(session, Hello())
    broken(session, "PING: .*before our HELLO", Ping())


@pytest.mark.parametrize("session", [client(), worker()])
def test_second_hello(session: Session) -> None:
    broken(session, "HELLO: a second one", Hello())


def test_hello_that_offers_to_resume_must_name_its_session() -> None:
    session = Session(Role.CLIENT, Settings())
    session.attach()
    broken(session, "HELLO: .*names no session", Hello(resume=30))
    session = Session(Role.CLIENT, Settings())
    session.attach()
    assert feed(session, Hello(resume=30, session="a"))


def test_bad_hello() -> None:
    session = Session(Role.CLIENT, Settings())
    session.attach()
    with pytest.raises(ProtocolError, match="HELLO: window"):
        session.receive(struct.pack(">BII", 0x40, 0, 12) + b'{"window":0}')


# The WebSocket


@pytest.mark.parametrize("role", Role)
def test_session_has_one_websocket_at_a_time(role: Role) -> None:
    session = Session(role, Settings())
    assert not session.attached and not session.has_output and session.next_message() is None
    session.attach()
    assert session.attached and session.has_output is (role is Role.CLIENT)
    with pytest.raises(RuntimeError, match="attached already"):
        session.attach()
    assert not session.resumable and not session.detach()
    assert not session.attached and not session.has_output
    with pytest.raises(RuntimeError, match="over"):
        session.attach()


def test_session_has_the_id_that_the_worker_says() -> None:
    session = Session(Role.WORKER, Settings(session="abc"))
    session.attach()
    assert session.id is None
    feed(session, Hello())
    assert session.id == "abc"
    assert client(peer=Hello(session="abc")).id == "abc"
    assert client(peer=Hello()).id is None


def test_first_message_of_a_client_is_its_hello() -> None:
    hello = Hello(session="abc", received=7)
    assert first_hello(hello.encode()) == hello
    with pytest.raises(ProtocolError, match="PING: it came before HELLO"):
        first_hello(Ping().encode() + hello.encode())
    with pytest.raises(ProtocolError, match="PING: .*before our HELLO"):
        first_hello(hello.encode() + Ping().encode())
    with pytest.raises(ProtocolError, match="empty"):
        first_hello(b"")


# Messages


def test_message_over_max_message_is_1009() -> None:
    session = worker(settings=Settings(max_message=131072))
    assert session.receive(Unknown(0x50, 0, bytes(131072 - 9)).encode()) == []
    broken(session, "over max_message", Unknown(0x50, 0, bytes(131072 - 8)), status=1009)


@pytest.mark.parametrize("message", [b"", b"\x0b", b"\x80" + bytes(8), b"\x02\0\0\0\1\0\0\0\1"])
def test_malformed_messages_end_the_session(message: bytes) -> None:
    session = worker()
    with pytest.raises(ProtocolError):
        session.receive(message)
    with pytest.raises(ProtocolError):
        session.receive(Ping().encode())
    assert not session.has_output


def test_unknown_frames_are_skipped() -> None:
    session = connected_client()
    assert feed(session, Unknown(0x49, 5, b"x" * 100), Data(1, b"y"), Unknown(0x7F, 0, b"")) == [
        came(1, b"y")
    ]


@pytest.mark.parametrize(
    "frame",
    [Connect(1, "h", 1), DnsQuery(1, b""), Echo(1, "h", b"")],
    ids=lambda frame: type(frame).__name__,
)
def test_what_a_worker_never_sends(frame: Frame) -> None:
    broken(client(), "a worker never sends it", frame)


@pytest.mark.parametrize(
    "frame",
    [
        Error(1, 502),
        Connected(1),
        DnsResponse(1, b""),
        EchoReply(1, b""),
        UdpError(1, 111, "h", 1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_what_a_client_never_sends(frame: Frame) -> None:
    session = worker()
    feed(session, Connect(1, "h", 1))
    broken(session, "a client never sends it", frame)


def test_only_workers_answer() -> None:
    session = connected_client()
    for call in (
        lambda: session.error(1, 502),
        lambda: session.connected(1),
        lambda: session.dns_response(1, b""),
        lambda: session.echo_reply(1, b""),
        lambda: session.udp_error(1, 111, "h", 1),
    ):
        with pytest.raises(RuntimeError, match="only a worker"):
            call()


def test_messages_and_bytes_are_counted() -> None:
    session = connected_client(Bytes(b"abc"))
    session.mark_ready(1)
    drain(session)
    feed(session, Data(1, b"defg"))
    stats = session.stats
    assert (stats.messages_in, stats.messages_out) == (3, 3)
    assert (stats.data_in, stats.data_out, stats.streams_opened) == (4, 3, 1)
    assert stats.bytes_in > stats.data_in and stats.bytes_out > stats.data_out


# Streams


def test_both_directions_and_both_ends() -> None:
    ends = Session(Role.CLIENT, Settings()), Session(Role.WORKER, WORKER)
    for end in ends:
        end.attach()

    def exchange() -> tuple[list[Event], list[Event]]:
        events: tuple[list[Event], list[Event]] = ([], [])
        while any(end.has_output for end in ends):
            for here, there, into in ((0, 1, 1), (1, 0, 0)):
                message = ends[here].next_message()
                if message is not None:
                    events[into].extend(ends[there].receive(message))
        return events

    exchange()
    stream = ends[0].connect("example.com", 80, Bytes(b"GET", end=True))
    ends[0].mark_ready(stream)
    to_client, to_worker = exchange()
    assert to_worker == [StreamOpened(1, "example.com", 80), came(1, b"GET"), EofReceived(1)]
    assert to_client == []
    ends[1].accept(1, Bytes(b"200 OK", end=True))
    ends[1].connected(1)
    ends[1].mark_ready(1)
    assert exchange() == ([StreamConnected(1), came(1, b"200 OK"), EofReceived(1)], [])
    assert not ends[0].is_open(1) and not ends[1].is_open(1)


def test_ids_rise_from_1() -> None:
    session = client()
    assert [session.connect("h", 1, Bytes()) for _ in range(3)] == [1, 2, 3]
    assert drain(session) == [Connect(n, "h", 1) for n in (1, 2, 3)]


def test_connect_checks_its_arguments() -> None:
    session = client()
    for host, port in (("", 1), ("a" * 256, 1), ("a\0", 1), ("h", -1), ("h", 65536)):
        with pytest.raises(ValueError):
            session.connect(host, port, Bytes())
    assert session.open_streams == 0 and not session.has_output
    assert session.connect("h", 1, Bytes()) == 1


def test_connect_ids_must_rise() -> None:
    session = worker()
    feed(session, Connect(5, "h", 1), Connect(9, "h", 1))
    broken(session, "CONNECT: stream 9 is not above 9", Connect(9, "h", 1))
    session = worker()
    feed(session, Connect(5, "h", 1))
    broken(session, "CONNECT: stream 4 is not above 5", Connect(4, "h", 1))
    broken(worker(), "CONNECT: stream 0 is not above 0", Connect(0, "h", 1))


@pytest.mark.parametrize(
    "frame",
    [Data(2, b"x"), Data(2, b""), Eof(2), Close(2), Window(2, 1), Window(2, 0)],
    ids=lambda frame: type(frame).__name__,
)
def test_idle_streams(frame: Frame) -> None:
    name = type(frame).__name__.upper()
    broken(connected_worker(), f"{name}: stream 2 is idle", frame)
    broken(connected_client(), f"{name}: stream 2 is idle", frame)
    zero = dataclasses.replace(frame, stream=0)
    broken(connected_worker(), f"{name}: stream 0 is idle", zero)


@pytest.mark.parametrize("frame", [Connected(2), Error(2, 502, "")])
def test_idle_streams_of_a_client(frame: Frame) -> None:
    broken(connected_client(), "stream 2 is idle", frame)


def test_a_stream_whose_connect_has_not_left_is_idle() -> None:
    session = client()
    session.connect("h", 1, Bytes())
    broken(session, "CONNECTED: stream 1 is idle", Connected(1))


@pytest.mark.parametrize("how", ["close", "error", "closed", "eof"])
def test_gone_streams_are_ignored(how: str) -> None:
    source = Bytes(b"left over")
    session = connected_worker(source, settings=Settings(window=10))
    if how == "close":
        session.close(1)
        expected: list[Frame] = [Close(1)]
    elif how == "error":
        session.error(1, 104, "reset")
        expected = [Error(1, 104, "reset")]
    elif how == "closed":
        assert feed(session, Close(1)) == [StreamReset(1)]
        expected = []
    else:
        source.end = True
        session.mark_ready(1)
        assert feed(session, Eof(1)) == [EofReceived(1)]
        expected = [Data(1, b"left over"), Eof(1)]
    assert drain(session) == expected
    assert not session.is_open(1) and session.open_streams == 0
    # more than its credit, and in an order that an open stream would not bear
    gone = [Data(1, b"x" * 100), Eof(1), Eof(1), Data(1, b"x"), Window(1, 2**32 - 1), Close(1)]
    assert feed(session, *gone) == []
    for call in (session.close, session.mark_ready, session.connected):
        call(1)
    session.consumed(1, 1000)
    session.accept(1, Bytes())
    session.error(1, 502)
    assert drain(session) == []


@pytest.mark.parametrize(
    ("how", "event"),
    [
        (Close(1), StreamReset(1)),
        (Error(1, 111, "refused"), StreamReset(1, 111, "refused")),
    ],
    ids=["close", "error"],
)
def test_gone_streams_at_the_client(how: Frame, event: Event) -> None:
    session = connected_client()
    assert feed(session, how) == [event]
    assert feed(session, Connected(1), Connected(1), Error(1, 1, ""), Data(1, b""), Eof(1)) == []


def test_second_eof_and_data_after_eof() -> None:
    for make in (connected_client, connected_worker):
        session = make()
        assert feed(session, Data(1, b"x"), Eof(1)) == [came(1, b"x"), EofReceived(1)]
        assert session.is_open(1)
        broken(session, "EOF: a second one", Eof(1))
        session = make()
        feed(session, Eof(1))
        broken(session, "DATA: it came after EOF", Data(1, b"x"))
        session = make()
        feed(session, Eof(1))
        broken(session, "DATA: it came after EOF", Data(1, b""))


def test_second_connected() -> None:
    broken(connected_client(), "CONNECTED: a second one", Connected(1))
    with pytest.raises(RuntimeError, match="connected already"):
        connected_worker().connected(1)


@pytest.mark.parametrize("frame", [Data(1, b"x"), Eof(1)])
def test_a_worker_sends_nothing_before_connected(frame: Frame) -> None:
    session = client()
    session.connect("h", 1, Bytes())
    drain(session)
    assert feed(session, Window(1, 5)) == []
    broken(session, "before CONNECTED", frame)


def test_empty_data_is_ignored() -> None:
    session = connected_client(settings=Settings(window=1))
    assert feed(session, *[Data(1, b"")] * 10) == []


def test_data_over_max_data() -> None:
    session = connected_client(settings=Settings(max_data=1024))
    assert feed(session, Data(1, bytes(1024)))
    broken(session, "DATA: 1025 bytes for stream 1, max_data is 1024", Data(1, bytes(1025)))


def test_half_close_leaves_the_other_direction() -> None:
    source = Bytes(b"abc", end=True)
    session = connected_client(source)
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"abc"), Eof(1)]
    source.data = b"never asked for again"
    session.mark_ready(1)
    assert drain(session) == []
    assert session.is_open(1)
    assert feed(session, Data(1, b"more"), Eof(1)) == [came(1, b"more"), EofReceived(1)]
    assert not session.is_open(1)


def test_close_after_eof_is_no_reset_at_the_worker() -> None:
    session = connected_worker()
    assert feed(session, Data(1, b"all"), Eof(1), Close(1)) == [
        came(1, b"all"),
        EofReceived(1),
        StreamClosed(1),
    ]
    assert not session.is_open(1)
    session = connected_client()
    assert feed(session, Eof(1), Close(1)) == [EofReceived(1), StreamReset(1)]


def test_close_discards_what_was_not_sent() -> None:
    source = Bytes(b"abc")
    session = connected_client(source)
    session.mark_ready(1)
    session.close(1)
    assert drain(session) == [Close(1)]
    assert source.asked == 0


def test_connect_that_has_not_left_is_taken_back() -> None:
    session = client()
    session.connect("h", 1, Bytes())
    session.close(1)
    assert not session.has_output
    assert session.connect("h", 1, Bytes()) == 2
    assert drain(session) == [Connect(2, "h", 1)]


def test_worker_data_waits_for_connected() -> None:
    session = worker()
    feed(session, Connect(1, "h", 1))
    source = Bytes(b"banner")
    session.mark_ready(1)
    session.accept(1, source)
    assert drain(session) == [] and source.asked == 0
    session.connected(1)
    assert drain(session) == [Connected(1), Data(1, b"banner")]


def test_error_after_connected_in_one_message() -> None:
    session = worker()
    feed(session, Connect(1, "h", 1), Connect(2, "h", 1))
    session.connected(1)
    session.error(1, 104)
    session.error(2, 111, "x" * 1000)
    first, second, third = drain(session)
    assert [first, second] == [Connected(1), Error(1, 104, "")]
    assert isinstance(third, Error) and third.message == "x" * 200
    # all of them were counted as sent
    assert feed(session, Ack(3)) == []
    broken(session, "ACK", Ack(4))


def test_what_waits_for_a_stream_goes_when_the_peer_closes_it() -> None:
    session = worker()
    feed(session, Connect(1, "h", 1), Connect(2, "h", 1))
    session.connected(1)
    session.error(2, 111)
    assert feed(session, Close(1), Close(2)) == [StreamReset(1)]
    assert drain(session) == []


# Sources


def test_a_source_that_has_nothing_is_not_asked_again() -> None:
    source = Bytes()
    session = connected_client(source)
    session.mark_ready(1)
    session.mark_ready(1)
    assert drain(session) == [] and source.asked == 1
    assert drain(session) == [] and source.asked == 1
    source.data = b"x"
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"x")]


def test_a_source_that_gives_little_at_a_time_fills_one_frame() -> None:
    session = connected_client(Bytes(b"x" * 1000, end=True, most=10))
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"x" * 1000), Eof(1)]


def test_a_source_may_close_or_fail_its_stream_while_it_is_asked() -> None:
    session = connected_worker()

    class Failing:
        def pull_into(self, view: memoryview) -> int | None:
            view[:3] = b"abc"
            session.error(1, 104, "reset")
            return 3

    session.accept(1, Failing())
    session.mark_ready(1)
    assert drain(session) == [Error(1, 104, "reset")]


def test_a_source_that_lies_about_its_bytes() -> None:
    class Liar:
        def pull_into(self, view: memoryview) -> int | None:
            return len(view) + 1

    session = connected_client()
    session.connect("h", 1, Liar())
    session.mark_ready(2)
    with pytest.raises(ValueError, match="claims"):
        session.next_message()


@pytest.mark.parametrize("size", [10, 10_000, 100_000])
def test_each_message_is_a_buffer_of_its_own(size: int) -> None:
    session = connected_client(Bytes(b"a" * size))
    session.mark_ready(1)
    first = session.next_message()
    assert first is not None and len(first) >= size
    as_sent = bytes(first)
    session.connect("h", 1, Bytes(b"b" * size))
    session.mark_ready(2)
    drain(session)
    assert first == as_sent


def test_a_message_that_is_being_written_has_its_buffer_for_itself() -> None:
    """Also where another thread, or a source, has another session send meanwhile."""
    outer: list[object] = []
    inner: list[object] = []

    class Outer(Bytes):
        def pull_into(self, view: memoryview) -> int | None:
            outer.append(view.obj)
            send(Inner(b"inner"))
            with ThreadPoolExecutor(1) as thread:
                thread.submit(send, Inner(b"inner")).result()
            return super().pull_into(view)

    class Inner(Bytes):
        def pull_into(self, view: memoryview) -> int | None:
            inner.append(view.obj)
            return super().pull_into(view)

    def send(source: Bytes) -> None:
        session = connected_client(source)
        expected = bytes(source.data)
        session.mark_ready(1)
        message = session.next_message()
        assert message is not None and parse(message) == [Data(1, expected)]

    send(Outer(b"outer"))
    assert len(inner) >= 2
    assert all(one is not other for one in inner for other in outer)


def test_a_message_is_copied_before_its_buffer_is_given_away() -> None:
    """Another thread may run after any call, that which gives the buffer back among them."""
    session = connected_client(Bytes(b"ours"))
    session.mark_ready(1)

    def send() -> None:
        other = connected_client(Bytes(b"not!"))
        other.mark_ready(1)
        other.next_message()

    def after_each_call(frame: object, event: str, arg: object) -> None:
        if event == "c_return":
            thread.submit(send).result()

    with ThreadPoolExecutor(1) as thread:
        send()
        sys.setprofile(after_each_call)
        try:
            message = session.next_message()
        finally:
            sys.setprofile(None)
    assert message is not None and parse(message) == [Data(1, b"ours")]
