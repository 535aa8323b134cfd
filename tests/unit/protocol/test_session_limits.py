"""Limits of streams, associations and requests; floods (PROTOCOL.md §3, §5)."""

from __future__ import annotations

import pytest

from tests.kits.session import (
    Bytes,
    broken,
    client,
    connected_client,
    connected_worker,
    datagram,
    drain,
    feed,
    worker,
)
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Close,
    Connect,
    Data,
    DnsAnswerReceived,
    DnsQuery,
    DnsQueryReceived,
    DnsResponse,
    Echo,
    EchoReceived,
    EchoReply,
    EchoReplyReceived,
    Error,
    Frame,
    GoAway,
    GoAwayReceived,
    Hello,
    Ping,
    Pong,
    Settings,
    StreamOpened,
    StreamReset,
    Udp,
    UdpClose,
    UdpClosed,
    UdpError,
    UdpErrorReceived,
    Window,
)
from zks_lwip.protocol.dns_refusal import servfail
from zks_lwip.protocol.outbox import MAX_DATAGRAM_BYTES, MAX_DNS_BYTES

# Limits


def test_streams_over_the_limit_are_refused() -> None:
    session = worker(settings=Settings(streams=2))
    assert feed(session, *(Connect(n, "h", 1) for n in (1, 2, 3))) == [
        StreamOpened(1, "h", 1),
        StreamOpened(2, "h", 1),
    ]
    assert drain(session) == [Error(3, 429, "2 streams are open")]
    assert not session.is_open(3) and session.stats.streams_refused == 1
    assert feed(session, Data(3, b"x"), Close(1), Connect(4, "h", 1)) == [
        StreamReset(1),
        StreamOpened(4, "h", 1),
    ]


def test_client_keeps_to_the_workers_streams() -> None:
    session = client(peer=Hello(streams=2))
    session.connect("h", 1, Bytes())
    assert session.can_connect
    session.connect("h", 1, Bytes())
    assert not session.can_connect
    with pytest.raises(RuntimeError):
        session.connect("h", 1, Bytes())
    drain(session)
    session.close(1)
    assert session.can_connect


def test_goaway() -> None:
    session = connected_worker(Bytes(b"x"))
    session.goaway(1001, "shutdown")
    session.mark_ready(1)
    assert drain(session) == [GoAway(1001, "shutdown"), Data(1, b"x")]
    assert feed(session, Connect(2, "h", 1)) == []
    assert drain(session) == [Error(2, 503, "the worker is going away")]
    session = connected_client(Bytes(b"x"))
    assert feed(session, GoAway(1001, "shutdown")) == [GoAwayReceived(1001, "shutdown")]
    assert not session.can_connect and session.is_open(1)
    session.mark_ready(1)
    assert drain(session) == [Data(1, b"x")]
    other = client()
    other.goaway(1000)
    assert not other.can_connect


def test_associations_over_the_limit_evict_the_least_recently_used() -> None:
    session = worker(settings=Settings(udp=True, associations=2))
    one, two, three = (Udp(n, "192.0.2.1", 1, b"") for n in (1, 2, 3))
    came1, came2, came3 = (datagram(n, "192.0.2.1", 1, b"") for n in (1, 2, 3))
    assert feed(session, one, two, one, two) == [came1, came2, came1, came2]
    assert session.send_udp(1, "192.0.2.1", 1, b"")  # 2 is now the older one
    drain(session)
    assert feed(session, three) == [UdpClosed(2), came3]
    assert drain(session) == [UdpClose(2)]
    assert not session.send_udp(2, "192.0.2.1", 1, b"")
    assert feed(session, two) == [UdpClosed(1), came2]
    assert session.stats.associations_evicted == 2
    drain(session)
    assert feed(session, UdpClose(3), UdpClose(3), one) == [UdpClosed(3), came1]
    session.udp_close(2)
    session.udp_close(2)
    assert drain(session) == [UdpClose(2)]
    assert feed(session, three) == [came3]
    assert feed(session, one, three, one, two) == [
        came1,
        came3,
        came1,
        UdpClosed(3),
        came2,
    ]


def test_worker_without_associations_takes_none() -> None:
    session = worker(settings=Settings(udp=True, associations=0))
    assert feed(session, Udp(1, "192.0.2.1", 1, b"")) == []


def test_udp_both_ways() -> None:
    session = client()
    assert session.send_udp(4, "192.0.2.1", 53, memoryview(b"abc"))
    session.udp_close(4)
    assert drain(session) == [Udp(4, "192.0.2.1", 53, b"abc"), UdpClose(4)]
    back = [Udp(4, "192.0.2.9", 7, b""), UdpError(4, 111, "192.0.2.1", 53), UdpClose(4)]
    assert feed(session, *back) == [
        datagram(4, "192.0.2.9", 7, b""),
        UdpErrorReceived(4, 111, "192.0.2.1", 53),
        UdpClosed(4),
    ]
    other = worker()
    feed(other, Udp(4, "192.0.2.1", 53, b"abc"))
    other.udp_error(4, 111, "192.0.2.1", 53)
    other.udp_error(5, 111, "192.0.2.1", 53)
    assert drain(other) == [UdpError(4, 111, "192.0.2.1", 53)]
    with pytest.raises(ValueError, match="65508"):
        client().send_udp(1, "192.0.2.1", 1, bytes(65508))


def test_who_carries_no_udp() -> None:
    session = client(peer=Hello())
    assert not session.send_udp(1, "192.0.2.1", 1, b"x")
    assert session.stats.datagrams_dropped == 1 and not session.has_output
    session = worker(settings=Settings())
    assert feed(session, Udp(1, "192.0.2.1", 1, b"x"), UdpClose(1)) == []


@pytest.mark.parametrize(
    "frame", [Udp(0, "h", 1, b""), DnsQuery(0, b""), Echo(0, "h", b"")], ids=["udp", "dns", "echo"]
)
def test_id_0(frame: Frame) -> None:
    broken(worker(), "0 does not exist", frame)


def test_waiting_datagrams_are_bounded_and_the_oldest_go() -> None:
    session = client()
    for number in range(3000):
        assert session.send_udp(1, "192.0.2.1", number, bytes(1000))
    assert session.outbox.datagram_size <= MAX_DATAGRAM_BYTES
    ports = [frame.port for frame in drain(session) if isinstance(frame, Udp)]
    assert ports == list(range(3000 - len(ports), 3000))
    assert session.stats.datagrams_dropped == 3000 - len(ports) > 1000
    # empty ones cost memory too
    before = session.stats.datagrams_dropped
    for _ in range(30_000):
        session.send_udp(1, "192.0.2.1", 1, b"")
    assert session.stats.datagrams_dropped - before > 30_000 - 15_000
    assert session.outbox.datagram_size <= MAX_DATAGRAM_BYTES
    drain(session)
    assert session.outbox.datagram_size == 0


QUERY = bytes.fromhex("abcd0110000100000000000103777777076578616d706c650000010001")


def test_dns_both_ways() -> None:
    session = client()
    assert session.dns_query(1, QUERY)
    assert drain(session) == [DnsQuery(1, QUERY)]
    assert feed(session, DnsResponse(1, b"a")) == [DnsAnswerReceived(1, b"a")]
    other = worker()
    assert feed(other, DnsQuery(1, QUERY)) == [DnsQueryReceived(1, QUERY)]
    other.dns_response(1, b"a")
    assert drain(other) == [DnsResponse(1, b"a")]
    other.dns_response(1, b"again")
    assert drain(other) == []
    assert not client(peer=Hello()).dns_query(1, QUERY)


def test_queries_over_the_limit_get_servfail() -> None:
    session = worker(settings=Settings(dns=True, requests=2))
    assert feed(session, *(DnsQuery(n, QUERY) for n in (1, 2, 3))) == [
        DnsQueryReceived(1, QUERY),
        DnsQueryReceived(2, QUERY),
    ]
    assert drain(session) == [DnsResponse(3, servfail(QUERY))]
    session.dns_response(1, b"a")
    # the answer has not left: its request still counts
    assert feed(session, DnsQuery(4, QUERY)) == []
    assert drain(session) == [DnsResponse(1, b"a"), DnsResponse(4, servfail(QUERY))]
    assert feed(session, DnsQuery(5, QUERY)) == [DnsQueryReceived(5, QUERY)]
    assert session.stats.dns_refused == 2


def test_one_request_id_twice_in_flight() -> None:
    session = worker(settings=Settings(dns=True, requests=1))
    assert len(feed(session, DnsQuery(1, QUERY))) == 1
    session.dns_response(1, b"a")
    drain(session)
    assert len(session.datagrams.queries) == 0
    session = worker()
    assert len(feed(session, DnsQuery(1, QUERY), DnsQuery(1, QUERY))) == 2
    session.dns_response(1, b"a")
    assert drain(session) == [DnsResponse(1, b"a")]
    session.dns_response(1, b"b")
    assert drain(session) == [DnsResponse(1, b"b")]
    assert len(session.datagrams.queries) == 0


def test_worker_without_dns_is_never_silent() -> None:
    session = worker(settings=Settings())
    assert feed(session, DnsQuery(1, QUERY)) == []
    assert drain(session) == [DnsResponse(1, servfail(QUERY))]


def test_servfail_keeps_id_and_question() -> None:
    answer = servfail(QUERY)
    question = QUERY[12:29]
    assert answer == bytes.fromhex("abcd8192000100000000 0000".replace(" ", "")) + question[:21]
    assert servfail(b"") == bytes.fromhex("000080010000000000000000")
    assert servfail(b"\x12")[:2] == b"\x12\x00"
    for bad in (QUERY[:12], QUERY[:20], QUERY[:-1], QUERY[:12] + b"\xc0\x0c\0\1\0\1"):
        assert servfail(bad) == bytes.fromhex("abcd81810000000000000000")
    assert servfail(QUERY[:12] + b"\x3f" + b"a" * 2000)[3] & 15 == 1


def test_echo_both_ways() -> None:
    session = client()
    assert session.echo(1, "192.0.2.1", b"abc")
    assert drain(session) == [Echo(1, "192.0.2.1", b"abc")]
    assert feed(session, EchoReply(1, b"abc")) == [EchoReplyReceived(1, b"abc")]
    assert not client(peer=Hello()).echo(1, "192.0.2.1", b"")
    other = worker()
    assert feed(other, Echo(1, "192.0.2.1", b"abc")) == [EchoReceived(1, "192.0.2.1", b"abc")]
    other.echo_reply(1, b"abc")
    assert drain(other) == [EchoReply(1, b"abc")]
    assert feed(worker(settings=Settings()), Echo(1, "192.0.2.1", b"")) == []


# Floods


def test_ping_is_always_answered() -> None:
    session = client()
    assert feed(session, Ping(), Ping(), Pong()) == []
    assert drain(session) == [Pong(), Pong()]
    feed(session, *[Ping()] * 4090)
    session.goaway(1001, "bye")
    sizes = []
    while (message := session.next_message(limit=4096)) is not None:
        sizes.append(len(message))
    assert sum(sizes) == 4090 + 14 and max(sizes) <= 4096


def test_ping_flood() -> None:
    session = client()
    for _ in range(100):
        feed(session, *[Ping()] * 1000)
        assert len(drain(session)) == 1000
    broken(session, "PING: 4096 of them wait", *[Ping()] * 5000)


def test_connect_flood() -> None:
    session = worker(settings=Settings(streams=1))
    stream = 1
    with pytest.raises(ProtocolError, match="CONNECT: .*does not read the answers"):
        while stream < 100_000:
            feed(session, *(Connect(n, "h", 1) for n in range(stream, stream + 1000)))
            assert session.outbox.control_size < 1 << 20
            stream += 1000
    assert stream > 2000


def test_connect_and_close_flood_leaves_nothing() -> None:
    session = worker()
    for stream in range(1, 5000):
        feed(session, Connect(stream, "h", 1))
        session.connected(stream)
        feed(session, Close(stream))
    assert drain(session) == [] and session.open_streams == 0
    assert session.outbox.control_size == 0


def test_dns_flood() -> None:
    session = worker(settings=Settings(dns=True, requests=1))
    with pytest.raises(ProtocolError, match="DNS_QUERY: .*does not read the answers"):
        for _ in range(100):
            feed(session, *(DnsQuery(n, QUERY) for n in range(1, 1000)))
            assert session.outbox.dns_size <= MAX_DNS_BYTES
    assert session.stats.dns_refused > 5000


def test_window_flood_costs_nothing() -> None:
    session = connected_client(peer=Hello(window=1))
    feed(session, *[Window(1, 1)] * 10_000)
    feed(session, *[Window(1, 0)] * 10_000)
    assert not session.has_output


def test_association_flood_is_bounded() -> None:
    session = worker(settings=Settings(udp=True, associations=10))
    for start in range(1, 50_001, 5000):
        feed(session, *(Udp(n, "192.0.2.1", 1, b"") for n in range(start, start + 5000)))
    assert len(session.datagrams.associations) == 10
    assert session.outbox.datagram_size <= MAX_DATAGRAM_BYTES


def test_queries_of_a_client_are_bounded() -> None:
    session = client()
    taken = sum(session.dns_query(n, bytes(60_000)) for n in range(1, 100))
    assert 10 < taken < 20 and session.stats.dns_refused == 99 - taken
    assert len(drain(session)) == taken
    assert session.dns_query(100, bytes(60_000))


def test_connects_of_a_stalled_client_are_bounded() -> None:
    session = client(peer=Hello(streams=10**9))
    opened = 0
    while session.can_connect:
        session.connect("h" * 200, 1, Bytes())
        opened += 1
    assert opened < 10_000
    drain(session)
    assert session.can_connect
