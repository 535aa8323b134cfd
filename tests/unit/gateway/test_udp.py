"""UDP associations: one per local socket, from any host, bounded, never waiting."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address

import pytest

from tests.kits.gateway import FakeStack, FakeTunnel
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.policy import FlowPolicy
from zks_lwip.gateway.udp import AssociationTable
from zks_lwip.protocol import encode_udp
from zks_lwip.stack import BoundDatagrams, Datagram, DeliveredDatagrams, FramedDatagrams, Reject

LOCAL = ("198.18.0.1", 5000)
ALIAS = IPv4Address("198.18.0.2")


class Bench:
    def __init__(self, limit: int = 3) -> None:
        self.now = 0.0
        self.stack, self.tunnel, self.counters = FakeStack(), FakeTunnel(), GatewayCounters()
        self.all = AssociationTable(
            self.stack,
            self.tunnel,
            FlowPolicy(loopback_alias=ALIAS),
            self.counters,
            limit=limit,
            clock=lambda: self.now,
            carrier=self.tunnel,
        )

    def send(self, port: int, host: str = "192.0.2.1", payload: bytes = b"x") -> None:
        source = ("fd00::1" if ":" in host else LOCAL[0], port)
        self.all.send(Datagram(source=source, destination=(host, 7), payload=payload))


def test_one_association_per_local_socket_whatever_it_sends_to() -> None:
    bench = Bench()
    bench.send(5000, "192.0.2.1", b"a")
    bench.send(5000, "192.0.2.2", b"")
    bench.send(5001)
    first, second = bench.tunnel.associations
    assert first.sent == [("192.0.2.1", 7, b"a"), ("192.0.2.2", 7, b"")]
    assert len(second.sent) == 1 and len(bench.all) == 2


def test_a_datagram_from_any_host_arrives_from_that_host() -> None:
    bench = Bench()
    bench.send(5000)
    peer = bench.tunnel.associations[0].peer
    peer.on_datagram("203.0.113.9", 9999, memoryview(b"hello"))
    peer.on_datagram("2001:db8::1", 1, memoryview(b"no way"))
    assert bench.stack.sent == [(("203.0.113.9", 9999), LOCAL, b"hello")]
    assert bench.counters.datagrams_down == 1 and bench.counters.datagrams_dropped == 1


def test_the_alias_is_the_hosts_loopback_both_ways() -> None:
    bench = Bench()
    bench.send(5000, str(ALIAS))
    association = bench.tunnel.associations[0]
    assert association.sent[0][0] == "127.0.0.1"
    association.peer.on_datagram("127.0.0.1", 7, memoryview(b"pong"))
    assert bench.stack.sent[0][0] == (str(ALIAS), 7)


def test_the_least_recently_used_goes_first() -> None:
    bench = Bench(limit=2)
    bench.send(5000)
    bench.send(5001)
    bench.tunnel.associations[0].peer.on_datagram("192.0.2.1", 7, memoryview(b""))
    bench.send(5002)
    assert [item.closed for item in bench.tunnel.associations] == [False, True, False]
    assert bench.counters.associations_evicted == 1


def test_single_questions_do_not_end_what_lasts() -> None:
    """Nor the other way round: a quarter is for those, three quarters are for these."""
    bench = Bench(limit=8)
    for port in range(5000, 5008):  # calls, games, VPNs: they go on both ways
        bench.send(port)
        bench.tunnel.associations[-1].peer.on_datagram("192.0.2.1", 7, memoryview(b"a"))
        bench.send(port)
    calls = list(bench.tunnel.associations)
    for port in range(6000, 6050):  # one question each, answered or not
        bench.send(port)
        if port % 2:
            bench.tunnel.associations[-1].peer.on_datagram("192.0.2.1", 7, memoryview(b"a"))
    assert [call.closed for call in calls] == [True] * 2 + [False] * 6
    questions = bench.tunnel.associations[8:]
    assert [question.closed for question in questions] == [True] * 48 + [False] * 2
    for port in range(7000, 7050):  # new calls: what is theirs is no more than theirs
        bench.send(port)
        bench.tunnel.associations[-1].peer.on_datagram("192.0.2.1", 7, memoryview(b"a"))
        bench.send(port)
    assert len(bench.all) == 8 and sum(item.closed for item in bench.tunnel.associations) == 100
    assert all(call.closed for call in calls)  # the least recently used
    bench.all.limit = 3
    assert len(bench.all) == 3
    bench.all.close()
    assert len(bench.all) == 0 and all(item.closed for item in bench.tunnel.associations)


def test_idle_associations_end_and_busy_ones_stay() -> None:
    bench = Bench()
    bench.send(5000)
    bench.send(5001)
    bench.now = 200.0
    bench.send(5001)
    bench.all.expire(300.0)
    assert [item.closed for item in bench.tunnel.associations] == [True, False]
    bench.tunnel.associations[0].peer.on_datagram("192.0.2.1", 7, memoryview(b"late"))
    assert bench.stack.sent == []


def test_one_that_the_worker_dropped_is_opened_again() -> None:
    bench = Bench()
    bench.send(5000)
    bench.tunnel.associations[0].peer.on_udp_close()
    assert len(bench.all) == 0
    assert bench.tunnel.associations[0].closed, "the tunnel keeps it for good"
    bench.send(5000)
    assert len(bench.tunnel.associations) == 2 and len(bench.tunnel.associations[1].sent) == 1


def test_what_cannot_go_is_dropped_and_counted() -> None:
    bench = Bench()
    bench.tunnel.room = 1
    bench.send(5000)
    bench.send(5000)
    assert bench.counters.datagrams_up == 1 and bench.counters.datagrams_dropped == 1
    bench.stack.room = 0
    bench.tunnel.associations[0].peer.on_datagram("192.0.2.1", 7, memoryview(b""))
    assert bench.counters.datagrams_dropped == 2 and bench.counters.datagrams_down == 0


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (111, Reject.PORT_UNREACHABLE),
        (113, Reject.HOST_UNREACHABLE),
        (101, Reject.NET_UNREACHABLE),
        (403, Reject.PROHIBITED),
    ],
)
def test_an_icmp_error_at_the_worker_is_one_here(code: int, how: Reject) -> None:
    bench = Bench()
    bench.send(5000)
    bench.tunnel.associations[0].peer.on_udp_error(code, "192.0.2.1", 7)
    ((datagram, seen),) = bench.stack.refused
    assert seen is how
    assert (datagram.source, datagram.destination) == (LOCAL, ("192.0.2.1", 7))


def test_too_big_says_how_big_may_be() -> None:
    """UDP_ERROR does not, so it is what every path of IPv6 carries."""
    bench = Bench()
    bench.send(5000)
    bench.tunnel.associations[0].peer.on_udp_error(90, "192.0.2.1", 7)
    ((datagram, how),) = bench.stack.refused
    assert (how, bench.stack.mtus) == (Reject.TOO_BIG, [1280])
    assert datagram.destination == ("192.0.2.1", 7)


def test_an_error_of_the_other_family_is_not_told() -> None:
    bench = Bench()
    bench.send(5000)
    bench.tunnel.associations[0].peer.on_udp_error(111, "2001:db8::1", 7)
    assert bench.stack.refused == []


def test_each_association_has_a_line_for_its_beginning_and_one_for_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "zks_lwip")
    bench = Bench(limit=3)
    for port in (5000, 5001, 5002, 5003):
        bench.send(port)
        bench.send(port)  # no line of its own
    bench.tunnel.associations[1].peer.on_udp_close()
    bench.send(5004, "2001:db8::1")
    bench.now = 100.0
    bench.send(5003)
    bench.all.expire(bench.now, 60.0)
    bench.all.close()
    told = [record.message for record in caplog.records]
    assert [line for line in told if "opened" in line] == [
        *(
            f"udp 198.18.0.1:{port} -> 192.0.2.1:7: association opened"
            for port in range(5000, 5004)
        ),
        "udp [fd00::1]:5004 -> [2001:db8::1]:7: association opened",
    ]
    assert [line for line in told if "opened" not in line] == [
        "udp 198.18.0.1:5000: gave way to a newer one",
        "udp 198.18.0.1:5001: dropped by the worker",
        "udp 198.18.0.1:5002: idle for 60 s",
        "udp [fd00::1]:5004: idle for 60 s",
        "udp 198.18.0.1:5003: the tunnel ends",
    ]


def run_of(*sent: tuple[int, bytes]) -> FramedDatagrams:
    frames = b"".join(encode_udp(id, "192.0.2.1", 7, payload) for id, payload in sent)
    ids = list(dict.fromkeys(id for id, _ in sent))
    return FramedDatagrams(frames, len(sent), sum(len(payload) for _, payload in sent), ids)


def test_many_at_once_count_and_last_as_one_by_one() -> None:
    bench = Bench(limit=8)
    for port in (5000, 5001):
        bench.send(port)
    first, second = (item.identifier for item in bench.tunnel.associations)
    assert bench.stack.bound == {first: (LOCAL[0], 5000), second: (LOCAL[0], 5001)}
    bench.all.send_frames(run_of((first, b"abc"), (second, b"de"), (first, b"")))
    assert bench.tunnel.framed[0][1] == [first, second]
    assert (bench.counters.datagrams_up, bench.counters.datagram_bytes_up) == (2 + 3, 2 + 5)
    bench.tunnel.room = 0
    bench.all.send_frames(run_of((first, b"abc")))
    assert bench.counters.datagrams_dropped == 1
    bench.stack.result = DeliveredDatagrams(2, 30, 1, 4)
    frames = memoryview(run_of((first, b"x")).frames)
    assert bench.all.deliver(frames, (first, 99)) == 4
    assert bench.stack.delivered == [bytes(frames)]
    assert (bench.counters.datagrams_down, bench.counters.datagram_bytes_down) == (2, 30)
    assert bench.counters.datagrams_dropped == 2
    bench.all.send_frames(run_of((first, b"it lasts now")))
    for port in range(6000, 6008):
        bench.send(port)
    assert not bench.tunnel.associations[0].closed and bench.tunnel.associations[1].closed
    assert second not in bench.stack.bound and first in bench.stack.bound


def test_what_has_gone_as_frames_is_told_with_the_rest() -> None:
    bench = Bench()
    bench.send(5000, payload=b"ab")
    (info,) = bench.all.infos(bench.now)
    assert (info.bytes_up, info.bytes_down, info.destination) == (2, 0, ("192.0.2.1", 7))
    bench.stack.carried[1] = BoundDatagrams(("192.0.2.9", 9), 10, 20)
    (info,) = bench.all.infos(bench.now)
    assert (info.bytes_up, info.bytes_down, info.destination) == (12, 20, ("192.0.2.9", 9))


def test_frames_keep_an_association_from_being_idle() -> None:
    bench = Bench()
    bench.send(5000)
    bench.send(5001)
    for bench.now in (200.0, 400.0):
        bench.all.send_frames(run_of((1, b"x")))
    bench.all.expire(500.0)
    assert [item.closed for item in bench.tunnel.associations] == [False, True]
    bench.all.close()
    assert not bench.stack.bound
