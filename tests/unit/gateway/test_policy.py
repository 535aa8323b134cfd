"""What is served where, and what an application sees of a refusal."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.kits.gateway import FakeHello
from zks_lwip.gateway.options import Icmp, Ipv6
from zks_lwip.gateway.policy import FlowPolicy, Service, udp_refusal_for
from zks_lwip.stack import Reject

V4, V6 = "192.0.2.1", "2001:db8::1"


@pytest.mark.parametrize(
    ("destination", "tcp", "udp"),
    [
        ((V4, 443), Service.TUNNEL, Service.TUNNEL),
        ((V4, 53), Service.DNS, Service.DNS),
        ((V6, 53), Service.DNS, Service.DNS),  # although IPv6 is blocked
        ((V6, 443), Reject.NET_UNREACHABLE, Reject.NET_UNREACHABLE),
        ((V4, 853), Reject.RST, Reject.PORT_UNREACHABLE),
        ((V6, 853), Reject.RST, Reject.PORT_UNREACHABLE),
    ],
)
def test_by_destination(
    destination: tuple[str, int], tcp: Service | Reject, udp: Service | Reject
) -> None:
    policy = FlowPolicy(ipv6=Ipv6.BLOCK, refuses=lambda port: port == 853)
    assert policy.decide(destination) is tcp
    assert policy.decide_datagram(destination, carried=True) is udp


@pytest.mark.parametrize(
    ("worker", "hopeless", "carried"),
    [
        (FakeHello(), False, True),
        (None, False, True),  # not known yet: they wait
        (FakeHello(udp=False), False, False),
        (FakeHello(), True, False),
    ],
)
def test_datagrams_that_the_worker_does_not_carry(
    worker: FakeHello | None, hopeless: bool, carried: bool
) -> None:
    policy = FlowPolicy(worker=lambda: worker)
    assert policy.carries_datagrams(hopeless=hopeless) is carried
    expected = Service.TUNNEL if carried else Reject.PORT_UNREACHABLE
    assert policy.decide_datagram((V4, 443), carried=carried) is expected
    assert policy.decide_datagram((V4, 53), carried=carried) is Service.DNS


@pytest.mark.parametrize(
    ("icmp", "worker", "v4", "v6"),
    [
        (Icmp.TUNNEL, FakeHello(), Service.TUNNEL, Service.TUNNEL),
        (Icmp.TUNNEL, FakeHello(ipv6=False), Service.TUNNEL, Reject.SILENT),
        (Icmp.TUNNEL, FakeHello(icmp=False), Reject.SILENT, Reject.SILENT),
        (Icmp.TUNNEL, None, Reject.SILENT, Reject.SILENT),
        (Icmp.REPLY, None, Service.GATEWAY, Service.GATEWAY),
        (Icmp.REPLY, FakeHello(ipv6=False), Service.GATEWAY, Service.GATEWAY),
        (Icmp.OFF, FakeHello(), Reject.SILENT, Reject.SILENT),
    ],
)
def test_echo_requests(
    icmp: Icmp, worker: FakeHello | None, v4: Service | Reject, v6: Service | Reject
) -> None:
    policy = FlowPolicy(icmp=icmp, worker=lambda: worker)
    assert policy.decide_echo(V4) is v4
    assert policy.decide_echo(V6) is v6


def test_an_mtu_is_told_only_with_too_big() -> None:
    assert udp_refusal_for(90) == (Reject.TOO_BIG, 1280)
    assert udp_refusal_for(111) == (Reject.PORT_UNREACHABLE, 0)
    assert udp_refusal_for(999) == (Reject.HOST_UNREACHABLE, 0)


def test_the_alias_stands_for_the_workers_loopback() -> None:
    policy = FlowPolicy(loopback_alias=IPv4Address("198.18.0.2"))
    assert policy.to_worker("198.18.0.2") == "127.0.0.1"
    assert policy.from_worker("127.0.0.1") == "198.18.0.2"
    plain = FlowPolicy()
    assert plain.to_worker("198.18.0.2") == plain.from_worker("198.18.0.2") == "198.18.0.2"
    assert plain.from_worker("127.0.0.1") == "127.0.0.1"
