"""The clients and the service against unbound and dnsdist, on loopback."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from tests.kits import dns_daemons
from tests.kits.dns_daemons import Daemons, ask_plain
from tests.kits.ports import on_one_port, own_loopback
from zks_lwip.dns import Cache, DnsService, Upstream, make_upstreams, parse_server, serve_stream
from zks_lwip.dns.upstream.encrypted import EncryptedResolver, Timeouts

pytestmark = pytest.mark.skipif(bool(dns_daemons.missing()), reason=dns_daemons.missing())


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    folder = tmp_path_factory.mktemp("dns")
    with dns_daemons.daemons(folder, address=own_loopback()) as running:
        yield running


class NoTunnel:
    up = True
    silent = False

    def slowness(self) -> float:
        return 0.0

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None

    async def dns_query(self, message: bytes) -> bytes:
        raise AssertionError("not asked")

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise AssertionError("not asked")


@asynccontextmanager
async def service(running: Daemons, *kinds: str) -> AsyncIterator[tuple[DnsService, Upstream]]:
    """The service over one of the servers: "unbound", "dnsdist", "get", "dot"."""
    urls = {
        "unbound": running.url(running.unbound_doh),
        "get": running.url(running.unbound_doh).replace("@", "{?dns}@"),
        "dnsdist": running.url(running.dnsdist_doh),
        "dot": f"tls://{dns_daemons.NAME}:{running.unbound_dot}@{running.address}",
        "refused": f"https://{dns_daemons.NAME}:1{dns_daemons.PATH}@{running.address}",
    }
    made = make_upstreams(
        [parse_server(urls[kind]) for kind in kinds],
        tunnel=NoTunnel(),
        embedded=True,
        ca_file=running.ca_file,
        timeouts=Timeouts(probe=60.0),  # other processes may keep the servers busy for seconds
    )
    cache = Cache(clock=trio.current_time)
    made_service = DnsService(made.resolvers, hosts=None, deadline=60, cache=cache)
    async with trio.open_nursery() as nursery:
        await nursery.start(made_service.run)
        yield made_service, made.resolvers[0]
        nursery.cancel_scope.cancel()


QUESTIONS = [
    ("www.zks.test", "A"),
    ("www.zks.test", "AAAA"),
    ("www.zks.test", "HTTPS"),
    ("_svc.zks.test", "SVCB"),
    ("alias.zks.test", "A"),
    ("mail.zks.test", "MX"),
    ("odd.zks.test", "TYPE65280"),
    ("text.zks.test", "TXT"),
    ("a.b.wild.zks.test", "A"),
    ("nothing.zks.test", "A"),
    ("www.zks.test", "LOC"),
    ("zks.test", "SOA"),
    ("big.zks.test", "TXT"),
    ("www.signed.test", "A"),
    ("signed.test", "DNSKEY"),
    ("nothing.signed.test", "A"),
]


def sections(message: dns.message.Message) -> list[set[str]]:
    return [
        {f"{rrset.name} {rrset.ttl} {rrset.rdtype} {item}" for rrset in section for item in rrset}
        for section in (message.answer, message.authority, message.additional)
    ]


@pytest.mark.parametrize("kind", ["unbound", "dnsdist", "get", "dot"])
async def test_answers_are_those_of_the_server(servers: Daemons, kind: str) -> None:
    async with service(servers, kind) as (dns_service, _):
        for name, rtype in QUESTIONS:
            for dnssec in (False, True):
                query = dns.message.make_query(name, rtype, want_dnssec=dnssec)
                expected = await trio.to_thread.run_sync(ask_plain, servers, query)
                answer = await dns_service.answer(query.to_wire(), transport="tcp")
                seen = dns.message.from_wire(answer or b"")
                assert seen.id == query.id and seen.question == query.question
                assert seen.rcode() == expected.rcode(), (name, rtype)
                assert sections(seen) == sections(expected), (name, rtype)
                assert (seen.edns >= 0) == dnssec
                cached = dns_service.answer_now(query.to_wire(), transport="tcp")
                assert cached is not None, (name, rtype)
                assert dns.message.from_wire(cached).rcode() == expected.rcode()


@pytest.mark.parametrize("kind", ["unbound", "dnsdist", "dot"])
async def test_large_answers(servers: Daemons, kind: str) -> None:
    """62 KB: truncated over UDP, whole over TCP."""
    async with service(servers, kind) as (dns_service, _):
        query = dns.message.make_query("huge.zks.test", "TXT", use_edns=0, payload=4096)
        answer = await dns_service.answer(query.to_wire())
        short = dns.message.from_wire(answer or b"")
        assert short.flags & dns.flags.TC and len(answer or b"") <= 4096
        answer = await dns_service.answer(query.to_wire(), transport="tcp")
        whole = dns.message.from_wire(answer or b"")
        assert not whole.flags & dns.flags.TC and len(answer or b"") > 60000


@pytest.mark.parametrize("kind", ["unbound", "dnsdist"])
async def test_two_thousand_names_at_once(servers: Daemons, kind: str) -> None:
    async with service(servers, kind) as (dns_service, resolver):
        answers: list[bytes] = []
        for number in range(2000):
            query = dns.message.make_query(f"h{number}.zks.test", "A").to_wire()
            dns_service.submit(query, answers.append)
        with trio.fail_after(120):
            while len(answers) < 2000:
                await trio.sleep(0.01)
        for answer in answers:
            seen = dns.message.from_wire(answer)
            number = int(str(seen.question[0].name).split(".")[0][1:])
            assert str(seen.answer[0][0]) == f"192.0.2.{number % 254 + 1}"
        assert isinstance(resolver, EncryptedResolver) and resolver.connections == 1


async def test_the_second_resolver_stands_in_for_the_first(servers: Daemons) -> None:
    async with service(servers, "refused", "dnsdist") as (dns_service, _):
        query = dns.message.make_query("www.zks.test", "A").to_wire()
        seen = dns.message.from_wire(await dns_service.answer(query) or b"")
        assert str(seen.answer[0][0]) == "192.0.2.1"


async def test_a_short_ttl_runs_out(servers: Daemons) -> None:
    async with service(servers, "unbound") as (dns_service, _):
        query = dns.message.make_query("short.zks.test", "A").to_wire()
        await dns_service.answer(query)
        assert dns_service.answer_now(query) is not None
        await trio.sleep(2.05)
        assert dns_service.answer_now(query) is None


async def listen(dns_service: DnsService, nursery: trio.Nursery) -> int:
    """Serve UDP and TCP on one high port, as the gateway does on every port 53."""
    listener, datagrams = map(
        trio.socket.from_stdlib_socket,
        on_one_port((socket.SOCK_STREAM, "127.0.0.1"), (socket.SOCK_DGRAM, "127.0.0.1")),
    )
    listener.listen()
    port: int = listener.getsockname()[1]

    async def udp() -> None:
        with datagrams:
            while True:
                query, source = await datagrams.recvfrom(65535)
                answer = await dns_service.answer(query)
                if answer is not None:
                    await datagrams.sendto(answer, source)

    async def tcp() -> None:
        with listener:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(serve_stream, dns_service, trio.SocketStream(connection))

    nursery.start_soon(udp)
    nursery.start_soon(tcp)
    return port


async def run(*command: str) -> str:
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.stdout.decode() + done.stderr.decode()


@pytest.mark.skipif(not shutil.which("dig"), reason="dig is not installed")
async def test_dig(servers: Daemons) -> None:
    async with service(servers, "unbound") as (dns_service, _), trio.open_nursery() as nursery:
        port = await listen(dns_service, nursery)
        dig = ("dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=30")
        assert "192.0.2.1" in await run(*dig, "+short", "www.zks.test")
        text = await run(*dig, "big.zks.test", "TXT")
        assert "retrying in TCP mode" in text and text.count("xxxx") >= 20
        text = await run(*dig, "+ignore", "+bufsize=1000", "big.zks.test", "TXT")
        assert " tc " in text and "ANSWER: 0" in text
        assert "RRSIG" in await run(*dig, "+dnssec", "www.signed.test")
        assert "65280" in await run(*dig, "odd.zks.test", "TYPE65280")
        text = await run(*dig, "+edns=1", "+noednsneg", "www.zks.test")
        assert "BADVERS" in text
        text = await run(*dig, "+subnet=198.51.100.0/24", "www.zks.test")
        assert "NOERROR" in text and "CLIENT-SUBNET" not in text
        text = await run(*dig, "+tcp", "+header-only", "www.zks.test")
        assert "FORMERR" in text
        assert "NOTIMP" in await run(*dig, "+opcode=notify", "www.zks.test")
        text = await run(*dig, "+keepopen", "+tcp", "www.zks.test", "A", "mail.zks.test", "MX")
        assert text.count("NOERROR") == 2
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(not shutil.which("kdig"), reason="kdig is not installed")
async def test_kdig(servers: Daemons) -> None:
    async with service(servers, "dnsdist") as (dns_service, _), trio.open_nursery() as nursery:
        port = await listen(dns_service, nursery)
        kdig = ("kdig", "@127.0.0.1", "-p", str(port), "+time=30")
        text = await run(
            *kdig, "+keepopen", "+tcp", "www.zks.test", "AAAA", "www.zks.test", "HTTPS"
        )
        assert "2001:db8::1" in text and "alpn=" in text
        text = await run(*kdig, "+bufsize=512", "+ignore", "big.zks.test", "TXT")
        assert " tc" in text
        text = await run(*kdig, "+dnssec", "www.signed.test")
        assert "RRSIG" in text and "WARNING" not in text
        nursery.cancel_scope.cancel()
