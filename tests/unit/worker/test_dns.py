"""The worker's resolver and DNS forwarding, against real name servers on loopback."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import pytest
import trio
import trio.testing

from tests.kits.ports import refused_udp_port
from tests.kits.until import until
from tests.kits.worker import FakeNameServer, answer, budget, truncated, zone
from zks_lwip.errors import ConfigError, DnsError
from zks_lwip.net.readiness import make_readiness
from zks_lwip.worker.dns_forwarder import DnsForwarder
from zks_lwip.worker.dnsclient import DnsClient
from zks_lwip.worker.limits import QueryBudget
from zks_lwip.worker.nameservers import (
    HostsFile,
    NameServer,
    SystemNameServers,
    parse_resolv_conf,
    parse_resolver,
)
from zks_lwip.worker.policy import InvalidHost
from zks_lwip.worker.resolver import Lookup, Resolver


def query(name: str = "example.com", kind: str = "A", id: int = 0x1234) -> bytes:
    return dns.message.make_query(name, kind, id=id).to_wire()


@asynccontextmanager
async def forwarding(client: DnsClient) -> AsyncIterator[DnsForwarder]:
    """What forwards queries to name servers."""
    readiness = make_readiness()
    forwarder = DnsForwarder(client)
    async with trio.open_nursery() as nursery:
        await nursery.start(readiness.run)
        await nursery.start(forwarder.run, readiness)
        yield forwarder
        nursery.cancel_scope.cancel()
    readiness.close()


async def answered(forwarder: DnsForwarder, message: bytes, purse: QueryBudget) -> bytes:
    """The answer to one query."""
    done = trio.Event()
    answers: list[bytes] = []

    def reply(message: bytes) -> None:
        answers.append(message)
        done.set()

    question = forwarder.forward(message, purse, reply)
    try:
        await done.wait()
    except trio.Cancelled:
        assert question is not None
        question.cancel()
        raise
    (answer,) = answers
    return answer


async def forward(client: DnsClient, message: bytes, purse: QueryBudget) -> bytes:
    """The answer to one query, which is the only one."""
    async with forwarding(client) as forwarder:
        return await answered(forwarder, message, purse)


@asynccontextmanager
async def resolving(
    server: FakeNameServer, tmp_path: Path, hosts: str = ""
) -> AsyncIterator[Resolver]:
    (tmp_path / "hosts").write_text(hosts)
    client = DnsClient(lambda: [server.server])
    resolver = Resolver(client, HostsFile(tmp_path / "hosts"))
    async with server.running(), trio.open_nursery() as nursery:
        await nursery.start(resolver.run)
        yield resolver
        nursery.cancel_scope.cancel()


async def finished(lookup: Lookup) -> list[str]:
    with trio.fail_after(30):
        await lookup.v4.done.wait()
        await lookup.v6.done.wait()
    return [str(a) for a in lookup.v6.addresses + lookup.v4.addresses]


# --- forwarding -------------------------------------------------------------------------------


async def test_forward_keeps_the_message_but_not_its_id() -> None:
    server = FakeNameServer(lambda q, tcp: answer(q, "192.0.2.7"))
    async with server.running():
        client = DnsClient(lambda: [server.server])
        for _ in range(8):
            reply = await forward(client, query(), budget())
            assert reply[:2] == b"\x12\x34"
            assert "192.0.2.7" in str(dns.message.from_wire(reply))
    assert {wire[2:] for wire, _ in server.queries} == {query()[2:]}
    assert len({wire[:2] for wire, _ in server.queries}) > 4
    assert len({port for _, port in server.sources}) > 4


async def test_forward_asks_again_over_tcp_when_truncated() -> None:
    many = [f"192.0.2.{n}" for n in range(200)]

    def respond(q: dns.message.Message, tcp: bool) -> bytes:
        return answer(q, *many) if tcp else truncated(q)

    server = FakeNameServer(respond)
    async with server.running():
        reply = await forward(DnsClient(lambda: [server.server]), query(), budget())
    assert len(dns.message.from_wire(reply).answer[0]) == 200
    assert [tcp for _, tcp in server.queries] == [False, True]


async def test_large_query_goes_by_tcp() -> None:
    server = FakeNameServer(lambda q, tcp: answer(q, "192.0.2.7"))
    large = dns.message.make_query("example.com", "A", use_edns=0, pad=1400, payload=4096).to_wire(
        max_size=65535
    )
    assert len(large) > 1232
    async with server.running():
        reply = await forward(DnsClient(lambda: [server.server]), large, budget())
    assert dns.message.from_wire(reply).rcode() == 0
    assert [tcp for _, tcp in server.queries] == [True]


async def test_forged_answers_are_passed_over() -> None:
    def respond(q: dns.message.Message, tcp: bool) -> list[bytes]:
        good = answer(q, "192.0.2.7")
        other_id = bytes((good[0] ^ 1,)) + good[1:]
        other_name = answer(dns.message.make_query("evil.com", "A", id=q.id), "192.0.2.66")
        other_type = answer(dns.message.make_query("example.com", "AAAA", id=q.id))
        no_question = answer(dns.message.make_query("example.com", "A", id=q.id))[:12]
        no_question = no_question[:4] + b"\0\0" + no_question[6:]
        a_query = good[:2] + bytes((good[2] & 0x7F,)) + good[3:]
        return [b"", b"x", other_id, other_name, other_type, no_question, a_query, good]

    server = FakeNameServer(respond)
    async with server.running():
        client = DnsClient(lambda: [server.server])
        reply = await forward(client, query(), budget())
    assert "192.0.2.7" in str(dns.message.from_wire(reply))
    assert client.bogus == 7


async def test_question_may_come_back_in_another_case() -> None:
    def respond(q: dns.message.Message, tcp: bool) -> bytes:
        return answer(q, "192.0.2.7").replace(b"example", b"ExAmPlE")

    server = FakeNameServer(respond)
    async with server.running():
        reply = await forward(DnsClient(lambda: [server.server]), query(), budget())
    assert dns.message.from_wire(reply).rcode() == 0


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (b"", 1),
        (b"\x12", 1),
        (b"\x12\x34\x01\x00", 1),
        (query()[:-1], 1),
        (query()[:4] + b"\0\2" + query()[6:], 1),
        (query()[:12] + b"\xc0\x0c\0\1\0\1", 1),
        (query()[:12] + b"\x3fa" * 200, 1),
        (answer(dns.message.from_wire(query())), 1),
        (query(kind="SOA")[:2] + b"\x28\x00" + query(kind="SOA")[4:], 4),  # dynamic update
    ],
)
async def test_what_is_no_query_is_answered(message: bytes, rcode: int) -> None:
    def unasked(q: dns.message.Message, tcp: bool) -> bytes:
        raise AssertionError("was sent on")

    server = FakeNameServer(unasked)
    async with server.running():
        reply = await forward(DnsClient(lambda: [server.server]), message, budget())
    assert reply[:2] == message[:2].ljust(2, b"\0")
    assert reply[2] & 0x80
    assert reply[3] & 0x0F == rcode
    dns.message.from_wire(reply)


def reason(reply: bytes) -> tuple[int, int, str]:
    """The response code, and the Extended DNS Error (RFC 8914): code and text."""
    message = dns.message.from_wire(reply)
    (option,) = message.options
    assert isinstance(option, dns.edns.EDEOption)
    return message.rcode(), int(option.code), option.text or ""


async def test_silence_becomes_servfail_within_five_seconds() -> None:
    """So soon that it is there before a client gives up."""
    server = FakeNameServer(lambda q, tcp: None)
    purse = budget()
    async with server.running():
        client = DnsClient(lambda: [server.server])
        began = trio.current_time()
        with_edns = dns.message.make_query("example.com", "A", want_dnssec=True, id=0x1234)
        reply = await forward(client, with_edns.to_wire(), purse)
        assert 4.4 < trio.current_time() - began < 9
    assert reason(reply) == (2, 22, "no name server answered in time")
    assert dns.message.from_wire(reply).ednsflags == dns.flags.DO
    assert reply[:2] == b"\x12\x34"
    # asked again by the same socket: a name that no server answers for holds one a server
    assert len(server.queries) == 3 and len(set(server.sources)) == 1
    assert purse.descriptors.free == 100 and purse.in_flight == 0


async def test_why_there_is_no_answer() -> None:
    asked = edns_query("example.com", "A")
    none = DnsClient(lambda: [])
    assert reason(await forward(none, asked, budget()))[:2] == (2, 14)
    assert dns.message.from_wire(await forward(none, query(), budget())).edns == -1
    with refused_udp_port() as port:
        refusing = DnsClient(lambda: [NameServer(ip_address("127.0.0.1"), port)])
        assert reason(await forward(refusing, asked, budget())) == (
            2,
            22,
            "no name server can be asked: Connection refused",
        )
    assert reason(await forward(refusing, asked, budget(questions=0))) == (
        2,
        0,
        "0 DNS queries are in flight for this token",
    )
    assert reason(await forward(refusing, asked, budget(sockets=0))) == (
        2,
        0,
        "no descriptor is left for a DNS query",
    )


def edns_query(name: str, kind: str, rdclass: str = "IN") -> bytes:
    return dns.message.make_query(name, kind, rdclass, use_edns=0, id=0x1234).to_wire()


@pytest.mark.parametrize(
    ("kind", "rdclass", "rcode", "ede"),
    [
        ("AXFR", "IN", 5, 18),
        ("IXFR", "IN", 5, 18),
        ("TXT", "CH", 5, 21),
        ("A", "HS", 5, 21),
        ("SOA", "ANY", 5, 21),
        ("TKEY", "IN", 4, 21),
        ("MAILB", "IN", 4, 21),
        ("OPT", "IN", 4, 21),
        ("TYPE0", "IN", 4, 21),
    ],
)
async def test_what_is_no_plain_query_does_not_reach_the_name_servers(
    kind: str, rdclass: str, rcode: int, ede: int
) -> None:
    def unasked(q: dns.message.Message, tcp: bool) -> bytes:
        raise AssertionError("was sent on")

    server = FakeNameServer(unasked)
    async with server.running():
        client = DnsClient(lambda: [server.server])
        reply = await forward(client, edns_query("internal.example", kind, rdclass), budget())
        assert reason(reply)[:2] == (rcode, ede)
        assert dns.message.from_wire(reply).id == 0x1234
        # the question of IXFR as a client asks it: with the SOA that it has
        wire = query() + b"\xc0\x0c\0\6\0\1\0\0\0\0\0\x16" + bytes(22)
        wire = wire[:8] + b"\0\1" + wire[10:]
        assert (await forward(client, wire, budget()))[3] & 15 == 1


async def test_any_is_answered_with_little() -> None:
    """RFC 8482 §4.2."""
    reply = await forward(DnsClient(lambda: []), query(kind="ANY"), budget())
    message = dns.message.from_wire(reply)
    assert message.rcode() == 0 and message.id == 0x1234
    (records,) = message.answer
    assert records.name == message.question[0].name
    assert records.to_text() == 'example.com. 3600 IN HINFO "RFC8482" ""'


async def test_types_that_are_asked_for_in_practice_pass() -> None:
    kinds = ["A", "AAAA", "MX", "TXT", "SRV", "HTTPS", "SVCB", "DS", "DNSKEY", "CAA", "URI", "NULL"]
    server = FakeNameServer(lambda q, tcp: answer(q))
    async with server.running():
        client = DnsClient(lambda: [server.server])
        for kind in kinds:
            reply = await forward(client, edns_query("example.com", kind), budget())
            assert dns.message.from_wire(reply).rcode() == 0, kind
    assert len(server.queries) == len(kinds)


async def test_refused_and_lame_servers_are_passed_over() -> None:
    lame = FakeNameServer(lambda q, tcp: answer(q, rcode=5))
    good = FakeNameServer(lambda q, tcp: answer(q, "192.0.2.7"))
    with refused_udp_port() as port:
        closed = NameServer(ip_address("127.0.0.1"), port)
        async with lame.running(), good.running():
            client = DnsClient(lambda: [closed, lame.server, good.server], next_server=20.0)
            reply = await forward(client, query(), budget())  # in less than 5 seconds
            assert dns.message.from_wire(reply).rcode() == 0
            await forward(client, query(), budget())
    assert len(lame.queries) == 1  # the good one is asked first from then on


async def test_only_bad_answers_are_passed_on() -> None:
    lame = FakeNameServer(lambda q, tcp: answer(q, rcode=5))
    async with lame.running():
        reply = await forward(DnsClient(lambda: [lame.server]), query(), budget())
    assert dns.message.from_wire(reply).rcode() == 5


async def test_no_server_and_too_many_questions() -> None:
    assert (
        dns.message.from_wire(await forward(DnsClient(lambda: []), query(), budget())).rcode() == 2
    )
    server = FakeNameServer(lambda q, tcp: None)
    async with server.running(), trio.open_nursery() as nursery:
        client = DnsClient(lambda: [server.server])
        few = budget(2)
        for _ in range(2):
            nursery.start_soon(forward, client, query(), few)
        await trio.testing.wait_all_tasks_blocked()
        reply = await forward(client, query(), few)
        assert dns.message.from_wire(reply).rcode() == 2
        nursery.cancel_scope.cancel()
    with pytest.raises(DnsError, match="no name server"):
        await DnsClient(lambda: []).ask(query(), budget())


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="elsewhere each has one (TaskReadiness)")
async def test_what_the_first_server_answers_costs_no_task() -> None:
    """But a socket for each: their ports are drawn at random."""
    server = FakeNameServer(lambda q, tcp: None)
    purse = budget()
    async with (
        server.running(),
        forwarding(DnsClient(lambda: [server.server], next_server=60.0)) as forwarder,
    ):
        answers: list[bytes] = []
        tasks = trio.lowlevel.current_statistics().tasks_living
        asked = [forwarder.forward(query(id=n), purse, answers.append) for n in range(20)]
        await until(lambda: len(server.queries) == 20)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert purse.in_flight == 20 and purse.descriptors.free == 80
        assert len(set(server.sources)) == 20
        for question in asked:
            assert question is not None
            question.cancel()
        assert not answers and purse.in_flight == 0 and purse.descriptors.free == 100


@pytest.mark.parametrize("several", [False, True])
async def test_an_answer_that_is_late_counts_where_others_are_asked_meanwhile(
    several: bool,
) -> None:
    """It comes to the socket that the query was sent from."""
    first, other = FakeNameServer(lambda q, tcp: None), FakeNameServer(lambda q, tcp: None)
    purse = budget()
    async with first.running(), other.running(), trio.open_nursery() as nursery:
        servers = [first.server, other.server] if several else [first.server]
        client = DnsClient(lambda: servers, next_server=0.2)
        replies: list[bytes] = []

        async def ask() -> None:
            replies.append(await forward(client, query(), purse))

        nursery.start_soon(ask)
        # the second to come: the other server, or the first one once more
        await until(lambda: other.queries if several else first.queries[1:])
        wire, _ = first.queries[0]
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as stranger:
            await stranger.sendto(
                answer(dns.message.from_wire(wire), "192.0.2.66"), first.sources[0]
            )
        await first.say(answer(dns.message.from_wire(wire), "192.0.2.7"), first.sources[0])
        await until(lambda: replies)
        assert "192.0.2.7" in str(dns.message.from_wire(replies[0]))
        assert len(set(first.sources)) == 1
    assert purse.in_flight == 0 and purse.descriptors.free == 100


async def test_a_flood_of_forgeries_holds_no_query_up() -> None:
    def respond(q: dns.message.Message, tcp: bool) -> list[bytes]:
        good = answer(q, "192.0.2.7")
        return [b"forged"] * 100 + [good]

    server = FakeNameServer(respond)
    async with server.running():
        client = DnsClient(lambda: [server.server])
        reply = await forward(client, query(), budget())
    assert "192.0.2.7" in str(dns.message.from_wire(reply)) and client.bogus == 100


async def test_a_question_that_is_given_up_in_its_task_gives_everything_back() -> None:
    server = FakeNameServer(lambda q, tcp: None)
    purse = budget()
    async with (
        server.running(),
        forwarding(DnsClient(lambda: [server.server], next_server=0.05)) as forwarder,
    ):
        answers: list[bytes] = []
        question = forwarder.forward(query(), purse, answers.append)
        assert question is not None
        await until(lambda: len(server.queries) >= 2)
        question.cancel()
        await until(lambda: purse.in_flight == 0 and purse.descriptors.free == 100)
        assert not answers


async def test_a_question_that_fails_while_the_worker_ends_is_counted_once() -> None:
    """It has no task to go on in any more, and is given up with its session."""
    server = FakeNameServer(lambda q, tcp: None)
    purse = budget()
    readiness = make_readiness()
    forwarder = DnsForwarder(DnsClient(lambda: [server.server], next_server=60.0))
    async with server.running(), trio.open_nursery() as nursery:
        await nursery.start(readiness.run)
        running = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with running:
                await forwarder.run(readiness, task_status)

        await nursery.start(run)
        question = forwarder.forward(query(), purse, lambda _: None)
        assert question is not None
        await until(lambda: server.queries)
        running.cancel()
        await until(lambda: forwarder.tasks is None)
        refusal = dns.message.make_response(dns.message.from_wire(server.queries[0][0]))
        refusal.set_rcode(2)
        await server.say(refusal.to_wire(), server.sources[0])
        await until(lambda: purse.descriptors.free == 100)
        later = forwarder.forward(query(), purse, lambda _: None)
        assert later is not None
        for each in (question, later):
            each.cancel()
        assert purse.in_flight == 0 and purse.descriptors.free == 100
        nursery.cancel_scope.cancel()
    readiness.close()


# --- looking up -------------------------------------------------------------------------------


async def test_lookup_both_families_and_cache(tmp_path: Path) -> None:
    server = FakeNameServer(zone({"example.com": ["192.0.2.7", "192.0.2.8", "2001:db8::7"]}))
    async with resolving(server, tmp_path) as resolver:
        expected = ["2001:db8::7", "192.0.2.7", "192.0.2.8"]
        both = resolver.lookup("example.com", budget()), resolver.lookup("EXAMPLE.com.", budget())
        assert sorted(await finished(both[0])) == sorted(expected)
        assert sorted(await finished(both[1])) == sorted(expected)
        assert sorted(await finished(resolver.lookup("example.com", budget()))) == sorted(expected)
        assert len(server.queries) == 2  # joined, then cached


async def test_lookup_follows_cnames(tmp_path: Path) -> None:
    def respond(q: dns.message.Message, tcp: bool) -> bytes:
        response = dns.message.make_response(q)
        response.answer.append(
            dns.rrset.from_text(q.question[0].name, 60, "IN", "CNAME", "target.example.")
        )
        if q.question[0].rdtype == 1:
            response.answer.append(
                dns.rrset.from_text("target.example.", 60, "IN", "A", "192.0.2.9")
            )
        return response.to_wire()

    async with resolving(FakeNameServer(respond), tmp_path) as resolver:
        assert await finished(resolver.lookup("www.example", budget())) == ["192.0.2.9"]


async def test_zero_ttl_is_not_cached(tmp_path: Path) -> None:
    def respond(q: dns.message.Message, tcp: bool) -> bytes:
        return answer(q, "192.0.2.7", ttl=0) if q.question[0].rdtype == 1 else answer(q)

    server = FakeNameServer(respond)
    async with resolving(server, tmp_path) as resolver:
        for _ in range(2):
            assert await finished(resolver.lookup("example.com", budget())) == ["192.0.2.7"]
    assert sum(wire[-4:] == b"\0\1\0\1" for wire, _ in server.queries) == 2


async def test_missing_and_malformed(tmp_path: Path) -> None:
    def respond(q: dns.message.Message, tcp: bool) -> bytes:
        if "bad" in q.question[0].name.to_text():
            good = answer(q, "192.0.2.7" if q.question[0].rdtype == 1 else "::1")
            return good[:-3]
        return answer(q, rcode=3)

    async with resolving(FakeNameServer(respond), tmp_path) as resolver:
        missing = resolver.lookup("missing.example", budget())
        assert await finished(missing) == []
        assert missing.problem == "the name has no address"
        bad = resolver.lookup("bad.example", budget())
        assert await finished(bad) == []
        assert "malformed" in bad.problem
        long = resolver.lookup("x" * 64 + ".example", budget())
        assert await finished(long) == []
        assert "cannot be asked for" in long.problem


async def test_literals_hosts_and_localhost(tmp_path: Path) -> None:
    server = FakeNameServer(zone({"xn--bcher-kva.example": ["192.0.2.7"]}))
    hosts = "10.1.2.3 Router.lan router # comment\n::5 router\nnonsense line\n"
    async with resolving(server, tmp_path, hosts) as resolver:
        assert await finished(resolver.lookup("0x7f.1", budget())) == ["127.0.0.1"]
        assert await finished(resolver.lookup("2001:db8::1", budget())) == ["2001:db8::1"]
        assert await finished(resolver.lookup("ROUTER", budget())) == ["::5", "10.1.2.3"]
        assert await finished(resolver.lookup("localhost", budget())) == ["::1", "127.0.0.1"]
        assert await finished(resolver.lookup("a.localhost.", budget())) == ["::1", "127.0.0.1"]
        assert await finished(resolver.lookup("１２７.0.0.1", budget())) == ["127.0.0.1"]
        assert await finished(resolver.lookup("ｌocalhost", budget())) == ["::1", "127.0.0.1"]
        assert not server.queries
        assert await finished(resolver.lookup("bücher.example", budget())) == ["192.0.2.7"]
        with pytest.raises(InvalidHost):
            resolver.lookup("a b", budget())
        with pytest.raises(InvalidHost):
            resolver.lookup("\u200d.example", budget())


async def test_a_cancelled_asker_leaves_the_others_their_answer(tmp_path: Path) -> None:
    server = FakeNameServer(zone({"example.com": ["192.0.2.7"]}))
    async with resolving(server, tmp_path) as resolver:
        with trio.CancelScope() as scope:
            lookup = resolver.lookup("example.com", budget())
            scope.cancel()
            await lookup.v4.done.wait()
        assert await finished(resolver.lookup("example.com", budget())) == ["192.0.2.7"]


# --- where to ask -----------------------------------------------------------------------------


def test_resolv_conf(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "# c\nsearch x\nnameserver 192.0.2.53 \nnameserver 2001:db8::53\n"
        "nameserver 192.0.2.53\nnameserver bad\nnameserver\noptions edns0\n"
        "nameserver fe80::1%lo\n"
    )
    servers = parse_resolv_conf(text)
    assert [str(s.address) for s in servers] == ["192.0.2.53", "2001:db8::53", "fe80::1%lo"]
    assert servers[2].sockaddr == ("fe80::1", 53, 0, 1)
    assert "bad" in caplog.text


def test_system_name_servers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    systemd, etc = tmp_path / "systemd", tmp_path / "etc"
    etc.write_text("nameserver 127.0.0.53\n")
    assert [s.loopback for s in SystemNameServers((systemd, etc))()] == [True]
    assert SystemNameServers((systemd, etc), loopback=False)() == ()
    assert "no usable name server" in caplog.text
    systemd.write_text("nameserver 192.0.2.53\n")
    assert [str(s) for s in SystemNameServers((systemd, etc))()] == ["192.0.2.53:53"]


def test_name_servers_are_followed_or_not(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    follows = SystemNameServers((path,), clock=lambda: now)
    stays = SystemNameServers((path,), follow=False, clock=lambda: now)
    path.write_text("nameserver 192.0.2.200\n")
    assert [str(s.address) for s in follows()] == ["192.0.2.1"]
    now += 6
    assert [str(s.address) for s in follows()] == ["192.0.2.200"]
    assert [str(s.address) for s in stays()] == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.53", "192.0.2.53:53"),
        ("192.0.2.53:5353", "192.0.2.53:5353"),
        ("2001:db8::53", "[2001:db8::53]:53"),
        ("[2001:db8::53]", "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
    ],
)
def test_resolver_option(text: str, shown: str) -> None:
    assert str(parse_resolver(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "dns.example", "192.0.2.53:0", "192.0.2.53:x", "192.0.2.53:", "[::1", "[::1]x", "[::1]:"],
)
def test_bad_resolver_option(text: str) -> None:
    with pytest.raises(ConfigError, match="^`resolvers` "):
        parse_resolver(text)


def test_hosts_file_is_read_again(tmp_path: Path) -> None:
    now = 100.0
    path = tmp_path / "hosts"
    hosts = HostsFile(path, clock=lambda: now)
    assert hosts.lookup("a") == ()
    path.write_text("192.0.2.1 a\n")
    now += 6
    assert hosts.lookup("A.") == (ip_address("192.0.2.1"),)
