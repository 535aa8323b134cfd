"""What leaves first, and how large messages get."""

from __future__ import annotations

import pytest

from tests.kits.session import (
    WORKER,
    Bytes,
    client,
    connected_client,
    connected_worker,
    drain,
    feed,
)
from zks_lwip.protocol import (
    Connect,
    Connected,
    Data,
    DnsQuery,
    Eof,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Role,
    Session,
    Udp,
    Window,
    parse,
)

# Fair order


def test_datagrams_and_control_go_before_data() -> None:
    session = connected_client(Bytes(b"x" * 50))
    session.mark_ready(1)
    session.connect("h", 2, Bytes())
    session.send_udp(1, "192.0.2.1", 53, b"u")
    session.dns_query(1, b"q")
    session.ping()
    message = session.next_message()
    assert message is not None and not session.has_output
    assert parse(message) == [
        Ping(),
        DnsQuery(1, b"q"),
        Udp(1, "192.0.2.1", 53, b"u"),
        Connect(2, "h", 2),
        Data(1, b"x" * 50),
    ]


def test_counted_frames_are_the_tail_of_a_message() -> None:
    session = connected_worker(Bytes(b"x" * 9, end=True), settings=WORKER)
    feed(session, Connect(2, "h", 1), Data(1, bytes(600_000)[:262144]), Data(1, bytes(262144)))
    feed(session, DnsQuery(1, b"x" * 12), Udp(3, "192.0.2.1", 1, b""), Ping())
    session.consumed(1, 524288)
    session.connected(2)
    session.mark_ready(1)
    session.dns_response(1, b"a")
    session.send_udp(3, "192.0.2.1", 1, b"u")
    session.goaway(1001)
    frames = drain(session)
    counted = [frame.counted for frame in frames]
    assert counted == sorted(counted) and counted.count(True) == 4
    assert {type(frame) for frame in frames} >= {Window, Connected, Data, Eof, Pong, GoAway}
    assert session.counted_sent == 5


def test_a_small_sender_goes_before_bulk() -> None:
    session = client()
    for number in (1, 2, 3):
        session.connect("h", number, Bytes(bytes([number]) * 600_000))
        session.mark_ready(number)
    drained = session.next_message()  # all three have used up what a fresh one gets
    assert drained is not None
    session.connect("h", 4, Bytes(b"key"))
    session.mark_ready(4)
    message = session.next_message()
    assert message is not None
    frames = [frame for frame in parse(message) if isinstance(frame, Data)]
    assert frames[0] == Data(4, b"key")
    assert len(frames) > 1


@pytest.mark.parametrize(("limit", "then"), [(262144, 65536), (32768, 16384), (8192, 8192)])
def test_messages_are_smaller_while_one_sends_little_beside_bulk(limit: int, then: int) -> None:
    now = 0.0
    session = client(peer=Hello(window=1 << 24, max_data=1 << 18), clock=lambda: now)
    little = Bytes()
    for number, source in ((1, Bytes(bytes(4_000_000))), (2, little)):
        session.connect("h", number, source)
    drain(session)
    session.mark_ready(1)
    session.next_message(limit=limit)  # a fresh one gets a small share first

    def size() -> int:
        message = session.next_message(limit=limit)
        assert message is not None
        return len(message)

    assert [size() > limit * 0.7 for _ in range(3)] == [True] * 3
    for data in (b"first", b"key"):
        little.data = data
        session.mark_ready(2)
        assert size() > limit * 0.7
    for _ in range(3):
        assert then * 0.7 < size() <= then
        now += 0.08
    now += 0.02
    assert size() > limit * 0.7


@pytest.mark.parametrize("sizes", [[1461, 1461, 1461], [1, 1461, 1, 1461], [1, 20_000, 1]])
def test_messages_stay_large_where_none_goes_on_to_send_little(sizes: list[int]) -> None:
    """What a stream begins with, a request mostly, says nothing about it."""
    other = Bytes()
    session = client(peer=Hello(window=1 << 24, max_data=1 << 18))
    for number, source in ((1, Bytes(bytes(4_000_000))), (2, other)):
        session.connect("h", number, source)
    session.mark_ready(1)
    session.next_message()
    for size in sizes:
        other.data = bytes(size)
        session.mark_ready(2)
        for _ in range(2):
            message = session.next_message()
            assert message is not None and len(message) > 200_000


def test_one_that_sends_little_alone_changes_nothing() -> None:
    little, bulk = Bytes(), Bytes()
    session = client(peer=Hello(window=1 << 24, max_data=1 << 18))
    for number, source in ((1, little), (2, bulk)):
        session.connect("h", number, source)
    for _ in range(5):
        little.data = b"key"
        session.mark_ready(1)
        drain(session)
    bulk.data = bytes(1_000_000)
    session.mark_ready(2)
    session.next_message()  # a fresh one gets a small share first
    message = session.next_message()
    assert message is not None and len(message) > 200_000


def test_bulk_streams_take_turns() -> None:
    session = client(peer=Hello(window=1 << 20, max_data=1 << 20))
    for number in range(1, 9):
        session.connect("h", number, Bytes(b"x" * 1_000_000))
        session.mark_ready(number)
    sent = dict.fromkeys(range(1, 9), 0)
    for _ in range(20):
        message = session.next_message(limit=65536)
        assert message is not None and len(message) <= 65536
        for frame in parse(message):
            if isinstance(frame, Data):
                sent[frame.stream] += len(frame.payload)
    assert max(sent.values()) - min(sent.values()) <= 2 * 65536


def test_many_small_senders_do_not_starve_bulk() -> None:
    session = client(peer=Hello(window=1 << 20, max_data=1 << 20))
    sources = [Bytes(b"x" * 1000) for _ in range(100)]
    for number, source in enumerate([Bytes(b"y" * 1_000_000), *sources], start=1):
        session.connect("h", number, source)
    drain(session)
    session.mark_ready(1)
    session.next_message(limit=16384)
    for number in range(2, 102):
        session.mark_ready(number)
    message = session.next_message(limit=16384)
    assert message is not None
    sent = [frame.stream for frame in parse(message) if isinstance(frame, Data)]
    assert sent[-1] == 1 and len(sent) > 5


def test_datagrams_do_not_starve_streams() -> None:
    source = Bytes(b"y" * 100_000)
    session = connected_client(source)
    session.mark_ready(1)
    for _ in range(1000):
        session.send_udp(1, "192.0.2.1", 1, bytes(500))
    for _ in range(3):
        message = session.next_message(limit=16384)
        assert message is not None
        data = sum(len(frame.payload) for frame in parse(message) if isinstance(frame, Data))
        assert data >= 7000


def test_large_datagrams_do_not_starve_streams_of_small_messages() -> None:
    session = connected_client(Bytes(b"y" * 1_000_000))
    session.mark_ready(1)
    for _ in range(10):
        session.send_udp(1, "192.0.2.1", 1, bytes(65507))
    udp = data = 0
    for _ in range(60):
        for frame in parse(session.next_message(limit=4096) or b"\x05"):
            udp += len(frame.payload) if isinstance(frame, Udp) else 0
            data += len(frame.payload) if isinstance(frame, Data) else 0
    assert data > 50_000 and 50_000 < udp < 200_000


def test_datagrams_whose_turn_went_to_streams_that_have_nothing() -> None:
    session = connected_client(Bytes())
    for _ in range(2):
        session.send_udp(1, "192.0.2.1", 1, bytes(65000))
    session.mark_ready(1)
    assert len(drain(session, limit=4096)) == 2


@pytest.mark.parametrize("limit", [4096, 5000, 16384, 262144, 1 << 30])
def test_messages_keep_to_the_limit(limit: int) -> None:
    peer = Hello(window=1 << 20, max_message=131072, max_data=1 << 20, udp=True, dns=True)
    session = client(peer=peer)
    for number in range(1, 300):
        session.connect("host" * 50, number, Bytes(b"x" * 3000, end=number % 2 == 0))
        session.mark_ready(number)
        session.send_udp(number, "192.0.2.1", 1, b"u" * 200)
        session.dns_query(number, b"q" * 100)
    session.connect("h", 1, Bytes(b"x" * 1_000_000))
    session.mark_ready(300)
    seen: list[Frame] = []
    while (message := session.next_message(limit)) is not None:
        assert len(message) <= min(limit, 131072)
        seen += parse(message)
    assert sum(isinstance(frame, Connect) for frame in seen) == 300
    assert sum(len(f.payload) for f in seen if isinstance(f, Data)) == 299 * 3000 + 1_000_000
    opened: set[int] = set()
    for frame in seen:
        if isinstance(frame, Connect):
            opened.add(frame.stream)
        elif isinstance(frame, Data | Eof):
            assert frame.stream in opened


def test_limit_below_the_least() -> None:
    with pytest.raises(ValueError, match="4095"):
        client().next_message(4095)


def test_data_keeps_to_the_peers_max_data() -> None:
    session = connected_client(Bytes(b"x" * 10_000), peer=Hello(max_data=1024))
    session.mark_ready(1)
    sizes = [len(frame.payload) for frame in drain(session) if isinstance(frame, Data)]
    assert max(sizes) == 1024 and sum(sizes) == 10_000


def test_wake_is_called_once_until_the_output_is_taken() -> None:
    calls: list[bool] = []
    session = client(wake=lambda: calls.append(True))
    calls.clear()
    session.connect("h", 1, Bytes(b"x"))
    session.mark_ready(1)
    session.ping()
    session.send_udp(1, "192.0.2.1", 1, b"")
    assert len(calls) == 1
    drain(session)
    session.ping()
    assert len(calls) == 2
    drain(session)
    feed(session, Ping())
    assert len(calls) == 3
    drain(session)
    session.mark_ready(1)
    assert len(calls) == 4


def test_wake_tells_a_worker_of_its_hello() -> None:
    calls: list[bool] = []
    session = Session(Role.WORKER, WORKER)
    session.attach(lambda: calls.append(True))
    session.goaway(1001)
    assert not calls and not session.has_output
    feed(session, Hello())
    assert calls == [True]
    assert [type(frame) for frame in drain(session)] == [Hello, GoAway]


@pytest.mark.parametrize("size", range(4096 - 30, 4096 + 10))
def test_an_eof_finds_room_behind_the_last_data(size: int) -> None:
    session = connected_client(Bytes(b"x" * size, end=True))
    session.mark_ready(1)
    frames: list[Frame] = []
    while (message := session.next_message(4096)) is not None:
        assert len(message) <= 4096
        frames += parse(message)
    assert b"".join(frame.payload for frame in frames[:-1]) == b"x" * size
    assert frames[-1] == Eof(1)


def test_bulk_streams_share_a_message_in_pieces_worth_a_frame() -> None:
    session = client(peer=Hello(window=1 << 24, max_data=1 << 20))
    for number in range(1, 11):
        session.connect("h", number, Bytes(b"x" * 2_000_000))
        session.mark_ready(number)
    session.next_message()
    for limit in (262144, 66_000, 67_000, 131_200):
        message = session.next_message(limit)
        assert message is not None
        frames = parse(message)
        assert len({frame.stream for frame in frames}) == len(frames) == max(1, limit // 65536)
        assert all(len(frame.payload) >= 2048 for frame in frames)


def test_data_never_overtakes_its_connect() -> None:
    session = client()
    for number in range(1, 101):
        session.connect("h" * 200, number, Bytes(b"x" * 10))
    session.mark_ready(100)
    seen: list[Frame] = []
    while (message := session.next_message(4096)) is not None:
        seen += parse(message)
    assert seen[-1] == Data(100, b"x" * 10) and len(seen) == 101
