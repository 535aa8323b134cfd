"""The DNS-over-TLS client against a TLS server on loopback that misbehaves on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import pytest
import trio

from tests.kits import dns_servers as servers
from tests.kits.dns_servers import AUTHORITY, NAME, Server, listening, over_tls, server_context
from tests.unit.dns.test_doh import ask
from zks_lwip.dns import ResolverError
from zks_lwip.dns.message.framing import frame
from zks_lwip.dns.upstream.dial import direct
from zks_lwip.dns.upstream.dot import DotResolver


@asynccontextmanager
async def pair(
    server: Server | None = None, slowness: float = 0.0
) -> AsyncIterator[tuple[Server, DotResolver]]:
    async with listening(over_tls, server, server_context("dot")) as served:
        address = served.at(f"tls://{NAME}:PORT@127.0.0.1")
        context = servers.client_context("dot")
        resolver = DotResolver(address, direct(), context, slowness=lambda: slowness)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.run)
            yield served, resolver
            nursery.cancel_scope.cancel()


async def test_many_on_one_connection_in_any_order() -> None:
    async with pair() as (server, resolver):
        names: set[str] = set()

        async def one(name: str) -> None:
            names.add(str((await ask(resolver, name)).question[0].name))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(one, f"n{number}.example")
        assert names == {f"n{number}.example." for number in range(300)}
        assert server.connections == 1
        assert len({query[:2] for query in server.queries}) == 300
        assert all(len(query) == 128 for query in server.queries)


@pytest.mark.parametrize("fault", ["eof", "tcpreset", "blackhole"])
async def test_sent_once_more(fault: str) -> None:
    async with pair(Server(once={fault})) as (server, resolver):
        await ask(resolver, "ok.example")
        start = trio.current_time()
        assert (await ask(resolver, f"{fault}.example")).answer
        assert trio.current_time() - start < 4.5  # less than a query has
        assert server.connections == 2


@pytest.mark.parametrize("slowness", [0.0, 3.0])
async def test_a_path_that_is_known_to_be_slow_has_its_time(slowness: float) -> None:
    """The answer stands in a queue of 3.5 s, and what asks for a sign of life behind it."""
    async with pair(Server(once={"slow"}), slowness) as (server, resolver):
        assert (await ask(resolver, "slow.example")).answer
        assert server.connections == (1 if slowness else 2)


async def test_a_fault_that_stays_is_an_error() -> None:
    async with pair() as (_, resolver):
        with pytest.raises(ResolverError, match="closed the connection"):
            await ask(resolver, "eof.example")


async def test_no_answer_to_one_query_is_not_a_dead_connection() -> None:
    """The probe is answered; answers with a strange id are for no query."""
    async with pair() as (server, resolver):
        await ask(resolver, "ok.example")
        await ask(resolver, "ok2.example")
        for fault in ("silent", "wrongid"):
            with trio.move_on_after(2.5) as scope:
                await ask(resolver, f"{fault}.example")
            assert scope.cancelled_caught
        assert server.connections == 1
        assert any(dns.message.from_wire(query).question[0].rdtype == 2 for query in server.queries)


async def test_the_certificate_is_verified() -> None:
    context = server_context("dot", AUTHORITY.issue_cert("other.test"))
    async with listening(over_tls, None, context) as server:
        address = server.at(f"tls://{NAME}:PORT@127.0.0.1")
        resolver = DotResolver(address, direct(), servers.client_context("dot"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.run)
            with pytest.raises(ResolverError, match="Hostname mismatch"):
                await ask(resolver, "ok.example")
            nursery.cancel_scope.cancel()


async def test_a_flood_of_messages_that_answer_nothing_ends_the_connection() -> None:
    sent = 0

    async def flood(server: Server, stream: trio.abc.Stream, connection: object) -> None:
        nonlocal sent
        await stream.receive_some(65536)
        while True:
            await stream.send_all(frame(b"\x77" * (sent % 13)) * 100)
            sent += 1

    async with listening(flood, None, server_context("dot")) as server:
        address = server.at(f"tls://{NAME}:PORT@127.0.0.1")
        resolver = DotResolver(address, direct(), servers.client_context("dot"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.run)
            with pytest.raises(ResolverError, match="answer nothing"):
                await ask(resolver, "ok.example")
            assert server.connections == 2
            nursery.cancel_scope.cancel()
