"""What outlives a WebSocket: counted frames, ACK, HELLO with ``received`` (PROTOCOL.md §6)."""

from __future__ import annotations

import dataclasses

import pytest

from tests.kits.session import (
    WORKER,
    Bytes,
    Clock,
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
    Budget,
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsQueryReceived,
    DnsResponse,
    Eof,
    EofReceived,
    Error,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Role,
    Session,
    SessionReady,
    SessionResumed,
    Settings,
    StreamConnected,
    StreamOpened,
    StreamReset,
    Udp,
    Window,
    parse,
)
from zks_lwip.protocol.kept import FLOOR, INITIAL_LIMIT

RESUMING = dataclasses.replace(WORKER, resume=60, session="abc")
OURS = {"settings": Settings(resume=60), "peer": RESUMING.hello(Role.WORKER)}
"""A client whose worker offers to resume."""
THEIRS = {"settings": RESUMING, "peer": Settings(resume=60).hello(Role.CLIENT)}


def hello(received: int = 0, session: str | None = "abc", **changes: int) -> Hello:
    """The HELLO of the worker of ``OURS``, or of the client of ``THEIRS``, on a later WebSocket."""
    return Hello(session=session, received=received, resume=60, udp=True, dns=True, **changes)


def resume(session: Session, received: int, *behind: Frame) -> list[Frame]:
    """Resume a session whose peer has taken so many frames; what it then sends besides HELLO."""
    if session.attached:
        assert session.detach()
    session.attach()
    if session.role is Role.CLIENT:
        (said,) = drain(session)
        assert isinstance(said, Hello) and said.session == "abc"
        assert said.received == session.counted_taken
    before = session.resumes
    assert feed(session, hello(received)) == [SessionResumed()]
    assert session.resumes == before + 1
    sent = drain(session)
    if session.role is Role.WORKER:
        said = sent.pop(0)
        assert isinstance(said, Hello) and said.session == "abc"
        assert said.received == session.counted_taken and said.resume == 60
    if behind:
        feed(session, *behind)
        sent += drain(session)
    return sent


# HELLO in the request of a WebSocket


def test_a_client_says_in_the_request_what_it_says_in_its_first_frame() -> None:
    clock = Clock()
    session = connected_client(Bytes(b"x"), **OURS, clock=clock)
    before = session.round_trip
    session.detach()
    first, second = session.resumption(), session.resumption()
    assert first is not None and second is not None
    assert (first.session, first.received, first.attempt) == ("abc", session.counted_taken, 1)
    assert second == dataclasses.replace(first, attempt=2)
    session.announced(first)
    session.attach()
    assert drain(session) == [first]
    clock.now += 1e-5  # the answer was under way before the frame was
    assert feed(session, hello(1)) == [SessionResumed()]
    assert session.round_trip == before
    assert drain(session) == [Ping()]
    session.detach()
    session.attach()
    (third,) = drain(session)
    assert isinstance(third, Hello) and third.attempt == 3


def test_a_client_that_cannot_resume_has_nothing_to_say_early() -> None:
    assert client().resumption() is None


def announced_worker() -> tuple[Session, Hello]:
    """A worker whose session was resumed by the request of a WebSocket, and what that has said."""
    session = connected_worker(Bytes(b"x"), **THEIRS)
    session.detach()
    said = hello(1)
    session.attach()
    session.announced(said)
    assert feed(session, said) == [SessionResumed()]
    return session, said


@pytest.mark.parametrize("early", [True, False])
def test_a_worker_takes_the_same_again(early: bool) -> None:
    session, said = announced_worker()
    if not early:
        drain(session)
    assert feed(session, said) == []
    sent = drain(session)
    if early:
        (answer, *sent) = sent
        assert isinstance(answer, Hello) and answer.received == session.counted_taken
    session.mark_ready(1)
    assert drain(session) == [*sent, Data(1, b"x")]
    broken(session, "HELLO: a second one", said)


def test_a_worker_takes_nothing_else_again() -> None:
    session, said = announced_worker()
    drain(session)
    broken(session, "HELLO: a second one", dataclasses.replace(said, received=0))


def test_what_a_request_has_said_is_of_that_websocket_alone() -> None:
    session, said = announced_worker()
    session.detach()
    session.attach()
    feed(session, hello(1))
    drain(session)
    broken(session, "HELLO: a second one", said)


# What the ends agree on


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [(60, None, 60), (60, 30, 30), (60, 90, 60), (60, 0, 0), (0, 60, 0), (0, None, 0)],
)
def test_worker_answers_the_shorter_time(ours: int, theirs: int | None, agreed: int) -> None:
    session = Session(Role.WORKER, dataclasses.replace(WORKER, resume=ours))
    session.attach()
    feed(session, Hello(resume=theirs))
    assert not session.resumable  # until the client can know of it
    (said,) = drain(session)
    assert isinstance(said, Hello) and said.resume == agreed
    assert session.resume_seconds == agreed and session.resumable is (agreed > 0)
    feed(session, Connect(1, "h", 1))
    session.error(1, 111, "refused")
    drain(session)
    assert (session.unacknowledged > 0) is (agreed > 0)
    assert session.detach() is (agreed > 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(60, 60, 60), (60, 20, 20), (60, None, 0), (60, 0, 0)]
)
def test_client_takes_what_the_worker_says(ours: int, theirs: int | None, agreed: int) -> None:
    session = client(settings=Settings(resume=ours), peer=Hello(session="abc", resume=theirs))
    assert session.resume_seconds == agreed and session.resumable is (agreed > 0)
    assert session.detach() is (agreed > 0)


def test_client_that_never_resumes_acknowledges_to_a_worker_that_offers_it() -> None:
    clock = Clock()
    session = connected_client(settings=Settings(), peer=RESUMING.hello(Role.WORKER), clock=clock)
    assert not session.resumable and session.unacknowledged == 0
    clock.now += 1
    assert drain(session) == [Ack(1)]


def test_keepalive_is_carried() -> None:
    assert Settings(keepalive=20).hello(Role.WORKER).keepalive == 20
    assert Settings(keepalive=20).hello(Role.CLIENT).keepalive == 0
    assert parse(Hello(keepalive=20).encode()) == [Hello(keepalive=20)]


# ACK


def test_ack_is_due_in_100_ms() -> None:
    clock = Clock()
    session = connected_client(**OURS, clock=clock)
    assert session.deadline == pytest.approx(clock.now + 0.1) and not session.has_output
    clock.now += 0.05
    feed(session, Data(1, b"x"))
    assert session.next_message() is None
    clock.now += 0.051
    assert session.has_output
    assert drain(session) == [Ack(2)]
    assert session.deadline is None
    clock.now += 10
    assert not session.has_output


@pytest.mark.parametrize(
    ("said", "due"), [(524288, 524288), (700_000, 700_000), (2**53 - 1, 1 << 20)]
)
def test_ack_is_due_after_as_much_as_the_peer_says(said: int, due: int) -> None:
    """But after 1 MiB at the latest. A peer that says nothing of it means 512 KiB."""
    calls: list[bool] = []
    peer = dataclasses.replace(RESUMING.hello(Role.WORKER), ack=said)
    ours = Settings(resume=60, window=2 << 20)
    session = connected_client(settings=ours, peer=peer, wake=lambda: calls.append(True))
    session.ping()
    drain(session)
    calls.clear()
    came = frames = 0
    while came + 50_000 < due:
        feed(session, Data(1, bytes(49_991)))
        came += 50_000
        frames += 1
        assert not session.has_output and not calls
    feed(session, Data(1, bytes(49_991)))
    assert session.has_output and calls == [True]
    assert drain(session) == [Ack(frames + 2)]


@pytest.mark.parametrize(
    ("kept", "said"), [(262144, 524288), (6 << 20, 786432), (64 << 20, 1 << 20)]
)
def test_an_ack_is_wanted_after_an_eighth_of_what_may_be_kept(kept: int, said: int) -> None:
    for role in Role:
        assert Settings(resume=60, max_kept=kept).hello(role).ack == said
        assert Settings(max_kept=kept).hello(role).ack == 524288  # nothing is kept


@pytest.mark.parametrize(("kept", "budget"), [(64 << 20, 0), (262144, 64 << 20)])
def test_short_of_room_an_end_asks_for_an_ack(kept: int, budget: int) -> None:
    """What it may keep, or others leave to it, is less than the peer takes before it says ACK."""
    clock = Clock()
    source = Bytes(bytes(6 << 20))
    peer = dataclasses.replace(RESUMING, window=1 << 30)
    ours = connected_client(
        source,
        settings=Settings(resume=60, max_kept=kept),
        peer=peer.hello(Role.WORKER),
        kept_budget=Budget(budget),
        clock=clock,
    )
    said = Settings(resume=60, max_kept=kept).hello(Role.CLIENT)
    theirs = connected_worker(settings=peer, peer=said, clock=clock)
    ours.mark_ready(1)
    before = ours.stats.data_out
    while (message := ours.next_message(16_000)) is not None:
        theirs.receive(bytes(message))
        while (answer := theirs.next_message()) is not None:
            ours.receive(bytes(answer))
    assert ours.stats.data_out - before == 6 << 20  # and no 100 ms were waited
    assert theirs.counted_taken == ours.counted_sent


def test_with_enough_room_no_ack_is_asked_for() -> None:
    session, _ = stalled()
    assert not any(isinstance(frame, Ping) for frame in drain(session))


def test_ack_goes_first_with_any_message() -> None:
    source = Bytes(b"abc")
    session = connected_client(source, **OURS)
    session.mark_ready(1)
    session.send_udp(1, "192.0.2.1", 1, b"u")
    message = session.next_message()
    assert message is not None
    assert parse(message) == [Ack(1), Udp(1, "192.0.2.1", 1, b"u"), Data(1, b"abc")]
    session.ping()
    assert drain(session) == [Ping()]  # nothing new to acknowledge


def test_uncounted_frames_are_not_acknowledged() -> None:
    clock = Clock()
    session = worker(**THEIRS, clock=clock)
    feed(session, Ping(), Pong(), Udp(1, "192.0.2.1", 1, b"x"), DnsQuery(1, b"q"))
    assert drain(session) == [Pong()]
    clock.now += 1
    assert session.deadline is None and not session.has_output


@pytest.mark.parametrize("role", Role)
def test_ack_out_of_range(role: Role) -> None:
    def session() -> Session:
        if role is Role.CLIENT:
            new = connected_client(Bytes(b"x"), **OURS)
        else:
            new = connected_worker(Bytes(b"x"), **THEIRS)
        new.mark_ready(1)
        drain(new)
        return new

    broken(session(), "ACK: 3 frames, not 0 to 2", Ack(3))
    backwards = session()
    feed(backwards, Ack(2), Ack(2))
    broken(backwards, "ACK: 1 frames, not 2 to 2", Ack(1))


# Keeping, and sending again


def test_what_is_not_acknowledged_is_sent_again_in_order() -> None:
    session = connected_worker(Bytes(b"abc" * 10, most=5, end=True), **THEIRS)
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"abc" * 10), Eof(1)]
    assert session.unacknowledged == 5 + 39 + 9
    assert resume(session, 0) == [Connected(1), Data(1, b"abc" * 10), Eof(1)]
    assert resume(session, 1) == [Data(1, b"abc" * 10), Eof(1)]
    assert resume(session, 2) == [Eof(1)]
    feed(session, Ack(3))
    assert session.unacknowledged == 0 and session.unacknowledged_since is None
    assert resume(session, 3) == []
    assert (session.stats.frames_resent, session.stats.bytes_resent) == (6, 53 + 48 + 9)
    broken(session, "ACK: 2 frames", Ack(2))


def test_what_waits_goes_behind_what_is_sent_again() -> None:
    session = client(**OURS)
    session.connect("h", 1, Bytes())
    drain(session)
    session.connect("h", 2, source := Bytes(b"abc"))
    session.mark_ready(2)
    assert resume(session, 0) == [Connect(1, "h", 1), Connect(2, "h", 2), Data(2, b"abc")]
    assert source.asked
    feed(session, Connected(1), Connected(2), Data(1, bytes(600_000 >> 2)))
    session.consumed(1, 600_000 >> 2)
    session.close(2)
    session.send_udp(1, "192.0.2.1", 1, b"lost")
    again = resume(session, 1, Ping())
    assert again == [Connect(2, "h", 2), Data(2, b"abc"), Close(2), Pong()]


def test_message_acknowledged_in_part() -> None:
    sources = [Bytes(bytes([n]) * 100) for n in range(4)]
    session = client(**OURS)
    for source in sources:
        session.mark_ready(session.connect("h", 1, source))
    message = session.next_message()
    assert message is not None and len(parse(message)) == 8
    feed(session, Ack(5))  # four CONNECT, one DATA
    assert session.unacknowledged == len(message)
    assert resume(session, 6) == [Data(3, b"\2" * 100), Data(4, b"\3" * 100)]
    assert session.unacknowledged == 2 * 109


def test_large_message_is_cut_when_it_is_sent_again() -> None:
    session = connected_client(Bytes(bytes(100_000)), **OURS)
    others = [session.connect("h", 1, Bytes(bytes(30_000))) for _ in range(3)]
    for stream in (1, *others):
        session.mark_ready(stream)
    feed(session, Ack(1))
    sent = drain(session)
    session.detach()
    session.attach()
    drain(session)
    feed(session, hello(1))
    again: list[Frame] = []
    session.send_udp(1, "192.0.2.1", 1, bytes(2000))
    while (message := session.next_message(17_000)) is not None:
        assert len(message) <= 17_000 or len(parse(message)) == 1
        if len(again) < 6:
            session.send_udp(1, "192.0.2.1", 1, bytes(2000))
        again += parse(bytes(message))
    again = [frame for frame in again if not isinstance(frame, Ack | Udp)]
    assert again == [frame for frame in sent if not isinstance(frame, Ack)]


def test_when_the_oldest_was_sent() -> None:
    clock = Clock()
    session = client(**OURS, clock=clock)
    session.connect("h", 1, Bytes())
    drain(session)
    clock.now += 5
    session.connect("h", 2, Bytes())
    drain(session)
    assert session.unacknowledged_since == clock.now - 5
    feed(session, Ack(1))
    assert session.unacknowledged_since == clock.now
    session.detach()
    session.attach()
    clock.now += 3
    drain(session)
    feed(session, hello(1))
    assert session.unacknowledged_since is None  # it is not on its way
    drain(session)
    assert session.unacknowledged_since == clock.now


def bulk(session: Session) -> bytearray:
    """A large message of a session with stream 1."""
    session.mark_ready(1)
    message = session.next_message()
    assert message is not None and len(message) > 200_000
    return message


def test_a_message_is_not_written_over_before_it_was_sent() -> None:
    ones, twos = (connected_client(Bytes(bytes([n]) * 250_000), **OURS) for n in (1, 2))
    message = bulk(ones)
    feed(ones, Ack(2))  # sooner than it can have come
    bulk(twos)
    assert parse(message)[-1] == Data(1, b"\1" * 250_000)


def test_a_message_of_a_lost_websocket_is_not_written_over() -> None:
    first = Bytes(b"\1" * 250_000)
    ones, twos = connected_client(first, **OURS), connected_client(Bytes(bytes(250_000)), **OURS)
    others = [ones.connect("h", 1, Bytes(b"\1" * 250_000)) for _ in range(3)]
    drain(ones)
    for stream in others:
        ones.mark_ready(stream)
    message = bulk(ones)
    sent = bytes(message)
    ones.detach()
    ones.attach()
    drain(ones, 4096)
    feed(ones, hello(4))
    drain(ones, 4096)
    feed(ones, Ack(ones.counted_sent))
    bulk(twos)
    assert message == sent


def test_a_small_part_of_a_large_message_does_not_hold_it() -> None:
    budget = Budget(1 << 30)
    session = worker(**THEIRS, kept_budget=budget)
    feed(session, *(DnsQuery(n, b"q" * 20) for n in (1, 2)), Connect(1, "h", 1))
    for request in (1, 2):
        session.dns_response(request, bytes(60_000))
    session.error(1, 111)
    drain(session)
    assert session.unacknowledged == 9 and budget.used < 1000


# Backpressure


def stalled(**options: object) -> tuple[Session, Bytes]:
    """A client whose worker grants much and acknowledges nothing."""
    source = Bytes(bytes(5 * INITIAL_LIMIT))
    peer = dataclasses.replace(RESUMING, window=1 << 30).hello(Role.WORKER)
    session = connected_client(source, settings=Settings(resume=60), peer=peer, **options)
    session.mark_ready(1)
    return session, source


def test_full_takes_no_data_and_no_connect_until_an_ack_frees_room() -> None:
    calls: list[bool] = []
    session, source = stalled(wake=lambda: calls.append(True))
    drain(session)
    left = len(source.data)
    assert INITIAL_LIMIT - 4096 <= session.unacknowledged <= INITIAL_LIMIT + 262144
    assert not session.can_connect and not session.has_output and session.next_message() is None
    assert len(source.data) == left
    calls.clear()
    session.ping()
    assert calls == [True]
    assert drain(session) == [Ping()]
    calls.clear()
    feed(session, Ack(2))  # CONNECT and one DATA
    assert calls == [True] and session.has_output and session.can_connect
    assert drain(session) and len(source.data) < left


def test_limit_grows_by_what_was_acknowledged_in_a_round_trip() -> None:
    session, source = stalled()
    for _ in range(2):
        before = session.unacknowledged
        drain(session)
        assert session.unacknowledged > before
        most = session.unacknowledged
        feed(session, Ack(session.counted_sent))
        assert 1.5 * most <= session.kept_limit <= 1.5 * most + (1 << 16)
    assert client(**OURS).kept_limit == INITIAL_LIMIT


def test_limit_does_not_grow_past_max_kept() -> None:
    source = Bytes(bytes(8 << 20))
    peer = dataclasses.replace(RESUMING, window=1 << 30).hello(Role.WORKER)
    ours = Settings(resume=60, max_kept=300_000)
    session = connected_client(source, settings=ours, peer=peer)
    session.mark_ready(1)
    for _ in range(3):
        drain(session)
        assert 300_000 <= session.unacknowledged <= 300_000 + 262144
        feed(session, Ack(session.counted_sent))
        assert session.kept_limit == 300_000


def test_sessions_share_a_budget() -> None:
    budget = Budget(2 << 20)
    first, _ = stalled(kept_budget=budget)
    drain(first)
    second, _ = stalled(kept_budget=budget)
    drain(second)
    third, _ = stalled(kept_budget=budget)
    drain(third)
    for session in (second, third):
        assert FLOOR - 4096 <= session.unacknowledged <= (1 << 20) + 262144
    assert third.unacknowledged <= FLOOR + 262144
    for session in (first, second, third):
        session.end()
    assert budget.used == 0


def test_other_frames_still_go_and_windows_wait_at_the_end() -> None:
    """A peer that acknowledges nothing cannot have ever more kept: one WINDOW a stream waits."""
    ours = Settings(resume=60, max_kept=262144, window=1000)
    peer = RESUMING.hello(Role.WORKER)
    session = connected_client(settings=ours, peer=peer, budget=Budget(0))
    sent: list[Frame] = []
    for _ in range(10_000):
        feed(session, Data(1, bytes(500)))
        session.consumed(1, 500)
        fresh = drain(session)
        if not any(isinstance(frame, Window) for frame in fresh):
            break
        sent += fresh
    else:
        pytest.fail("WINDOW after WINDOW is kept")
    assert len(sent) > 1000  # they went while DATA had to wait
    feed(session, Data(1, bytes(500)))
    session.consumed(1, 500)
    assert not session.has_output
    feed(session, Ack(session.counted_sent))
    assert [frame for frame in drain(session) if isinstance(frame, Window)] == [Window(1, 1000)]


# While it is detached


def test_calls_wait_while_it_is_detached() -> None:
    source = Bytes(b"one")
    session = connected_client(source, **OURS, budget=Budget(0))
    drain(session)
    feed(session, *(Data(1, bytes(200_000)) for _ in range(3)))
    assert session.detach()
    assert not (session.attached or session.ready or session.can_connect or session.has_output)
    assert session.detach()  # once more
    with pytest.raises(RuntimeError, match="can_connect"):
        session.connect("h", 1, Bytes())
    session.mark_ready(1)
    session.consumed(1, 600_000)
    session.ping()
    assert not session.send_udp(1, "192.0.2.1", 1, b"x")
    assert not session.dns_query(1, b"q")
    assert session.next_message() is None and session.open_streams == 1
    assert resume(session, 1) == [Window(1, 600_000), Data(1, b"one")]


def test_uncounted_output_is_lost() -> None:
    session = client(**OURS)
    session.connect("h", 1, Bytes())
    session.ping()
    assert session.send_udp(1, "192.0.2.1", 1, b"x") and session.dns_query(1, b"q")
    feed(session, Ping())
    session.detach()
    assert session.stats.datagrams_dropped == 1
    assert resume(session, 0) == [Connect(1, "h", 1)]


def test_message_of_the_old_websocket_is_not_taken() -> None:
    session = connected_worker(**THEIRS)
    message = Data(1, b"x").encode() * 3 + Ping().encode() + Data(1, b"y").encode()
    work = session.work_through(message)
    assert next(work) == came(1, b"x")
    late = session.work_through(message)
    session.detach()
    # What was taken together with the first is to be acted on, too
    assert [event for event in work if event] == [came(1, b"x")] * 2
    assert list(late) == [] and session.receive(message) == []
    assert session.counted_taken == 4
    session.attach()
    assert list(work) == [] and list(late) == []
    feed(session, hello(1))
    (said,) = drain(session)
    assert isinstance(said, Hello) and said.received == 4


def test_worker_stream_that_is_not_connected_yet() -> None:
    session = worker(**THEIRS)
    assert feed(session, Connect(1, "h", 1)) == [StreamOpened(1, "h", 1)]
    session.detach()
    source = Bytes(b"abc", end=True)
    session.accept(1, source)
    session.connected(1)
    session.mark_ready(1)
    assert resume(session, 0) == [Connected(1), Data(1, b"abc"), Eof(1)]
    assert feed(session, Eof(1)) == [EofReceived(1)]


def test_worker_errors_and_closes_while_it_is_detached() -> None:
    session = worker(**THEIRS)
    feed(session, *(Connect(n, "h", 1) for n in (1, 2)))
    session.detach()
    session.error(1, 111, "refused")
    session.close(2)
    assert resume(session, 0) == [Error(1, 111, "refused"), Close(2)]
    assert resume(session, 0) == [Error(1, 111, "refused"), Close(2)]


def test_eof_that_waits() -> None:
    source = Bytes(b"", end=True)
    session = connected_client(source, **OURS)
    session.mark_ready(1)
    session.detach()
    assert resume(session, 1) == [Eof(1)]
    assert resume(session, 1) == [Eof(1)]
    assert feed(session, Eof(1)) == [EofReceived(1)] and session.open_streams == 0
    assert resume(session, 2) == []


def test_credit_is_exact_after_a_resume() -> None:
    source = Bytes(bytes(5000))
    peer = dataclasses.replace(RESUMING, window=3000).hello(Role.WORKER)
    session = connected_client(source, settings=Settings(resume=60), peer=peer)
    session.mark_ready(1)
    sent = [frame for frame in drain(session) if isinstance(frame, Data)]
    assert sum(len(frame.payload) for frame in sent) == 3000
    assert resume(session, 1) == sent  # no credit is spent twice
    assert drain(session) == []
    feed(session, Window(1, 500))
    assert [len(frame.payload) for frame in drain(session) if isinstance(frame, Data)] == [500]


def test_query_of_the_old_websocket_is_forgotten() -> None:
    session = worker(**THEIRS)
    assert feed(session, DnsQuery(7, b"q")) == [DnsQueryReceived(7, b"q")]
    session.detach()
    session.dns_response(7, b"answer")
    assert resume(session, 0) == []
    session.dns_response(7, b"answer")
    assert drain(session) == []
    assert feed(session, DnsQuery(7, b"q")) == [DnsQueryReceived(7, b"q")]
    session.dns_response(7, b"answer")
    assert drain(session) == [DnsResponse(7, b"answer")]


def test_goaway_is_said_again() -> None:
    session = connected_worker(**THEIRS)
    session.goaway(503, "soon")
    assert GoAway(503, "soon") in drain(session)
    assert resume(session, 1) == [GoAway(503, "soon")]
    session.detach()
    session.goaway(503, "now")
    assert resume(session, 1) == [GoAway(503, "now")]
    assert resume(session, 1) == [GoAway(503, "now")]


# HELLO again


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("received", [0, 3])
def test_received_out_of_range(role: Role, received: int) -> None:
    session = connected_client(**OURS) if role is Role.CLIENT else connected_worker(**THEIRS)
    session.close(1)
    drain(session)
    feed(session, Ack(1))
    session.detach()
    session.attach()
    drain(session)
    with pytest.raises(ProtocolError, match=f"HELLO: {received} frames received, not 1 to 2"):
        feed(session, hello(received))
    assert not session.detach() and not session.resumable and session.unacknowledged == 0


def test_attempts_that_are_lost_half_way_change_nothing() -> None:
    source = Bytes(b"abc")
    session = connected_client(source, **OURS)
    session.mark_ready(1)
    sent = drain(session)
    assert session.detach()
    session.attach()  # lost before HELLO left
    assert session.detach()
    session.attach()
    drain(session)  # lost before the answer
    assert session.detach()
    session.attach()
    drain(session)
    feed(session, hello(0))
    assert session.next_message(4096)  # lost while it is sent again
    assert session.detach() and session.open_streams == 1
    assert resume(session, 0) == [Connect(1, "h", 1), *(f for f in sent if type(f) is not Ack)]


def test_worker_attempt_that_is_lost_half_way() -> None:
    session = connected_worker(**THEIRS)
    session.detach()
    session.attach()
    assert session.detach()
    session.attach()
    feed(session, hello(0))  # lost before our HELLO left
    assert session.detach()
    assert resume(session, 0) == [Connected(1)]


def test_client_may_send_nothing_before_the_answer_to_its_second_hello() -> None:
    session = connected_worker(**THEIRS)
    session.detach()
    session.attach()
    feed(session, hello(0))
    broken(session, "DATA: .*before our HELLO", Data(1, b"x"))


def test_second_hello_on_a_resumed_websocket() -> None:
    session = connected_worker(**THEIRS)
    resume(session, 1)
    broken(session, "HELLO: a second one", hello(1))
    session = connected_client(**OURS)
    session.detach()
    session.attach()
    drain(session)
    broken(session, "DATA: it came before HELLO", Data(1, b"x"))


@pytest.mark.parametrize("name", [None, "abd"])
def test_worker_session_is_resumed_by_its_own_id_only(name: str | None) -> None:
    session = connected_worker(**THEIRS)
    session.detach()
    session.attach()
    with pytest.raises(ProtocolError, match="HELLO: it does not name the session"):
        feed(session, hello(0, session=name))


def test_what_the_first_hello_said_stays() -> None:
    session = connected_client(**OURS)
    session.detach()
    session.attach()
    drain(session)
    feed(session, hello(1, streams=1, window=1))
    assert session.peer == RESUMING.hello(Role.WORKER)
    session.connect("h", 1, Bytes())


@pytest.mark.parametrize("name", ["other", None])
def test_client_starts_afresh_when_the_worker_has_forgotten(name: str | None) -> None:
    budget = Budget(1 << 30)
    clock = Clock()
    session = connected_client(Bytes(b"abc"), **OURS, kept_budget=budget, clock=clock)
    session.mark_ready(1)
    session.connect("h", 2, Bytes())
    feed(session, GoAway(503, ""))
    drain(session)
    session.detach()
    session.attach()
    drain(session)
    fresh = hello(0, session=name) if name else Hello()
    assert feed(session, fresh) == [StreamReset(1), StreamReset(2), SessionReady(fresh)]
    assert session.id == name and session.peer == fresh and session.resumes == 0
    clock.now += 1
    assert not session.has_output
    assert (session.counted_sent, session.counted_taken, session.unacknowledged) == (0, 0, 0)
    assert budget.used == 0 and session.open_streams == 0 and drain(session) == []
    assert session.resumable is (name is not None)
    stream = session.connect("h", 3, Bytes(b"new"))
    assert stream > 2  # no event can be taken for another stream's
    session.mark_ready(stream)
    assert drain(session) == [Connect(stream, "h", 3), Data(stream, b"new")]
    assert feed(session, Connected(stream), Ack(2) if name else Ping()) == [StreamConnected(stream)]
    assert session.counted_taken == 1


def test_breach_is_never_resumed() -> None:
    session = connected_client(**OURS)
    broken(session, "idle", Data(9, b"x"))
    assert not session.resumable and not session.detach()
    with pytest.raises(RuntimeError, match="over"):
        session.attach()
