"""The DNS-over-HTTPS client against a real HTTP/2 server on loopback that misbehaves on demand."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import pytest
import trio
import trustme

from tests.kits import dns_servers as servers
from tests.kits.dns_servers import AUTHORITY, NAME, Server, http2, listening, server_context
from tests.kits.ports import kept_port
from tests.kits.until import until
from zks_lwip.dns import DnsService, ResolverError, Upstream
from zks_lwip.dns.message.query import Query, examine
from zks_lwip.dns.upstream.dial import direct
from zks_lwip.dns.upstream.doh import DohResolver
from zks_lwip.dns.upstream.encrypted import MAX_RETIRED


def query(name: str = "ok.example", kind: str = "A") -> bytes:
    message = dns.message.make_query(name, kind, use_edns=0).to_wire()
    read = examine(message)
    assert isinstance(read, Query)
    return read.upstream(4096, 128)


def client(server: Server, context: ssl.SSLContext | None = None, **arguments: str) -> DohResolver:
    address = server.at(**arguments)
    return DohResolver(address, direct(), context or servers.client_context())


@asynccontextmanager
async def running(resolver: DohResolver) -> AsyncIterator[DohResolver]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run)
        await trio.sleep(0)
        yield resolver
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair(server: Server | None = None) -> AsyncIterator[tuple[Server, DohResolver]]:
    async with listening(http2, server, server_context("h2")) as served:
        async with running(client(served)) as resolver:
            yield served, resolver


async def ask(resolver: Upstream, name: str, kind: str = "A") -> dns.message.Message:
    with trio.fail_after(120):
        return dns.message.from_wire(await resolver.resolve(query(name, kind)))


async def test_what_goes_over_the_wire() -> None:
    async with pair() as (server, resolver):
        assert (await ask(resolver, "ok.example")).answer
        assert (await ask(resolver, "ok2.example")).answer
        assert server.connections == 1
        assert server.requests[0] == {
            b":method": b"POST",
            b":scheme": b"https",
            b":authority": f"{NAME}:{server.port}".encode(),
            b":path": b"/dns-query",
            b"accept": b"application/dns-message",
            b"content-type": b"application/dns-message",
            b"content-length": b"128",
        }
        assert server.queries[0][:2] == b"\0\0" and len(server.queries[0]) == 128


async def test_get() -> None:
    async with listening(http2, None, server_context("h2")) as server:
        text = f"https://{NAME}:PORT/dns-query{{?dns}}@127.0.0.1"
        async with running(client(server, text=text)) as resolver:
            assert (await ask(resolver, "ok.example")).answer
            assert server.requests[0][b":method"] == b"GET"
            assert b"content-type" not in server.requests[0]
            assert b"=" not in server.requests[0][b":path"].partition(b"dns=")[2]


async def test_two_thousand_at_once_within_the_servers_limit() -> None:
    async with pair(Server(streams=40)) as (server, resolver):
        seen = 0

        async def one(number: int) -> None:
            nonlocal seen
            assert (await ask(resolver, f"n{number}.example")).answer
            seen += 1

        async with trio.open_nursery() as nursery:
            for number in range(2000):
                nursery.start_soon(one, number)
        assert seen == 2000
        assert server.connections == 1 and server.most_in_flight <= 40


async def test_tiny_windows() -> None:
    """A server that grants 10 bytes at a time still gets whole queries, and large answers come."""
    async with pair(Server(window=10)) as (server, resolver):
        for number in range(5):
            assert (await ask(resolver, f"n{number}.example")).answer
        assert len(server.queries[-1]) == 128
        large = await ask(resolver, "large.example", "TXT")
        assert len(large.to_wire(max_size=65535)) > 60000


async def test_more_than_a_whole_connection_window() -> None:
    """6 MB of answers over one connection, whose window is 4 MiB: it is refilled."""
    async with pair() as (server, resolver):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask, resolver, "large.example", "TXT")
        assert server.connections == 1


@pytest.mark.parametrize("fault", ["goaway", "rst", "tcpreset", "eof", "blackhole", "garbage"])
async def test_sent_once_more_without_the_application_noticing(fault: str) -> None:
    async with pair(Server(once={fault})) as (server, resolver):
        assert (await ask(resolver, "ok.example")).answer
        start = trio.current_time()
        assert (await ask(resolver, f"{fault}.example")).answer
        assert trio.current_time() - start < 4.5  # less than a query has
        assert len(server.queries) == 3
        assert server.connections == (1 if fault == "rst" else 2)


@pytest.mark.parametrize("fault", ["goaway", "rst", "tcpreset", "eof"])
async def test_a_fault_that_stays_is_an_error_after_two_tries(fault: str) -> None:
    async with pair() as (server, resolver):
        with pytest.raises(ResolverError):
            await ask(resolver, f"{fault}.example")
        assert len(server.queries) == 2
        assert (await ask(resolver, "ok.example")).answer


async def test_a_graceful_goaway_lets_what_is_under_way_finish() -> None:
    async with pair(Server(once={"graceful"})) as (server, resolver):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, resolver, "graceful.example")
            await until(lambda: server.goaways)
            await trio.sleep(0.2)
            nursery.start_soon(ask, resolver, "ok.example")
        assert (server.connections, len(server.queries)) == (2, 2)


async def test_connections_that_wind_down_without_an_answer_are_bounded() -> None:
    async with pair() as (server, resolver):

        async def fail() -> None:
            with pytest.raises(ResolverError, match="winding down|going away"):
                await ask(resolver, "winddown.example")

        async with trio.open_nursery() as nursery:
            while server.connections < 40:
                asked = len(server.queries)
                nursery.start_soon(fail)
                await until(lambda: len(server.queries) > asked)  # noqa: B023
                await trio.sleep(0.01)
                await until(lambda: server.live <= MAX_RETIRED + 2)
            nursery.cancel_scope.cancel()
        assert (await ask(resolver, "ok.example")).answer


async def test_others_survive_a_dying_connection() -> None:
    async with pair(Server(once={"tcpreset"})) as (server, resolver):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(ask, resolver, f"n{number}.example")
            nursery.start_soon(ask, resolver, "tcpreset.example")
        assert server.connections == 2


async def test_an_idle_connection_closed_by_the_server() -> None:
    async with pair() as (server, resolver):
        await ask(resolver, "ok.example")
        server.disconnect()
        await trio.sleep(0.05)
        await ask(resolver, "ok2.example")
        assert (server.connections, len(server.queries)) == (2, 2)


async def test_a_slow_answer_on_a_living_connection_is_waited_for() -> None:
    """Quiet is not dead: the server answers the PING."""
    async with pair() as (server, resolver):
        start = time.monotonic()
        assert (await ask(resolver, "slow.example")).answer
        assert time.monotonic() - start > 1.5
        assert (server.connections, len(server.queries)) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("http400", "HTTP status 400"),
        ("http429", "HTTP status 429"),
        ("http502", "HTTP status 502"),
        ("redirect", "HTTP status 302"),
        ("wrongtype", "content type is text/html"),
        ("oversized", "more than 65535 bytes"),
    ],
)
async def test_answers_that_are_refused(fault: str, words: str) -> None:
    async with pair() as (server, resolver):
        with pytest.raises(ResolverError, match=words):
            await ask(resolver, f"{fault}.example")
        assert (await ask(resolver, "ok.example")).answer
        assert server.connections == 1


async def test_the_age_of_an_answer_from_an_http_cache_counts() -> None:
    async with pair() as (_, resolver):
        assert (await ask(resolver, "aged.example")).answer[0].ttl == 200


async def test_a_query_that_is_given_up_is_reset() -> None:
    async with pair() as (server, resolver):
        for number, fault in enumerate(("silent", "slowloris"), 1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, resolver, f"{fault}.example")
                await until(lambda number=number: len(server.queries) == number)
                nursery.cancel_scope.cancel()
        await ask(resolver, "ok.example")
        await until(lambda: server.resets == 2)
        assert server.connections == 1


async def test_down_at_start_and_then_up() -> None:
    with kept_port() as port:
        server = Server(port=port)
        async with running(client(server)) as resolver:
            with pytest.raises(ResolverError, match="refused"):
                await ask(resolver, "ok.example")
            assert resolver.unreachable
            async with listening(http2, server, server_context("h2")):
                assert (await ask(resolver, "ok.example")).answer
                assert not resolver.unreachable


async def test_the_address_that_answers_is_found() -> None:
    """127.0.0.2 refuses, 127.0.0.3 takes the connection and says nothing."""
    async with listening(http2, None, server_context("h2")) as server:
        silent = socket.create_server(("127.0.0.3", server.port))
        silent.setblocking(False)
        text = f"https://{NAME}:PORT/dns-query@127.0.0.2,127.0.0.3,127.0.0.1"
        async with running(client(server, text=text)) as resolver:
            start = trio.current_time()
            assert (await ask(resolver, "ok.example")).answer
            assert trio.current_time() - start < 4
            silent.accept()[0].close()
            resolver.attempt_delay = 20.0
            server.disconnect()
            assert (await ask(resolver, "ok2.example")).answer
        # The second time, the address that had answered was tried first.
        with silent, pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize(
    ("cert", "words"),
    [
        (lambda: AUTHORITY.issue_cert("other.test"), "does not verify: Hostname mismatch"),
        (servers.expired, "does not verify: certificate has expired"),
        (lambda: trustme.CA().issue_cert(NAME), "does not verify: unable to get local issuer"),
    ],
)
async def test_bad_certificates(cert: object, words: str) -> None:
    context = server_context("h2", cert())  # type: ignore[operator]
    async with listening(http2, None, context) as server:
        async with running(client(server)) as resolver:
            with pytest.raises(ResolverError, match=words):
                await ask(resolver, "ok.example")
            assert not server.queries and not resolver.unreachable


async def test_a_server_without_http2_or_tls() -> None:
    async with listening(http2, None, server_context("http/1.1")) as server:
        async with running(client(server)) as resolver:
            with pytest.raises(ResolverError, match="does not speak h2"):
                await ask(resolver, "ok.example")
    async with listening(http2) as server:
        async with running(client(server)) as resolver:
            with pytest.raises(ResolverError, match="TLS"):
                await ask(resolver, "ok.example")


async def test_the_service_over_it_answers_through_every_fault() -> None:
    """Two resolvers, one of them at fault: the application gets its answer, or SERVFAIL, never
    silence.
    """
    async with listening(http2, None, server_context("h2")) as bad:
        async with listening(http2, Server(once=set()), server_context("h2")) as good:
            for name in ("http502", "wrongtype", "oversized", "other", "wrongid", "loop", "rst"):
                service = DnsService([client(bad)], hosts=None)
                async with trio.open_nursery() as nursery:
                    await nursery.start(service.run)
                    message = dns.message.make_query(f"{name}.example", "A").to_wire()
                    seen = dns.message.from_wire(await service.answer(message) or b"")
                    assert seen.rcode() == dns.rcode.SERVFAIL
                    nursery.cancel_scope.cancel()
                good.once |= {f"{name}-done"}
                service = DnsService([client(bad), client(good)], hosts=None)
                async with trio.open_nursery() as nursery:
                    await nursery.start(service.run)
                    seen = dns.message.from_wire(await service.answer(message) or b"")
                    assert str(seen.answer[0][0]) == "192.0.2.1"
                    nursery.cancel_scope.cancel()


async def test_slow_loris_and_silence_cost_the_deadline_then_the_next_resolver() -> None:
    async with (
        pair() as (_, bad),
        pair(Server(once={"slowloris-done", "silent-done"})) as (_, good),
    ):
        for name in ("slowloris", "silent"):
            service = DnsService([bad, good], hosts=None, deadline=1.5)
            async with trio.open_nursery() as nursery:
                # The resolvers run already.
                nursery.start_soon(service.run)
                await trio.sleep(0.01)
                start = time.monotonic()
                message = dns.message.make_query(f"{name}.example", "A").to_wire()
                seen = dns.message.from_wire(await service.answer(message) or b"")
                assert seen.answer and time.monotonic() - start > 1.4
                nursery.cancel_scope.cancel()


class Switch:
    up = True
    silent = False
    hopeless = False


@asynccontextmanager
async def warm(*resolvers: DohResolver, **arguments: float) -> AsyncIterator[DnsService]:
    """The service with connections open: what is asked now is asked at once, without a task."""
    service = DnsService(resolvers, hosts=None, **arguments)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        assert (await query_service(service, "ok.example")).answer
        yield service
        nursery.cancel_scope.cancel()


async def query_service(service: DnsService, name: str) -> dns.message.Message:
    query = dns.message.make_query(name, "A", use_edns=0).to_wire()
    with trio.fail_after(60):
        return dns.message.from_wire(await service.answer(query) or b"")


async def test_a_failure_at_once_is_not_asked_again_of_the_same() -> None:
    async with listening(http2, None, server_context("h2")) as server:
        async with warm(client(server)) as service:
            assert (await query_service(service, "http502.example")).rcode() == 2
            assert len(server.queries) == 2
            stats = service.stats()
            assert (stats[f"asked {server.at()}"], stats[f"failed {server.at()}"]) == (
                2,
                1,
            )


async def test_the_deadline_of_what_was_asked_at_once() -> None:
    async with listening(http2, None, server_context("h2")) as server:
        async with warm(client(server), deadline=2) as service:
            start = trio.current_time()
            seen = await query_service(service, "silent.example")
            assert (seen.rcode(), seen.options[0].code) == (2, 22)
            assert 1.9 < trio.current_time() - start < 4
            assert (await query_service(service, "ok2.example")).answer
            await until(lambda: server.resets == 1)


async def test_what_was_asked_at_once_is_sent_again_when_the_connection_dies() -> None:
    server = Server(once={"tcpreset", "rst"})
    async with listening(http2, server, server_context("h2")):
        async with warm(client(server)) as service:
            for name in ("tcpreset.example", "rst.example"):
                assert (await query_service(service, name)).answer
            assert "servfail" not in service.stats()


async def test_a_gate_that_closes_is_waited_for_even_with_a_connection() -> None:
    async with listening(http2, None, server_context("h2")) as server:
        gate = Switch()
        resolver = DohResolver(server.at(), direct(), servers.client_context(), gate=gate)
        async with warm(resolver, grace=0.2) as service:
            gate.up = False
            seen = await query_service(service, "ok2.example")
            assert seen.rcode() == 2 and "tunnel is down" in seen.options[0].text
            assert len(server.queries) == 1
