"""Streams whose bytes C moves between messages and sockets, against the same moved by Python."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator

import pytest
from zks_lwip._lwip import ffi, lib

from tests.kits.session import Bytes, Clock, broken, came, connected_worker, drain, feed
from zks_lwip.protocol import (
    SOCKETS,
    Connect,
    Connected,
    Data,
    DataReceived,
    Eof,
    Event,
    Ping,
    Role,
    Session,
    Settings,
    Window,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no sockets in C on Windows")
Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Make connected TCP sockets on loopback, ours non-blocking, the far end second."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        made.extend((ours, theirs))
        ours.setblocking(False)
        theirs.settimeout(10)
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


class SocketSource:
    """What a stream asks where C does not serve it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked = 0
        self.errors: list[int] = []

    def pull_into(self, view: memoryview) -> int | None:
        self.asked += 1
        try:
            return self.sock.recv_into(view) or None
        except BlockingIOError:
            return 0

    def broke(self, errno: int, *, pushing: bool) -> None:
        self.errors.append(errno)


def opened(streams: int, **peer: int) -> Session:
    """A worker's session with streams 1, 2, ... that have no source."""
    session = Session(Role.WORKER, Settings(window=1 << 20, streams=2000), clock=Clock())
    session.attach()
    feed(session, Settings(**peer).hello(Role.CLIENT))
    drain(session)
    for stream in range(1, streams + 1):
        feed(session, Connect(stream, "192.0.2.1", 80))
    return session


def bound(session: Session, stream: int, sock: socket.socket) -> SocketSource:
    source = SocketSource(sock)
    session.accept(stream, source)
    session.connected(stream)
    session.bind(stream, SOCKETS, sock.fileno(), pull=True, push=True)
    return source


def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


@pytest.mark.parametrize("seed", range(12))
def test_what_is_sent_is_the_same(seed: int, pair: Pair) -> None:
    """In every byte: shares, order, credit, and the ends behind it."""
    chance = random.Random(seed)
    count = chance.choice([1, 2, 5, 9])
    window = chance.choice([1000, 40_000, 1 << 20])
    max_data = chance.choice([1024, 65535, 1 << 18])
    mine, model = (opened(count, window=window, max_data=max_data) for _ in range(2))
    sources = []
    for stream in range(1, count + 1):
        ours, theirs = pair()
        data = chance.randbytes(chance.choice([0, 10, 20_000, 150_000]))
        end = chance.random() < 0.7
        theirs.sendall(data)
        if end:
            theirs.shutdown(socket.SHUT_WR)
        sources.append(bound(mine, stream, ours))
        model.accept(stream, Bytes(data, end))
        model.connected(stream)
    drain(mine), drain(model)
    for stream in chance.sample(range(1, count + 1), count):
        mine.mark_ready(stream)
        model.mark_ready(stream)
    for _ in range(60):
        limit = chance.choice([4096, 30_000, 262144])
        message = mine.next_message(limit)
        assert message == model.next_message(limit)
        if message is None or chance.random() < 0.3:
            more = Window(chance.randint(1, count), chance.choice([1, 900, 50_000]))
            if mine.is_open(more.stream):
                assert feed(mine, more) == feed(model, more) == []
    assert mine.stats == model.stats and mine.counted_sent == model.counted_sent
    assert all(source.asked <= 1 for source in sources)  # for its end


@pytest.mark.parametrize("seed", range(6))
def test_what_comes_arrives_and_is_granted_again_alike(seed: int, pair: Pair) -> None:
    chance = random.Random(seed)
    mine, model = opened(3), opened(3)
    far = {}
    for stream in (1, 2, 3):
        ours, far[stream] = pair()
        bound(mine, stream, ours)
        model.accept(stream, Bytes())
        model.connected(stream)
    drain(mine), drain(model)
    came = dict.fromkeys(far, 0)
    granted = [dict.fromkeys(far, 0), dict.fromkeys(far, 0)]
    for _ in range(40):
        frames = [
            Data(chance.randint(1, 3), chance.randbytes(chance.choice([0, 1, 500, 30_000])))
            if chance.random() < 0.9
            else chance.choice([Ping(), Window(chance.randint(1, 3), 5)])
            for _ in range(chance.randint(1, 9))
        ]
        assert feed(mine, *frames) == []
        expected = dict.fromkeys(far, b"")
        for event in feed(model, *frames):
            assert isinstance(event, DataReceived)
            expected[event.stream] += event.payload
        for stream, sock in far.items():
            model.consumed(stream, len(expected[stream]))
            assert received(sock, len(expected[stream])) == expected[stream]
            came[stream] += len(expected[stream])
        rest = []
        for session, credit in zip((mine, model), granted, strict=True):
            said = drain(session)
            for frame in said:
                if isinstance(frame, Window):
                    credit[frame.stream] += frame.credit
            rest.append([frame for frame in said if not isinstance(frame, Window)])
            for stream in far:  # in the midst of a message, or at its end
                assert came[stream] - (1 << 18) < credit[stream] <= came[stream]
        assert rest[0] == rest[1]
    assert mine.stats == model.stats and mine.counted_taken == model.counted_taken


def test_what_a_socket_does_not_take_is_the_owners_until_it_binds_again(pair: Pair) -> None:
    session = opened(1)
    ours, theirs = pair()
    bound(session, 1, ours)
    drain(session)
    data = random.Random(1).randbytes(900_000)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    filled = 0
    theirs.setblocking(False)
    events = feed(session, Data(1, data[:60_000]), Data(1, data[60_000:65_000]), Eof(1))
    kept = b"".join(event.payload for event in events if isinstance(event, DataReceived))
    assert 5000 < len(kept) <= 65_000 and kept == data[65_000 - len(kept) : 65_000]
    window = session.streams.open[1].window
    assert window.held == len(kept)
    while True:
        try:
            filled += len(theirs.recv(1 << 20))
        except BlockingIOError:
            break
    assert filled
    session.consumed(1, len(kept))
    assert window.held == 0


def test_what_comes_does_not_overtake_a_rest_that_was_kept_after_binding_again() -> None:
    """Of two DATA of one message the target takes nothing, then the owner passes the first on and
    binds again; it keeps the second. There is room again when a third one comes."""
    session = opened(1)
    session.accept(1, Bytes())
    session.connected(1)
    room = 0

    @ffi.callback("int64_t(void *, uint64_t, const uint8_t *, size_t)")
    def push(_context: object, _handle: int, _data: object, length: int) -> int:
        return min(length, room)

    target = ffi.new("struct zks_mux_target *", {"push": push})
    session.bind(1, target, 0, push=True)
    assert feed(session, Data(1, b"first")) == [came(1, b"first")]
    session.bind(1, target, 0, push=True)
    work = session.work_through(Data(1, b"second").encode() + Data(1, b"third").encode())
    assert next(work) == came(1, b"second")
    session.bind(1, target, 0, push=True)  # it was passed on
    assert next(work) == came(1, b"third")
    assert list(work) == [None]
    room = 1000
    assert feed(session, Data(1, b"fourth")) == [came(1, b"fourth")]
    session.bind(1, target, 0, push=True)
    assert feed(session, Data(1, b"fifth")) == []


def test_an_error_of_a_socket_is_told_once(pair: Pair) -> None:
    session = opened(2)
    (ours, theirs), (other, peer) = pair(), pair()
    sources = [bound(session, 1, ours), bound(session, 2, other)]
    drain(session)
    for sock in (theirs, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    assert feed(session, Data(1, b"abc")) == [came(1, b"abc")]
    session.mark_ready(2)
    drain(session)
    assert [source.errors for source in sources] == [[104], [104]]


def test_a_stream_that_ends_is_not_served_any_more(pair: Pair) -> None:
    session = opened(2)
    ours, theirs = pair()
    bound(session, 1, ours)
    theirs.sendall(b"never")
    session.mark_ready(1)
    session.close(1)
    session.bind(1, SOCKETS, ours.fileno(), pull=True)  # harmless
    session.unbind(1)
    assert not any(isinstance(frame, Data) for frame in drain(session))
    assert feed(session, Data(1, b"late")) == [] and received(ours, 5) == b"never"


def test_unbound_streams_are_python_s_again(pair: Pair) -> None:
    session = opened(1)
    ours, theirs = pair()
    source = bound(session, 1, ours)
    session.unbind(1)
    drain(session)
    theirs.sendall(b"abc")
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"abc")] and source.asked
    assert feed(session, Data(1, b"def")) == [came(1, b"def")]


def test_credit_holds_in_c_too(pair: Pair) -> None:
    session = opened(1)
    ours, theirs = pair()
    bound(session, 1, ours)
    drain(session)
    fits = session.streams.open[1].window.available
    assert feed(session, *(Data(1, bytes(32768)) for _ in range(fits // 32768 - 1))) is not None
    rest = session.streams.open[1].window.available
    assert rest < fits
    broken(session, f"its credit is {rest}", Data(1, bytes(rest + 1)))


def test_a_stream_is_closed_by_who_acts_on_its_first_bytes() -> None:
    """What came behind them is no stream's, though it was taken together with them."""
    session = connected_worker()
    work = session.work_through(Data(1, b"a").encode() * 3 + Ping().encode())
    assert next(work) == came(1, b"a")
    session.close(1)
    assert [event for event in work if event is not None] == []


def test_a_source_may_close_any_stream_while_it_is_asked() -> None:
    session = opened(3)

    class Closer(Bytes):
        def pull_into(self, view: memoryview) -> int | None:
            session.close(1)
            session.close(3)
            return super().pull_into(view)

    for stream, source in enumerate([Bytes(b"a"), Closer(b"b"), Bytes(b"c")], 1):
        session.accept(stream, source)
        session.connected(stream)
        session.mark_ready(stream)
    sent = drain(session)
    assert [frame.stream for frame in sent if isinstance(frame, Data)] == [1, 2]


def test_very_many_streams() -> None:
    """They are found whatever their number, and those that are closed are not."""
    client = Session(Role.CLIENT, Settings(), clock=Clock())
    client.attach()
    drain(client)
    feed(client, Settings(streams=5000).hello(Role.WORKER))
    ids = [client.connect("h", 1, Bytes(b"%d" % n)) for n in range(3000)]
    drain(client)
    feed(client, *(Connected(stream) for stream in ids))
    for stream in ids[::3]:
        client.close(stream)
    left = [stream for stream in ids if client.is_open(stream)]
    assert len(left) == 2000
    drain(client)
    events: list[Event] = feed(client, *(Data(stream, b"%d" % stream) for stream in ids))
    assert events == [came(stream, b"%d" % stream) for stream in left]
    for stream in left:
        client.mark_ready(stream)
    assert [frame.stream for frame in drain(client) if isinstance(frame, Data)] == left
    client.end()
    assert client.open_streams == 0


def test_a_client_cannot_choose_ids_that_stand_in_one_place() -> None:
    """Or each of its frames would be looked for among all of its streams."""
    mux = ffi.gc(lib.zks_mux_new(0, 65535, 20_240_229), lib.zks_mux_free)
    streams = [ffi.new("struct zks_mux_stream *", {"id": n << 16}) for n in range(1, 4097)]
    for stream in streams:
        lib.zks_mux_add(mux, stream)
    lengths = []
    for place in range(mux.table_mask + 1):
        at, length = mux.table[place], 0
        while at:
            at, length = at.table_next, length + 1
        lengths.append(length)
    assert sum(lengths) == len(streams) and max(lengths) <= 16
    for stream in streams:
        lib.zks_mux_remove(mux, stream)
    assert not mux.streams and all(stream.gone for stream in streams)
