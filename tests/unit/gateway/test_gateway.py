"""The gateway as a whole: what each flow and datagram is given."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.kits.gateway import FakeFlow, FakeHello, FakeStack, FakeTunnel
from zks_lwip.config import Icmp, Ipv6, VpnConfig, parse_worker_url
from zks_lwip.errors import TunnelError
from zks_lwip.gateway import Direct, FlowRequest, Gateway, Tunnel
from zks_lwip.gateway.backlog import MAX_DATAGRAM_BYTES, MAX_DATAGRAMS
from zks_lwip.gateway.gateway import SWEEP_SECONDS
from zks_lwip.gateway.icmp import MAX_ECHOES
from zks_lwip.gateway.options import GatewayOptions
from zks_lwip.gateway.udp import DEFAULT_IDLE
from zks_lwip.net.descriptors import Descriptors
from zks_lwip.stack import Datagram, Reject

IsLoop = Callable[[tuple[str, int], tuple[str, int]], bool]
V4, V6 = ("192.0.2.1", 443), ("2001:db8::1", 443)


def never(source: tuple[str, int], destination: tuple[str, int]) -> bool:
    return False


class Names:
    """Answers every query at once."""

    def submit(
        self,
        query: bytes,
        reply: Callable[[bytes], None],
        *,
        transport: str = "udp",
        source: object = None,
    ) -> None:
        reply(b"answer to " + query)


class Bench:
    def __init__(self, options: GatewayOptions, **more: Any) -> None:
        self.stack, self.tunnel = FakeStack(), FakeTunnel()
        self.gateway = Gateway(self.stack, self.tunnel, Names(), options, **more)  # type: ignore[arg-type]

    def flow(self, destination: tuple[str, int]) -> FakeFlow:
        flow = FakeFlow(destination)
        self.stack.on_flow(flow)
        return flow

    def datagram(self, destination: tuple[str, int]) -> None:
        source = "fd00::1" if ":" in destination[0] else "198.18.0.1"
        self.stack.on_datagrams([Datagram((source, 5000), destination, b"q")])


@asynccontextmanager
async def bench(
    clock: Callable[[], float] = time.monotonic, is_loop: IsLoop = never, **settings: Any
) -> AsyncIterator[Bench]:
    """A running gateway; ``settings`` are those of the configuration."""
    b = Bench(VpnConfig(**settings).gateway, clock=clock, is_loop=is_loop)
    async with trio.open_nursery() as nursery:
        await nursery.start(b.gateway.run)
        yield b
        nursery.cancel_scope.cancel()


async def test_tcp_goes_to_the_tunnel_and_port_53_to_the_dns_service() -> None:
    async with bench() as b:
        assert b.flow(V4).log == []
        assert b.flow(V6).log == []
        assert b.flow(("198.18.0.2", 8000)).log == []
        assert [s.host for s in b.tunnel.streams] == ["192.0.2.1", "2001:db8::1", "127.0.0.1"]
        dns = b.flow(("9.9.9.9", 53))
        dns.incoming += b"\0\x0d" + b"q" * 2 + bytes(11)
        dns.handler.on_readable()
        await wait_all_tasks_blocked()
        assert dns.delivered == b"\0\x17answer to qq" + bytes(11) and len(b.tunnel.streams) == 3


async def test_a_worker_elsewhere_is_asked_for_the_address_itself() -> None:
    async with bench(worker=parse_worker_url("wss://w.example")) as b:
        b.flow(("198.18.0.2", 8000))
        assert b.tunnel.streams[0].host == "198.18.0.2"


@pytest.mark.parametrize(
    ("mode", "worker", "blocked"),
    [
        (Ipv6.BLOCK, FakeHello(ipv6=True), True),
        (Ipv6.TUNNEL, FakeHello(ipv6=False), False),
        (Ipv6.AUTO, FakeHello(ipv6=False), True),
        (Ipv6.AUTO, FakeHello(ipv6=True), False),
        (Ipv6.AUTO, None, False),
    ],
)
async def test_ipv6_is_tunnelled_or_refused_at_once(
    mode: Ipv6, worker: FakeHello | None, blocked: bool
) -> None:
    async with bench(ipv6=mode) as b:
        b.tunnel.peer = worker
        assert b.flow(V6).log == ([Reject.NET_UNREACHABLE] if blocked else [])
        b.datagram(V6)
        assert [how for _, how in b.stack.refused] == ([Reject.NET_UNREACHABLE] if blocked else [])
        assert b.flow(V4).log == []
        b.datagram(("2620:fe::fe", 53))
        await wait_all_tasks_blocked()
        assert b.stack.sent[-1][2] == b"answer to q"


async def test_udp_is_refused_at_once_where_the_worker_has_none() -> None:
    async with bench() as b:
        b.tunnel.peer = FakeHello(udp=False)
        b.datagram(V4)
        assert [how for _, how in b.stack.refused] == [Reject.PORT_UNREACHABLE]
        b.tunnel.peer = FakeHello()
        b.datagram(V4)
        assert len(b.tunnel.associations) == 1


async def test_flows_over_the_limit_are_refused() -> None:
    async with bench(max_flows=2) as b:
        flows = [b.flow(V4) for _ in range(2)]
        for stream in b.tunnel.streams:
            stream.peer.on_connected()
        assert b.flow(V4).log == [Reject.SILENT]
        assert [flow.log for flow in flows] == [["accept"]] * 2
        stats = b.gateway.stats()
        assert (stats["flows"], stats["flows_opened"], stats["flows_over_limit"]) == (2, 3, 1)


@pytest.mark.parametrize(
    ("mode", "worker", "payload"),
    [
        (Icmp.TUNNEL, FakeHello(), b"ping from 192.0.2.1"),
        (Icmp.REPLY, None, b"ping"),
        (Icmp.TUNNEL, FakeHello(icmp=False), None),
        (Icmp.TUNNEL, None, None),
        (Icmp.OFF, FakeHello(), None),
    ],
)
async def test_echo(mode: Icmp, worker: FakeHello | None, payload: bytes | None) -> None:
    async with bench(icmp=mode) as b:
        b.tunnel.peer = worker
        b.stack.on_echo("198.18.0.1", "192.0.2.1", 7, 1, b"ping")
        await wait_all_tasks_blocked()
        expected = [] if payload is None else [("192.0.2.1", "198.18.0.1", 7, 1, payload)]
        assert b.stack.replies == expected
        assert b.gateway.counters.echoes_dropped == (1 if payload is None else 0)


async def test_an_echo_that_fails_in_the_tunnel_is_dropped() -> None:
    async def lost(host: str, payload: bytes) -> bytes:
        raise TunnelError("the tunnel is down")

    async with bench() as b:
        b.tunnel.echo = lost
        b.stack.on_echo("198.18.0.1", "192.0.2.1", 7, 1, b"ping")
        await wait_all_tasks_blocked()
        assert b.stack.replies == [] and b.gateway.counters.echoes_dropped == 1


async def test_echoes_to_the_dead_make_room_for_those_to_the_living() -> None:
    """The oldest give way, and first those to the host that has most of them in flight."""
    slow = trio.Event()

    async def echo(host: str, payload: bytes) -> bytes:
        if host.startswith("192.0.2."):
            await slow.wait()
        elif not host.startswith("198.51.100."):
            await trio.sleep_forever()
        return payload

    async with bench() as b:
        b.tunnel.echo = echo

        def ping(host: str) -> None:
            b.stack.on_echo("198.18.0.1", host, 7, 1, host.encode())

        def answered() -> set[str]:
            return {source for source, *_ in b.stack.replies}

        far = [f"192.0.2.{n}" for n in range(20)]  # alive, a second away
        for host in far:
            ping(host)
        for n in range(5 * MAX_ECHOES):  # a flood of pings to one host that is dead
            ping("203.0.113.1")
            if n % 100 == 0:
                await wait_all_tasks_blocked()
        for n in range(MAX_ECHOES - 100):  # a sweep over a dead network
            ping(f"10.9.{n >> 8}.{n & 255}")
        near = [f"198.51.100.{n}" for n in range(256)]
        for host in near[:50]:
            ping(host)
        await wait_all_tasks_blocked()
        assert answered() == set(near[:50])
        slow.set()
        await wait_all_tasks_blocked()
        assert answered() == set(near[:50] + far)
        for host in near:
            ping(host)
            await wait_all_tasks_blocked()
        assert answered() == set(near + far)
        counters = b.gateway.counters
        assert counters.echoes_dropped + len(b.stack.replies) + MAX_ECHOES >= counters.echoes


async def test_an_echo_is_given_up_after_a_time(autojump_clock: MockClock) -> None:
    async with bench() as b:
        b.tunnel.echo = lambda host, payload: trio.sleep_forever()
        b.stack.on_echo("198.18.0.1", "192.0.2.1", 7, 1, b"ping")
        await trio.sleep(9)
        assert b.gateway.counters.echoes_dropped == 0
        await trio.sleep(2)
        assert b.gateway.counters.echoes_dropped == 1


async def test_no_more_associations_than_the_worker_has(autojump_clock: MockClock) -> None:
    async with bench() as b:
        b.tunnel.peer = FakeHello(associations=2)
        await trio.sleep(1.5)
        for port in range(5000, 5005):
            b.stack.on_datagrams([Datagram(("198.18.0.1", port), V4, memoryview(b"q"))])
        assert b.gateway.stats()["associations"] == 2
        assert [each.closed for each in b.tunnel.associations] == [True] * 3 + [False] * 2
        b.tunnel.peer = FakeHello(associations=0)  # nonsense
        await trio.sleep(1.5)
        assert b.gateway.stats()["associations"] == 1


async def test_a_mapping_lasts_five_minutes(autojump_clock: MockClock) -> None:
    """RFC 4787 REQ-5; with a worker that says less, as long as the worker's."""
    for says, lasts in ((300, 300), (100_000, 300), (60, 60)):
        async with bench(trio.current_time) as b:
            b.tunnel.peer = FakeHello(idle_udp=says)
            b.datagram(V4)
            await trio.sleep(lasts - 2)
            assert not b.tunnel.associations[0].closed
            await trio.sleep(4)
            assert b.tunnel.associations[0].closed


async def test_what_is_idle_is_swept(autojump_clock: MockClock) -> None:
    async with bench(trio.current_time) as b:
        b.tunnel.peer = FakeHello(idle_udp=5)
        b.datagram(V4)
        held = b.flow(V4)
        await trio.sleep(4)
        assert not b.tunnel.associations[0].closed
        await trio.sleep(3)
        assert b.tunnel.associations[0].closed
        await trio.sleep(130)
        assert held.log == [Reject.SILENT]


async def test_datagrams_wait_for_a_tunnel_that_is_down(autojump_clock: MockClock) -> None:
    async with bench() as b:
        b.tunnel.up = False
        payload = bytearray(b"q")
        b.stack.on_datagrams([Datagram(("198.18.0.1", 5000), V4, memoryview(payload))])
        payload[0] = 0  # what waits is a copy
        await trio.sleep(5)
        assert not b.tunnel.associations and not b.stack.refused
        b.tunnel.up = True
        await trio.sleep(0.1)
        assert b.tunnel.associations[0].sent == [(*V4, b"q")]


async def test_datagrams_are_refused_once_there_is_no_hope(autojump_clock: MockClock) -> None:
    async with bench() as b:
        b.tunnel.up = False
        b.datagram(V4)
        await trio.sleep(1)
        b.tunnel.hopeless = True
        await trio.sleep(0.1)
        assert [how for _, how in b.stack.refused] == [Reject.PORT_UNREACHABLE]
        b.datagram(V4)
        assert len(b.stack.refused) == 2, "not at once"
        b.tunnel.up, b.tunnel.hopeless = True, False
        b.datagram(V4)
        assert len(b.tunnel.associations[0].sent) == 1


async def test_only_so_many_datagrams_wait(autojump_clock: MockClock) -> None:
    async with bench() as b:
        b.tunnel.up = False
        for _ in range(MAX_DATAGRAMS + 5):
            b.datagram(V4)
        assert b.gateway.counters.datagrams_dropped == 5
        b.stack.on_datagrams([Datagram(("198.18.0.1", 5000), V4, bytes(MAX_DATAGRAM_BYTES))])
        assert b.gateway.counters.datagrams_dropped == 5 + MAX_DATAGRAMS
        b.tunnel.up = True
        await trio.sleep(0.1)
        assert len(b.tunnel.associations[0].sent) == 1


async def test_the_tunnels_own_connection_is_a_loop() -> None:
    asked: list[tuple[tuple[str, int], tuple[str, int]]] = []

    def is_loop(source: tuple[str, int], destination: tuple[str, int]) -> bool:
        asked.append((source, destination))
        return source[1] == 40000

    async with bench(is_loop=is_loop) as b:
        assert b.flow(V4).log == [Reject.HOST_UNREACHABLE]
        assert asked == [(("198.18.0.1", 40000), V4)] and b.gateway.counters.loops == 1
        other = FakeFlow(V4, ("198.18.0.1", 40001))
        b.stack.on_flow(other)
        assert other.log == [] and b.gateway.counters.loops == 1


async def test_a_direct_datagram_needs_no_worker_that_carries_udp() -> None:
    def decide(flow: FlowRequest) -> type[Direct] | type[Tunnel]:
        return Direct if flow.destination[0] == "127.0.0.1" else Tunnel

    b = Bench(VpnConfig().gateway, decide=decide)
    b.tunnel.peer = FakeHello(udp=False)
    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, trio.fail_after(60):
        await server.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            await nursery.start(b.gateway.run)
            b.datagram(server.getsockname())
            assert (await server.recvfrom(100))[0] == b"q"
            b.datagram(V4)
            await wait_all_tasks_blocked()
            assert [how for _, how in b.stack.refused] == [Reject.PORT_UNREACHABLE]
            nursery.cancel_scope.cancel()
    assert not b.tunnel.associations


async def test_of_flows_that_wait_for_decisions_each_new_one_takes_the_room_of_another() -> None:
    """Also where many come at once, before the tasks of the oldest have ended."""

    async def never_decides(flow: FlowRequest) -> type[Tunnel]:
        await trio.sleep_forever()
        return Tunnel

    b = Bench(VpnConfig(max_flows=2).gateway, decide=never_decides)
    async with trio.open_nursery() as nursery:
        await nursery.start(b.gateway.run)
        flows = [b.flow(V4) for _ in range(5)]
        for _ in range(2):
            assert [each.log for each in flows] == [[Reject.SILENT]] * 3 + [[], []]
            assert b.gateway.stats()["flows_held"] == 2
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_what_is_decided_of_datagrams_is_asked_again_after_silence(
    autojump_clock: MockClock,
) -> None:
    asked: list[tuple[str, int]] = []

    def decide(flow: FlowRequest) -> type[Tunnel]:
        asked.append(flow.destination)
        return Tunnel

    b = Bench(VpnConfig().gateway, decide=decide, clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        await nursery.start(b.gateway.run)
        for _ in range(3):
            b.datagram(V4)
            await trio.sleep(DEFAULT_IDLE - 2 * SWEEP_SECONDS)
        assert asked == [V4]
        await trio.sleep(4 * SWEEP_SECONDS)
        b.datagram(V4)
        await wait_all_tasks_blocked()
        assert asked == [V4, V4]
        nursery.cancel_scope.cancel()


async def test_direct_flows_have_descriptors_of_their_own() -> None:
    """A SYN over that meets silence; of UDP sockets the least recently used gives way."""

    def decide(flow: FlowRequest) -> type[Direct]:
        return Direct

    descriptors = Descriptors(4)
    b = Bench(VpnConfig().gateway, decide=decide, descriptors=descriptors)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket() as unused:
        server.bind(("127.0.0.1", 0))
        unused.bind(("127.0.0.1", 0))
        server.settimeout(60)
        async with trio.open_nursery() as nursery:
            await nursery.start(b.gateway.run)
            batch = [
                Datagram(("198.18.0.1", port), server.getsockname(), memoryview(b"%d" % port))
                for port in range(5000, 5010)
            ]
            for each in batch:
                b.stack.on_datagrams([each])
                await wait_all_tasks_blocked()  # it is decided, in a task
            b.stack.on_datagrams(batch)
            seen = sorted(server.recv(100) for _ in range(2 * len(batch)))
            assert seen == sorted(2 * [bytes(each.payload) for each in batch])
            assert [each.source[1] for each in b.gateway.flows()] == [5008, 5009]
            assert descriptors.free == 2
            for _ in range(2):
                descriptors.take()
            flow = b.flow(unused.getsockname())
            await wait_all_tasks_blocked()
            assert flow.log == [Reject.SILENT] and b.gateway.counters.flows_over_limit == 1
            last = Datagram(("198.18.0.1", 5010), server.getsockname(), memoryview(b"last"))
            b.stack.on_datagrams([last])
            await wait_all_tasks_blocked()
            assert server.recv(100) == b"last", "that of 5008 gave way"
            nursery.cancel_scope.cancel()
    assert descriptors.free == 2
