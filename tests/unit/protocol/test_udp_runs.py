"""Runs of UDP frames: found, cut, sent and dropped many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kits.session import broken, client, drain, worker
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    DatagramReceived,
    DatagramsReceived,
    Hello,
    Ping,
    Session,
    Settings,
    Udp,
    UdpClosed,
    datagrams_of,
    encode_udp,
    parse,
)
from zks_lwip.protocol.decode import EventReader
from zks_lwip.protocol.outbox import MAX_DATAGRAM_BYTES
from zks_lwip.protocol.udp_runs import MAX_RUN_ASSOCIATIONS, MAX_RUN_FRAMES, cut_frames

HOSTS = ("192.0.2.1", "2001:db8::1", "255.255.255.255", "::ffff:192.0.2.1", "1", "f")
ODD = ("example.com", "192.0.2.1 ", "fe80::1%eth0", "0x7f000001", "[::1]", "1" * 46)


def read_events(message: bytes) -> Iterator[Any]:
    """What a session reads in a message."""
    reader = EventReader(memoryview(message))
    position = 0
    while position < len(message):
        event, position = reader.read(position)
        yield event


def frames(count: int, *, first: int = 1, size: int = 10) -> list[Udp]:
    return [
        Udp(first, "192.0.2.1", n & 0xFFFF, n.to_bytes(4, "big") * (size // 4))
        for n in range(count)
    ]


def encoded(*some: Udp) -> bytes:
    return b"".join(frame.encode() for frame in some)


def flat(message: bytes) -> list[Udp]:
    """What :func:`read_events` finds, as frames."""
    found = []
    for event in read_events(message):
        if isinstance(event, DatagramsReceived):
            assert event.count == len(parse(event.frames)) <= MAX_RUN_FRAMES
            inner = [datagram for datagram, _ in datagrams_of(event.frames)]
            assert sum(len(datagram.payload) for datagram in inner) == event.size
            assert {datagram.association for datagram in inner} == set(event.associations)
            assert len(set(event.associations)) == len(event.associations) <= MAX_RUN_ASSOCIATIONS
            found += inner
        else:
            assert isinstance(event, DatagramReceived)
            found.append(event)
    return [Udp(x.association, x.host, x.port, bytes(x.payload)) for x in found]


@given(
    st.lists(
        st.builds(
            Udp,
            st.integers(1, 100) | st.integers(1, 2**32 - 1),
            st.sampled_from(HOSTS + ODD),
            st.integers(0, 65535),
            st.binary(max_size=40),
        ),
        min_size=1,
        max_size=300,
    )
)
def test_runs_hold_what_the_frames_say(some: list[Udp]) -> None:
    assert flat(encoded(*some)) == some


@given(st.binary(min_size=1, max_size=80), st.integers(0, 60))
def test_what_follows_a_run_is_read_as_without_it(tail: bytes, cut: int) -> None:
    whole = encoded(*frames(2))
    for message in (whole + tail, whole[: len(whole) - 1 - cut]):
        try:
            expected = parse(message) if message else []
        except ProtocolError as error:
            with pytest.raises(ProtocolError) as raised:
                list(read_events(message))
            assert str(raised.value) == str(error)
        else:
            assert len([x for x in expected if isinstance(x, Udp)]) <= 3


def test_runs_are_bounded() -> None:
    runs = list(read_events(encoded(*frames(MAX_RUN_FRAMES + 1))))
    assert [run.count for run in runs] == [MAX_RUN_FRAMES, 1]  # type: ignore[union-attr]
    many = [Udp(n + 1, "192.0.2.1", 1, b"x") for n in range(MAX_RUN_ASSOCIATIONS + 2)]
    runs = list(read_events(encoded(*many)))
    assert [run.count for run in runs] == [MAX_RUN_ASSOCIATIONS, 2]  # type: ignore[union-attr]


def test_literals_alone_are_in_runs() -> None:
    for host in HOSTS:
        assert [type(x) for x in read_events(encoded(Udp(1, host, 1, b"")))] == [DatagramsReceived]
    for host in ODD:
        assert [type(x) for x in read_events(encoded(Udp(1, host, 1, b"")))] == [DatagramReceived]


def test_association_0_is_refused_as_ever() -> None:
    session = worker(settings=Settings(udp=True))
    broken(session, "UDP: association 0", *frames(1), Udp(0, "192.0.2.1", 1, b"x"))


def test_a_run_that_opens_associations_opens_them_in_order() -> None:
    """With room for two, the third costs the first, though a datagram for that comes behind."""
    session = worker(settings=Settings(udp=True, associations=2))
    some = [Udp(n, "192.0.2.1", n, b"x") for n in (1, 2, 3, 1)]
    events = [e for e in session.work_through(encoded(*some)) if e is not None]
    kinds = [e.association for e in events if isinstance(e, DatagramReceived | UdpClosed)]
    assert kinds == [1, 2, 1, 3, 2, 1]
    assert [type(e) for e in events if isinstance(e, UdpClosed)] == [UdpClosed] * 2
    (run,) = session.work_through(encoded(*some[2:]))
    assert isinstance(run, DatagramsReceived) and set(run.associations) == {1, 3}
    assert session.stats.datagrams_in == 6


def sent(session: Session, limit: int) -> list[list[bytes]]:
    """The payloads of each message."""
    result = []
    while message := session.next_message(limit):
        assert len(message) <= limit
        result.append([bytes(x.payload) for x in parse(message) if isinstance(x, Udp)])
    return result


@pytest.mark.parametrize("limit", [4096, 16384, 262144])
def test_frames_are_cut_into_messages(limit: int) -> None:
    session = client()
    some = frames(500, size=1200)
    assert session.send_udp_frames(encoded(*some[:300]), 300)
    assert session.send_udp(1, "192.0.2.1", 1, b"between")
    assert session.send_udp_frames(encoded(*some[300:]), 200)
    messages = sent(session, limit)
    expected = [bytes(x.payload) for x in some]
    assert sum(messages, []) == [*expected[:300], b"between", *expected[300:]]
    assert all(len(x) >= limit // 1300 - 1 for x in messages[:-1])
    assert not session.has_output and session.outbox.datagram_size == 0


def test_one_that_is_larger_than_the_limit_leaves_alone() -> None:
    session = client()
    large = [Udp(1, "192.0.2.1", n, bytes(60_000)) for n in range(3)]
    assert session.send_udp_frames(encoded(*large), 3)
    session.ping()
    counts = []
    while message := session.next_message(4096):
        counts.append([type(x) for x in parse(message)])
    assert counts == [[Ping], [Udp], [Udp], [Udp]]


def test_the_oldest_are_dropped_one_by_one() -> None:
    session = client()
    some = frames(2000, size=1200)
    for start in range(0, 2000, 200):
        session.send_udp_frames(encoded(*some[start : start + 200]), 200)
        assert session.outbox.datagram_size <= MAX_DATAGRAM_BYTES
    dropped = session.stats.datagrams_dropped
    left = sum(sent(session, 262144), [])
    assert left == [bytes(x.payload) for x in some[dropped:]]
    assert len(left) > MAX_DATAGRAM_BYTES // 1300  # no more than had to go
    assert session.outbox.datagram_size == 0


def test_what_is_not_taken_is_counted() -> None:
    none = client(peer=Hello(udp=False))
    assert not none.send_udp_frames(encoded(*frames(3)), 3)
    assert none.stats.datagrams_dropped == 3
    idle = worker(settings=Settings(udp=True))
    assert not idle.send_udp_frames(encoded(*frames(3, first=7)), 3, 7)  # it is not open
    assert idle.stats.datagrams_dropped == 3 and not drain(idle)


def test_cut() -> None:
    run = encoded(*frames(3, size=8))
    each = len(run) // 3
    for size in range(len(run) + 2):
        assert cut_frames(run, size) == (size // each * each, size // each)
        whole = min(3, -(-size // each))
        assert cut_frames(run, size, at_least=True) == (whole * each, whole)
    assert cut_frames(encode_udp(1, "192.0.2.1", 1, b"")[:-1], 100) == (0, 0)
