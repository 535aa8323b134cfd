"""DNS through the Cloudflare Worker: queries for the resolver, and names in CONNECT."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from tests.kits.doh_server import DohServer, doh_server
from tests.kits.until import until
from tests.kits.worker import (
    RawClient,
    answer,
    echo,
    raw_client,
    resuming_client,
    tcp_server,
    zone,
)
from tests.kits.workerd import TOKEN, running_workerd
from zks_lwip.protocol import Connect, Connected, Data, DnsQuery, DnsResponse, Error, Ping, Pong

ZONE = zone(
    {
        "four.example": ["127.0.0.1"],
        "six.example": ["::1"],
        "both.example": ["127.0.0.1", "::1"],
        "metadata.example": ["169.254.169.254"],
        "mixed.example": ["10.0.0.1", "127.0.0.1"],
        "empty.example": [],
    }
)


@asynccontextmanager
async def resolving(
    folder: Path, respond: Callable[..., bytes | list[bytes] | None] = ZONE, **variables: str
) -> AsyncIterator[tuple[DohServer, RawClient]]:
    """A resolver, and a client of a worker that asks it."""
    async with doh_server(respond) as server:
        with running_workerd(folder, RESOLVER=server.url, **variables) as cloud:
            async with raw_client(cloud.address, token=TOKEN) as client:
                yield server, client


async def ask(client: RawClient, request: int, query: dns.message.Message) -> dns.message.Message:
    await client.send(DnsQuery(request, query.to_wire()))
    response = await client.expect(DnsResponse)
    assert response.request == request
    return dns.message.from_wire(response.message)


async def test_queries(tmp_path: Path) -> None:
    async with resolving(tmp_path) as (server, client):
        query = dns.message.make_query("four.EXAMPLE", "A", id=0x1234)
        response = await ask(client, 5, query)
        assert response.id == 0x1234 and response.question == query.question
        assert response.answer[0][0].to_text() == "127.0.0.1"
        assert server.queries == [b"\0\0" + query.to_wire()[2:]]
        response = await ask(client, 6, dns.message.make_query("no.example", "A"))
        assert response.rcode() == dns.rcode.NXDOMAIN
        # what is no plain question never leaves
        response = await ask(client, 7, dns.message.make_query("four.example", "AXFR"))
        assert response.rcode() == dns.rcode.REFUSED
        await client.send(DnsQuery(8, b"garbage"))
        assert (await client.expect(DnsResponse)).request == 8
        assert len(server.queries) == 2


async def test_answers_that_are_none(tmp_path: Path) -> None:
    query = dns.message.make_query("four.example", "A", use_edns=True)

    async def failure(client: RawClient, told: str) -> None:
        response = await ask(client, 9, query)
        assert response.rcode() == dns.rcode.SERVFAIL
        assert told in response.options[0].text  # type: ignore[attr-defined]

    async with resolving(tmp_path) as (server, client):
        server.status = "500 Internal Server Error"
        await failure(client, "HTTP 500")
        server.status = "302 Found"
        await failure(client, "HTTP 302")
        server.status = "200 OK"
        other = dns.message.make_query("other.example", "A")
        for wire in (answer(other, "127.0.0.1"), b"", b"x", bytes(70_000), query.to_wire()):
            server.respond = lambda _, tcp, wire=wire: wire
            await failure(client, "too long" if len(wire) > 65535 else "another question")
        server.respond = ZONE
        assert (await ask(client, 10, query)).rcode() == dns.rcode.NOERROR
    with running_workerd(tmp_path / "none", RESOLVER="http://127.0.0.1:1/dns-query") as cloud:
        async with raw_client(cloud.address, token=TOKEN) as client:
            await failure(client, "cannot be asked")


async def test_a_silent_resolver_and_too_many_queries(tmp_path: Path) -> None:
    async with resolving(tmp_path, lambda query, tcp: None) as (server, client):
        query = dns.message.make_query("a.example", "A", use_edns=True)
        began = trio.current_time()
        most = client.hello.requests
        await client.send(*(DnsQuery(n + 1, query.to_wire()) for n in range(most + 5)))
        reasons: list[str] = []
        for _ in range(most + 5):
            response = dns.message.from_wire((await client.expect(DnsResponse)).message)
            assert response.rcode() == dns.rcode.SERVFAIL
            reasons.append(response.options[0].text)  # type: ignore[attr-defined]
        assert sum("in flight" in reason for reason in reasons) == 5
        assert trio.current_time() - began < 30
        assert len(server.queries) <= 6  # the platform has no more connections


async def test_names(tmp_path: Path) -> None:
    async with resolving(tmp_path) as (server, client), tcp_server(echo) as port:
        for stream, name in enumerate(["four.example", "FOUR.example.", "both.example"], 1):
            await client.open(stream, name, port)
            await client.send(Data(stream, b"x"))
            assert await client.data(stream, 1) == b"x"
        asked = len(server.queries)
        await client.open(7, "four.example", port)  # known for its time to live
        assert len(server.queries) == asked
        async with tcp_server(echo, "::1", port):
            await client.open(8, "six.example", port)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("metadata.example", 403, "cloud metadata"),
        ("empty.example", 502, "no address"),
        ("unknown.example", 502, "no address"),
        ("a..example", 502, "not a name"),
        (f"{'a' * 64}.example", 502, "not a name"),
    ],
)
async def test_names_that_fail(tmp_path: Path, name: str, code: int, told: str) -> None:
    async with resolving(tmp_path) as (_, client):
        await client.send(Connect(1, name, 80))
        error = await client.expect(Error)
        assert error.code == code and told in error.message


async def test_every_address_of_a_name_is_checked(tmp_path: Path) -> None:
    """One that is refused does not keep from one that is not; nor the other way round."""
    async with resolving(tmp_path) as (_, client), tcp_server(echo) as port:
        await client.open(1, "mixed.example", port)


async def test_a_name_that_moves_is_checked_each_time(tmp_path: Path) -> None:
    """DNS rebinding: what was checked is what is connected to."""
    addresses = iter(["127.0.0.1", "169.254.169.254", "169.254.169.254"])

    def moves(query: dns.message.Message, tcp: bool) -> bytes:
        if query.question[0].rdtype == 28:
            return answer(query)
        return answer(query, next(addresses), ttl=0)

    async with resolving(tmp_path, moves) as (_, client), tcp_server(echo) as port:
        await client.open(1, "moves.example", port)
        await client.send(Connect(2, "moves.example", port))
        assert (await client.expect(Error)).code == 403


async def at_once(attempt: Callable[[int], Awaitable[None]]) -> bool:
    """Whether it is quicker than a resolver that is waited for: a busy machine may be in the way,
    but not always."""
    for number in range(1, 5):
        began = trio.current_time()
        await attempt(number)
        if trio.current_time() - began < 3:
            return True
    return False


async def test_a_slow_family_does_not_hold_up_the_other(tmp_path: Path) -> None:
    def only_ipv4(query: dns.message.Message, tcp: bool) -> bytes | None:
        return None if query.question[0].rdtype == 28 else answer(query, "127.0.0.1")

    async with resolving(tmp_path, only_ipv4) as (_, client), tcp_server(echo) as port:
        assert await at_once(lambda number: client.open(number, f"a{number}.example", port))
    async with resolving(tmp_path / "late", lambda query, tcp: None) as (_, client):
        await client.send(Connect(1, "a.example", 80))
        error = await client.expect(Error)
        assert error.code == 110 and "in time" in error.message


async def test_a_dead_address_of_a_name_costs_little(tmp_path: Path) -> None:
    """IPv6 is refused at once, or never answers; IPv4 is raced against it."""
    async with resolving(tmp_path) as (_, client), tcp_server(echo) as port:
        assert await at_once(lambda number: client.open(number, "both.example", port))


async def test_other_streams_and_pings_go_on_while_the_resolver_is_slow(tmp_path: Path) -> None:
    async with (
        resolving(tmp_path, lambda query, tcp: None) as (_, client),
        tcp_server(echo) as port,
    ):
        query = dns.message.make_query("a.example", "A").to_wire()

        async def connect(number: int) -> None:
            await client.send(*(DnsQuery(100 * number + n, query) for n in range(20)))
            for frame, kind in (Ping(), Pong), (Connect(number, "127.0.0.1", port), Connected):
                await client.send(frame)
                while not isinstance(await client.receive(), kind):
                    pass  # of a turn before

        assert await at_once(connect)


async def test_answers_for_a_lost_websocket_are_dropped(tmp_path: Path) -> None:
    """The client asks again, perhaps something else by the same number."""
    go = trio.Event()
    waiting: list[dns.message.Message] = []

    class Slow(DohServer):
        async def answer_to(self, query: dns.message.Message) -> bytes:
            if query.question[0].name.to_text().startswith("slow"):
                waiting.append(query)
                await go.wait()
            return answer(query, "192.0.2.1")

    server = Slow(ZONE)
    async with tcp_server(server.serve) as server.port:
        with running_workerd(tmp_path, RESOLVER=server.url) as cloud:
            query = dns.message.make_query("slow.example", "A")
            async with resuming_client(cloud.address, token=TOKEN) as client:
                await client.send(DnsQuery(1, query.to_wire()))
                await until(lambda: waiting)
                await client.lose()
            async with resuming_client(
                cloud.address, token=TOKEN, hello=client.resumption()
            ) as again:
                assert again.hello.session == client.hello.session
                go.set()
                await again.silent()
                assert (await ask(again, 1, dns.message.make_query("a.example", "A"))).answer
