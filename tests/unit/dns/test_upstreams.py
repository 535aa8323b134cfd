"""Which way queries go, and plain DNS for forwarded domains."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from tests.kits import dns_servers as servers
from tests.kits.dns_servers import (
    AUTHORITY,
    Server,
    answer_to,
    blackhole,
    http2,
    listening,
    server_context,
)
from tests.kits.ports import on_one_port, refused_udp_port
from tests.kits.until import until
from zks_lwip.dns import DnsService, ResolverError, Via, choose_via, make_upstreams
from zks_lwip.dns.message.framing import Deframer, frame
from zks_lwip.dns.message.wire import Ede
from zks_lwip.dns.upstream.dial import direct
from zks_lwip.dns.upstream.encrypted import Timeouts
from zks_lwip.dns.upstream.plain import MAX_SOCKETS, MAX_STREAMS, MAX_WAITING, PlainResolver
from zks_lwip.errors import ConfigError, TunnelError


class Tunnel:
    """A tunnel that connects on this machine, or refuses."""

    def __init__(self) -> None:
        self.up = True
        self.silent = self.hopeless = False
        self.refuse = False
        self.connects: list[tuple[str, int]] = []
        self.asked: list[bytes] = []

    def slowness(self) -> float:
        return 0.0

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None

    async def dns_query(self, message: bytes) -> bytes:
        self.asked.append(message)
        return answer_to(message)

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        self.connects.append((host, port))
        if self.refuse:
            raise TunnelError("the worker refused (502)")
        stream = await direct()(host, port)
        assert isinstance(stream, trio.SocketStream)
        return stream


@pytest.mark.parametrize(
    ("asked", "embedded", "v1", "chosen"),
    [
        (Via.AUTO, True, False, Via.DIRECT),
        (Via.AUTO, False, True, Via.WORKER),
        (Via.AUTO, False, False, Via.AUTO),
        (Via.DIRECT, False, False, Via.DIRECT),
        (Via.TUNNEL, True, False, Via.TUNNEL),
        (Via.WORKER, False, False, Via.WORKER),
    ],
)
def test_which_way(asked: Via, embedded: bool, v1: bool, chosen: Via) -> None:
    assert choose_via(asked, embedded=embedded, v1=v1) is chosen


def test_worker_with_the_embedded_worker_would_leak() -> None:
    with pytest.raises(ConfigError, match="plain DNS"):
        choose_via(Via.WORKER, embedded=True)


def test_the_worker_is_asked_last_or_alone() -> None:
    inside = make_upstreams(tunnel=Tunnel(), embedded=False)
    assert [resolver.name for resolver in inside.resolvers][-1] == "worker"
    only = make_upstreams(tunnel=Tunnel(), embedded=False, via=Via.WORKER)
    assert [resolver.name for resolver in only.resolvers] == ["worker"]


async def test_the_worker_is_asked_for_a_forwarded_domain() -> None:
    """Also for names of special use, which are asked nowhere else; and for no other."""
    tunnel, forward = Tunnel(), ["cluster.local=worker", "10.in-addr.arpa=worker"]
    made = make_upstreams(tunnel=tunnel, embedded=False, forward=forward)
    async with running(DnsService([], forward=made.forward, hosts=None)) as service:
        assert (await ask(service, "ok.default.svc.cluster.local")).answer
        assert len(tunnel.asked) == 1
        assert (await ask(service, "ok.2.0.10.in-addr.arpa")).rcode() == dns.rcode.NOERROR
        assert len(tunnel.asked) == 2
        assert (await ask(service, "printer.local")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask(service, "ok.example")).rcode() == dns.rcode.SERVFAIL
        assert len(tunnel.asked) == 2
    with pytest.raises(ConfigError, match="the worker is this machine"):
        make_upstreams(tunnel=tunnel, embedded=True, forward=forward)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    server = Server(port=443).at()
    with pytest.raises(ConfigError, match="`dns.via` worker"):
        make_upstreams([server], tunnel=Tunnel(), embedded=False, via=Via.WORKER)
    with pytest.raises(ConfigError, match="`ca_file`"):
        make_upstreams(tunnel=Tunnel(), embedded=False, ca_file=tmp_path / "none")


@asynccontextmanager
async def running(service: DnsService) -> AsyncIterator[DnsService]:
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def ask(service: DnsService, name: str = "ok.example") -> dns.message.Message:
    query = dns.message.make_query(name, "A", use_edns=0).to_wire()
    return dns.message.from_wire(await service.answer(query) or b"")


async def test_through_the_tunnel_and_by_the_worker_as_a_last_resort(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(ca_file))
    tunnel = Tunnel()
    async with listening(http2, None, server_context("h2")) as server:
        made = make_upstreams([server.at()], tunnel=tunnel, embedded=False, ca_file=ca_file)
        async with running(DnsService(made.resolvers, hosts=None)) as service:
            assert (await ask(service)).answer
            assert tunnel.connects == [("127.0.0.1", server.port)] and not tunnel.asked
            # A resolver that fails without being out of reach does not send queries to the worker.
            assert (await ask(service, "http502.example")).rcode() == dns.rcode.SERVFAIL
            assert not tunnel.asked
        tunnel.refuse = True
        made = make_upstreams([server.at()], tunnel=tunnel, embedded=False, ca_file=ca_file)
        async with running(DnsService(made.resolvers, hosts=None)) as service:
            assert (await ask(service)).answer
            assert len(tunnel.asked) == 1
            connects = len(tunnel.connects)
            assert (await ask(service, "ok2.example")).answer
            assert len(tunnel.connects) == connects
            # When the worker can reach the resolver after all, it is asked again.
            tunnel.refuse = False
            await until(lambda: not made.resolvers[0].unreachable)
            assert (await ask(service, "ok3.example")).answer
            assert len(tunnel.asked) == 2
    # A bad certificate is no reason to ask in the clear.
    context = server_context("h2", AUTHORITY.issue_cert("other.test"))
    async with listening(http2, None, context) as server:
        made = make_upstreams([server.at()], tunnel=tunnel, embedded=False, ca_file=ca_file)
        async with running(DnsService(made.resolvers, hosts=None)) as service:
            seen = await ask(service)
            assert seen.rcode() == dns.rcode.SERVFAIL and "certificate" in seen.options[0].text
            assert len(tunnel.asked) == 2


async def test_a_tunnel_that_goes_down_does_not_count_as_out_of_reach(tmp_path: Path) -> None:
    tunnel = Tunnel()
    tunnel.refuse = True
    made = make_upstreams([Server(port=1).at()], tunnel=tunnel, embedded=False)

    async def refuse(host: str, port: int) -> trio.abc.HalfCloseableStream:
        tunnel.up = False
        raise TunnelError("the session is lost")

    tunnel.connect_tcp = refuse  # type: ignore[method-assign]
    made = make_upstreams([Server(port=1).at()], tunnel=tunnel, embedded=False)
    async with running(DnsService(made.resolvers, hosts=None, grace=0.1)) as service:
        assert (await ask(service)).rcode() == dns.rcode.SERVFAIL
        tunnel.up = True
        assert not tunnel.asked


async def test_a_resolver_that_takes_the_connection_and_says_nothing() -> None:
    """It can be reached, so the worker's name servers are not asked instead."""
    tunnel = Tunnel()
    async with listening(blackhole) as server:
        made = make_upstreams(
            [server.at()], tunnel=tunnel, embedded=False, timeouts=Timeouts(connect=0.3)
        )
        async with running(DnsService(made.resolvers, hosts=None)) as service:
            seen = await ask(service)
            assert seen.rcode() == dns.rcode.SERVFAIL
            assert "no connection in 0.3 s" in seen.options[0].text
            assert tunnel.connects and not tunnel.asked


@asynccontextmanager
async def plain_server(lose: int = 0) -> AsyncIterator[tuple[int, list[str]]]:
    """UDP and TCP on one port: loses the first `lose`, truncates "large", lies before "spoof"."""
    seen: list[str] = []
    listener, datagrams = map(
        trio.socket.from_stdlib_socket,
        on_one_port((socket.SOCK_STREAM, "127.0.0.1"), (socket.SOCK_DGRAM, "127.0.0.1")),
    )
    listener.listen()
    port = listener.getsockname()[1]
    with datagrams:

        async def udp() -> None:
            while True:
                query, source = await datagrams.recvfrom(65535)
                seen.append("udp")
                if len(seen) <= lose:
                    continue
                answer = answer_to(query)
                if servers.label_of(query) == "large":
                    answer = bytes((*answer[:2], answer[2] | 2)) + answer[3:]
                if servers.label_of(query) == "spoof":
                    wrong = answer.replace(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 66)))
                    await datagrams.sendto(bytes(2) + wrong[2:], source)
                    await datagrams.sendto(wrong[:2] + query[2:], source)
                    await datagrams.sendto(b"short", source)
                await datagrams.sendto(answer, source)

        async def tcp() -> None:
            while True:
                connection, _ = await listener.accept()
                async with trio.SocketStream(connection) as stream:
                    seen.append("tcp")
                    deframer = Deframer()
                    for query in deframer.feed(await stream.receive_some(65536)):
                        await stream.send_all(frame(answer_to(query)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(udp)
            nursery.start_soon(tcp)
            yield port, seen
            nursery.cancel_scope.cancel()
    listener.close()


async def test_plain_dns_for_a_forwarded_domain() -> None:
    async with plain_server() as (port, seen):
        forward = PlainResolver("127.0.0.1", port, direct())
        async with running(DnsService([], hosts=None, forward=[("lan", forward)])) as service:
            assert (await ask(service, "ok.lan")).answer
            assert str((await ask(service, "spoof.lan")).answer[0][0]) == "192.0.2.1"
            assert seen == ["udp", "udp"]
            large = await ask(service, "large.lan")
            assert large.answer and not large.flags & dns.flags.TC
            assert seen == ["udp", "udp", "udp", "tcp"]
            assert (await ask(service, "ok.example")).rcode() == dns.rcode.SERVFAIL


async def test_plain_dns_authenticates_nothing() -> None:
    """With ``trust-ad`` in resolv.conf(5), a forged AD would be believed (RFC 6840 §5.8)."""
    query = dns.message.make_query("authenticated.lan", "A").to_wire()
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            asked, source = server.recvfrom(512)
            answer = dns.message.from_wire(answer_to(asked))
            answer.flags |= dns.flags.AD
            server.sendto(answer.to_wire(), source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            port = server.getsockname()[1]
            answer = await PlainResolver("127.0.0.1", port, direct()).resolve(query)
    assert dns.message.from_wire(answer).answer
    assert not dns.message.from_wire(answer).flags & dns.flags.AD


async def test_plain_dns_asks_again_when_a_datagram_is_lost() -> None:
    async with plain_server(lose=1) as (port, seen):
        start = time.monotonic()
        query = dns.message.make_query("ok.lan", "A").to_wire()
        answer = await PlainResolver("127.0.0.1", port, direct()).resolve(query)
        assert answer[:2] == b"\0\0" and seen == ["udp", "udp"]
        assert time.monotonic() - start > 0.9


async def test_plain_dns_where_no_server_listens() -> None:
    with refused_udp_port() as port, pytest.raises(ResolverError, match="refused"):
        query = dns.message.make_query("ok.lan", "A").to_wire()
        await PlainResolver("127.0.0.1", port, direct()).resolve(query)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_a_silent_server_costs_a_bounded_number_of_descriptors() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        retry = (0.1, 0.1)
        forward = PlainResolver("127.0.0.1", port, direct(), retry=retry)
        before = descriptors()
        results: list[ResolverError] = []

        async def fail(number: int) -> None:
            query = dns.message.make_query(f"n{number}.lan", "A").to_wire()
            with pytest.raises(ResolverError) as caught:
                await forward.resolve(query)
            results.append(caught.value)

        async with trio.open_nursery() as nursery:
            for number in range(3000):
                nursery.start_soon(fail, number)
            await until(lambda: len(results) >= 3000 - MAX_WAITING - MAX_SOCKETS)
            assert descriptors() - before <= MAX_SOCKETS + 1
            assert all("queries wait for it already" in str(error) for error in results)
        assert {error.ede for error in results} == {Ede.NO_REACHABLE_AUTHORITY}
        assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_the_service_asks_a_silent_server_with_bounded_descriptors() -> None:
    """As an application sees it: each query has its answer, and other names are answered."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        forward = PlainResolver("127.0.0.1", port, direct(), retry=(0.2,))
        before = descriptors()
        async with plain_server() as (other, _):
            live = PlainResolver("127.0.0.1", other, direct())
            service = DnsService([], hosts=None, forward=[("lan", forward), ("live", live)])
            async with running(service):
                answers: list[bytes] = []
                for number in range(3000):
                    query = dns.message.make_query(f"n{number}.lan", "A").to_wire()
                    service.submit(query, answers.append, source=number)
                assert (await ask(service, "ok.live")).answer
                assert descriptors() - before <= MAX_SOCKETS + 10
                await until(lambda: len(answers) == 3000)
                codes = {dns.message.from_wire(answer).rcode() for answer in answers}
                assert codes == {dns.rcode.SERVFAIL}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_a_process_without_descriptors_fails_the_query_alone() -> None:
    async with plain_server() as (port, _):
        forward = PlainResolver("127.0.0.1", port, direct())
        async with running(DnsService([], hosts=None, forward=[("lan", forward)])) as service:
            import resource  # not on Windows

            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                seen = await ask(service, "ok.lan")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert seen.rcode() == dns.rcode.SERVFAIL
            assert "Too many open files" in seen.options[0].text
            assert (await ask(service, "ok.lan")).answer


async def test_truncated_answers_take_a_bounded_number_of_connections() -> None:
    opened = most = 0

    async def connect(host: str, port: int) -> trio.abc.Stream:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        await trio.sleep(0.01)
        opened -= 1
        return await direct()(host, port)

    async with plain_server() as (port, seen):
        forward = PlainResolver("127.0.0.1", port, connect)
        query = dns.message.make_query("large.lan", "A").to_wire()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(forward.resolve, query)
        assert seen.count("tcp") == 100 and most <= MAX_STREAMS


def test_domains_of_one_server_share_its_bounds() -> None:
    made = make_upstreams(
        tunnel=Tunnel(), embedded=True, forward=["a=10.0.0.1", "b=10.0.0.1", "c=10.0.0.1:54"]
    )
    (_, a), (_, b), (_, c) = made.forward
    assert a is b and a is not c
