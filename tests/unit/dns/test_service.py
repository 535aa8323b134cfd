"""The service with upstreams that are scripted, the clock of trio's test kit, and the TCP side."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from zks_lwip.dns import Cache, DnsService, ResolverError, WorkerResolver, frame, serve_stream
from zks_lwip.dns.forwarder import MAX_WAITING_BYTES
from zks_lwip.dns.local import parse_static_name
from zks_lwip.dns.upstream.resolver import OnResult
from zks_lwip.errors import ConfigError, DnsError


class Upstream:
    """Answers every A query with 192.0.2.1 after `delay` seconds, or does what `act` says."""

    size = 1232
    padding = 0
    capacity = 256

    def __init__(
        self, name: str = "one", delay: float = 0, act: Callable[[bytes], bytes] | None = None
    ) -> None:
        self.name = name
        self.delay = delay
        self.act = act
        self.asked: list[bytes] = []
        self.gate: Switch | None = None

    async def run(self) -> None:
        pass

    def start_query(self, query: bytes, on_result: OnResult) -> None:
        pass

    async def resolve(self, query: bytes) -> bytes:
        self.asked.append(query)
        await trio.sleep(self.delay)
        return (self.act or good)(query)


class Switch:
    up = False
    silent = False
    hopeless = False


def good(query: bytes) -> bytes:
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked)
    name = asked.question[0].name
    made.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "192.0.2.1"))
    return made.to_wire()


def fail(query: bytes) -> bytes:
    raise ResolverError("it is broken", 23)


def query(name: str = "www.example.com", kind: str = "A", **arguments: object) -> bytes:
    return dns.message.make_query(name, kind, **arguments).to_wire()  # type: ignore[arg-type]


def read(message: bytes | None) -> dns.message.Message:
    assert message is not None
    return dns.message.from_wire(message)


@asynccontextmanager
async def running(*upstreams: Upstream, **arguments: object) -> AsyncIterator[DnsService]:
    arguments.setdefault("hosts", None)
    service = DnsService(upstreams, **arguments)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def test_asked_once_then_from_the_cache(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream()
    async with running(upstream, cache=Cache(clock=trio.current_time)) as service:
        assert service.answer_now(query()) is None
        assert read(await service.answer(query())).answer[0].ttl == 300
        await trio.sleep(10.5)
        asked = query("WWW.EXAMPLE.COM", use_edns=0)
        seen = read(service.answer_now(asked))
        assert seen.answer[0].ttl == 290 and seen.id == dns.message.from_wire(asked).id
        await trio.sleep(289.6)
        assert service.answer_now(query()) is None
        assert len(upstream.asked) == 1
        assert service.stats()["cache_hits"] == 1
        await service.answer(query())
        assert service.flush() == 1
        assert service.answer_now(query()) is None


async def test_do_and_cd_do_not_mix() -> None:
    upstream = Upstream()
    async with running(upstream) as service:
        await service.answer(query())
        assert service.answer_now(query(want_dnssec=True)) is None
        checking = dns.message.make_query("www.example.com", "A")
        checking.flags |= dns.flags.CD
        assert service.answer_now(checking.to_wire()) is None
        assert service.answer_now(query()) is not None


async def test_equal_queries_in_flight_are_one(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream(delay=1)
    async with running(upstream) as service:
        answers: list[bytes] = []
        asked = [query(name) for name in ("www.example.com", "WWW.example.com") * 50]
        for message in asked:
            service.submit(message, answers.append)
        await trio.sleep(1.1)
        assert len(upstream.asked) == 1
        assert [answer[:2] for answer in answers] == [message[:2] for message in asked]
        assert {str(read(answer).question[0].name) for answer in answers} == {
            "www.example.com.", "WWW.example.com.",
        }  # fmt: skip
        assert service.stats()["coalesced"] == 99 and service.stats()["waiting"] == 0


async def test_a_client_that_gives_up_does_not_hurt_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream(delay=2)
    async with running(upstream) as service:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.answer, query())
            await trio.sleep(0.1)
            other = trio.Event()
            service.submit(query(), lambda _: other.set())
            nursery.cancel_scope.cancel()
        with trio.fail_after(3):
            await other.wait()
        assert len(upstream.asked) == 1


async def test_the_next_resolver_after_the_deadline_and_first_until_a_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow, second = Upstream("slow", delay=99), Upstream("second")
    async with running(slow, second) as service:
        start = trio.current_time()
        assert read(await service.answer(query())).answer
        assert trio.current_time() - start == pytest.approx(5, abs=0.1)
        # From now on the second one is asked first, at no cost.
        start = trio.current_time()
        assert read(await service.answer(query("other.example"))).answer
        assert trio.current_time() == start
        # Probes find out when the first one answers again.
        slow.delay = 0
        await trio.sleep(40)
        asked = len(second.asked)
        await service.answer(query("third.example"))
        assert len(second.asked) == asked


async def test_servfail_with_the_reason_when_all_fail(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(Upstream("a", act=fail), Upstream("b", act=fail)) as service:
        seen = read(await service.answer(query(use_edns=0)))
        assert seen.rcode() == dns.rcode.SERVFAIL
        assert (seen.options[0].code, seen.options[0].text) == (23, "it is broken")
        assert service.stats()["failed b"] == 1
    async with running(Upstream(delay=99)) as service:
        start = trio.current_time()
        seen = read(await service.answer(query(use_edns=0)))
        assert trio.current_time() - start == pytest.approx(5, abs=0.1)
        assert (seen.rcode(), seen.options[0].code) == (dns.rcode.SERVFAIL, 22)
    async with running() as service:
        assert read(await service.answer(query(use_edns=0))).options[0].code == 14


def wrong_id(message: bytes) -> bytes:
    return b"\0\1" + good(message)[2:]


def other_question(message: bytes) -> bytes:
    return good(query("www.example.org", use_edns=0))


def loops(message: bytes) -> bytes:
    asked = dns.message.from_wire(message)
    head = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + asked.question[0].name.to_wire() + b"\0\1\0\1"
    return head + b"\xc0" + bytes([len(head)]) + b"\0\1\0\1\0\0\0\5\0\4\1\2\3\4"


@pytest.mark.parametrize("act", [wrong_id, other_question, loops, lambda _: b"", lambda m: m])
async def test_bad_answers_never_reach_the_client(
    act: Callable[[bytes], bytes], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Upstream("bad", act=act)) as service:
        seen = read(await service.answer(query(use_edns=0)))
        assert (seen.rcode(), seen.options[0].code) == (dns.rcode.SERVFAIL, 24)
        assert service.stats()["cache_entries"] == 0
    async with running(Upstream("bad", act=act), Upstream("good")) as service:
        assert read(await service.answer(query())).answer


async def test_a_tunnel_that_is_down_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream()
    upstream.gate = Switch()
    async with running(upstream) as service:
        start = trio.current_time()
        seen = read(await service.answer(query(use_edns=0)))
        assert trio.current_time() - start == pytest.approx(10, abs=0.2)
        assert seen.rcode() == dns.rcode.SERVFAIL and "tunnel is down" in seen.options[0].text
        assert not upstream.asked
        async with trio.open_nursery() as nursery:

            async def up() -> None:
                await trio.sleep(3)
                assert upstream.gate is not None
                upstream.gate.up = True

            nursery.start_soon(up)
            assert read(await service.answer(query())).answer


class Lossy(Upstream):
    """What it is asked while its gate is silent is lost.

    :param at_once: it takes the first query without a task.
    """

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.gate = Switch()
        self.gate.up = True
        self.at_once = at_once

    def start_query(self, query: bytes, on_result: OnResult) -> Callable[[], None] | None:
        if not self.at_once or self.asked:
            return None
        self.asked.append(query)
        return lambda: None

    async def resolve(self, query: bytes) -> bytes:
        assert self.gate is not None
        if self.gate.silent or not (self.at_once or self.asked):
            self.delay = math.inf
        try:
            return await super().resolve(query)
        finally:
            self.delay = 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_query_that_a_cut_has_taken_is_asked_again_after_it(
    at_once: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Also one that is longer than an upstream has for an answer, but no longer than the grace."""
    upstream = Lossy(at_once)
    assert upstream.gate is not None
    async with running(upstream) as service, trio.open_nursery() as nursery:
        start = trio.current_time()

        @nursery.start_soon
        async def cut() -> None:
            await trio.sleep(2)
            assert upstream.gate is not None
            upstream.gate.silent = True
            await trio.sleep(6)
            upstream.gate.silent = False

        assert read(await service.answer(query())).answer
        assert trio.current_time() - start == pytest.approx(8, abs=0.5)
        assert len(upstream.asked) == 2 and "servfail" not in service.stats()


async def test_a_tunnel_that_stays_silent_is_waited_for_within_the_grace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Lossy(at_once=True)
    assert upstream.gate is not None
    upstream.gate.silent = True
    async with running(upstream) as service:
        start = trio.current_time()
        seen = read(await service.answer(query(use_edns=0)))
        assert trio.current_time() - start == pytest.approx(10, abs=0.5)
        assert seen.rcode() == dns.rcode.SERVFAIL
        assert seen.options[0].text == "nothing is heard by the tunnel"


async def test_a_burst_while_the_tunnel_is_down_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream(delay=0.02)
    upstream.gate = gate = Switch()
    async with running(upstream) as service:
        answers: list[bytes] = []
        for number in range(3000):
            service.submit(raw(f"n{number}.example"), answers.append, source=number % 7)
        await trio.sleep(8)
        assert not answers
        gate.up = True  # type: ignore[misc]
        await trio.sleep(1)
        assert len(answers) == 3000 and all(answer[7] == 1 for answer in answers)
        gate.up = False  # type: ignore[misc]
        answers.clear()
        for number in range(3000):
            service.submit(query(f"m{number}.example", use_edns=0), answers.append, source=number)
        await trio.sleep(10.5)
        assert len(answers) == 3000
        for answer in answers:
            seen = read(answer)
            assert (
                seen.rcode() == dns.rcode.SERVFAIL and seen.options[0].text == "the tunnel is down"
            )


async def test_a_grace_without_an_end(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream(delay=1)
    upstream.capacity = 1
    upstream.gate = gate = Switch()
    async with running(upstream, grace=math.inf) as service:
        answers: list[bytes] = []
        for number in range(3):
            service.submit(query(f"n{number}.example"), answers.append)
        await trio.sleep(1000)
        assert not answers
        gate.up = True  # type: ignore[misc]
        await trio.sleep(1.5)
        gate.up = False  # type: ignore[misc]
        await trio.sleep(1000)
        gate.up = True  # type: ignore[misc]
        await trio.sleep(5)
        assert [bool(read(answer).answer) for answer in answers] == [True] * 3


async def test_a_tunnel_without_hope_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream()
    upstream.gate = gate = Switch()
    gate.hopeless = True  # type: ignore[misc]
    async with running(upstream) as service:
        start = trio.current_time()
        seen = read(await service.answer(query(use_edns=0)))
        assert trio.current_time() - start < 0.1
        assert seen.rcode() == dns.rcode.SERVFAIL and "tunnel is down" in seen.options[0].text


class BusyTunnel:
    """One that takes no query at once, so that a task waits."""

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None


async def test_the_worker_is_asked_without_a_task() -> None:
    """What a lost connection had carried is asked again, in one."""

    class Tunnel:
        def __init__(self) -> None:
            self.started: dict[int, Callable[[bytes | None], None]] = {}
            self.again = 0

        def start_dns_query(
            self, message: bytes, on_answer: Callable[[bytes | None], None]
        ) -> Callable[[], None]:
            number = len(self.started)
            self.started[number] = on_answer
            answer = None if b"lost" in message else b"\x12\x34" + good(message)[2:]
            if b"late" not in message:
                trio.lowlevel.current_trio_token().run_sync_soon(on_answer, answer)
            return lambda: self.started.pop(number) and None

        async def dns_query(self, message: bytes) -> bytes:
            self.again += 1
            return good(message)

    tunnel = Tunnel()
    async with running(WorkerResolver(tunnel), deadline=2) as service:
        assert read(await service.answer(query())).answer and not tunnel.again
        assert read(await service.answer(query("lost.example"))).answer and tunnel.again == 1
        late = read(await service.answer(query("late.example", use_edns=0)))
        assert late.rcode() == dns.rcode.SERVFAIL
        assert "no answer from worker within 2 s" in late.options[0].text
        assert set(tunnel.started) == {0, 1}  # the late one was given up
        assert service.stats()["failed worker"] == 1


async def test_the_worker_is_asked_by_its_frames() -> None:
    class Tunnel(BusyTunnel):
        asked = b""

        async def dns_query(self, message: bytes) -> bytes:
            if b"fail" in message:
                raise DnsError("no answer")
            self.asked = message
            return b"\x12\x34" + good(message)[2:]

    tunnel = Tunnel()
    async with running(WorkerResolver(tunnel)) as service:  # type: ignore[arg-type]
        assert read(await service.answer(query())).answer
        assert tunnel.asked[:2] == b"\0\0"
        assert read(await service.answer(query("fail.example"))).rcode() == dns.rcode.SERVFAIL


async def test_authenticated_data_of_the_workers_servers_is_not_passed_on() -> None:
    """Nothing authenticates them: an application that trusts AD (SSHFP) must not trust theirs."""

    class Tunnel(BusyTunnel):
        async def dns_query(self, message: bytes) -> bytes:
            answer = bytearray(good(message))
            answer[3] |= dns.flags.AD | dns.flags.RA
            return bytes(answer)

    tunnel = Tunnel()
    async with running(WorkerResolver(tunnel)) as service:  # type: ignore[arg-type]
        seen = read(await service.answer(query(want_dnssec=True)))
    assert seen.answer and seen.flags & dns.flags.RA and not seen.flags & dns.flags.AD


async def test_too_much_at_once_is_refused_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Upstream(delay=1), max_in_flight=10, max_waiting=20) as service:
        answers: list[bytes] = []
        for number in range(30):
            service.submit(query(f"n{number}.example"), answers.append)
        assert len(answers) == 20
        assert all(read(answer).rcode() == dns.rcode.SERVFAIL for answer in answers)
        for _ in range(15):
            service.submit(query("n1.example"), answers.append)
        assert len(answers) == 25
        await trio.sleep(2)
        assert len(answers) == 45 and service.stats()["waiting"] == 0


class Mixed(Upstream):
    """Names that begin with "live" are answered at once, others never."""

    most = 0
    active = 0

    async def resolve(self, query: bytes) -> bytes:
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            if not label(query).startswith("live"):
                await trio.sleep_forever()
            await trio.sleep(0.02)
            return good(query)
        finally:
            self.active -= 1


def raw(name: str, option: int = 0) -> bytes:
    """A query for A records; with an EDNS option of `option` bytes, if any. (dnspython takes longer
    than all else.)
    """
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
    message = struct.pack("!6H", 7, 0x100, 1, 0, 0, 1 if option else 0) + labels + b"\0\0\1\0\1"
    if option:
        message += b"\0\0\x29\x04\xd0" + bytes(4)
        message += struct.pack("!HHH", option + 4, 65001, option) + bytes(option)
    return message


def label(message: bytes) -> str:
    return message[13 : 13 + message[12]].decode()


async def test_a_burst_of_3000_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    """All that one socket asks at once, first uncached, then cached."""
    upstream = Mixed()
    names = [raw(f"live{number}.example") for number in range(3000)]
    async with running(upstream, cache=Cache(clock=trio.current_time)) as service:
        answers: list[bytes] = []
        for message in names:
            service.submit(message, answers.append, source=("198.18.0.1", 4000))
        assert not answers
        await trio.sleep(3)
        assert len(answers) == 3000 and all(answer[7] == 1 for answer in answers)
        assert upstream.most == upstream.capacity
        answers.clear()
        for message in names:
            service.submit(message, answers.append, source=("198.18.0.1", 4000))
        assert len(answers) == 3000 and all(answer[7] == 1 for answer in answers)
        stats = service.stats()
        assert (stats["waiting"], stats["in_flight"], stats["queued"]) == (0, 0, 0)


@pytest.mark.parametrize(("ports", "count"), [(1, 100_000), (40, 20_000)])
async def test_a_program_that_asks_100000_dead_names_does_not_cost_others_their_answers(
    ports: int, count: int, autojump_clock: trio.testing.MockClock
) -> None:
    upstream = Mixed()
    async with running(upstream, cache=Cache(clock=trio.current_time)) as service:
        await service.answer(query("live.example"))
        dead: list[int] = []
        for number in range(count):
            service.submit(
                raw(f"dead{number}.example"),
                lambda message: dead.append(message[3] & 15),
                source=("198.18.0.1", 10_000 + number % ports),
            )
        stats = service.stats()
        assert stats["in_flight"] == stats["waiting"] == 4096 and upstream.most <= 256
        assert len(dead) == count - 4096
        assert service.answer_now(query("live.example")) is not None
        others: list[bytes] = []
        start = trio.current_time()
        for number in range(20):
            service.submit(
                query(f"live{number}.example"), others.append, source=("198.18.0.1", number)
            )
        with trio.fail_after(7):
            while len(others) < 20:
                await trio.sleep(0.1)
        assert all(read(answer).answer for answer in others)
        assert trio.current_time() - start < 6  # once the dead ones before have had their time
        with trio.fail_after(60):
            while len(dead) < count:
                await trio.sleep(0.1)
        assert set(dead) == {dns.rcode.SERVFAIL} and len(dead) == count


async def test_where_every_query_has_its_own_port_the_oldest_give_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(Mixed(), max_in_flight=100, max_waiting=200) as service:
        answers: dict[int, bytes] = {}
        for number in range(150):
            service.submit(
                query(f"dead{number}.example", use_edns=0),
                lambda message, number=number: answers.setdefault(number, message),
                source=number,
            )
        assert sorted(answers) == list(range(50))
        seen = read(answers[0])
        assert seen.rcode() == dns.rcode.SERVFAIL
        assert (seen.options[0].code, seen.options[0].text) == (14, "too many queries at once")
        live: list[bytes] = []
        service.submit(query("live.example"), live.append, source="another")
        await trio.sleep(0.1)
        assert read(live[0]).answer


async def test_queries_that_wait_are_bounded_in_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One program's are of 4 KB each; others still have theirs asked."""
    async with running(Mixed(), max_in_flight=100_000) as service:
        dead: list[bytes] = []
        for number in range(4000):
            service.submit(raw(f"dead{number}.example", 3900), dead.append, source="heavy")
        stats = service.stats()
        assert 1000 < stats["waiting"] < MAX_WAITING_BYTES // 2 // 3900
        assert len(dead) == 4000 - stats["waiting"]
        live: list[bytes] = []
        for number in range(20):
            service.submit(query(f"live{number}.example"), live.append, source=number)
        with trio.fail_after(7):
            while len(live) < 20:
                await trio.sleep(0.1)
        assert all(read(answer).answer for answer in live)
        await trio.sleep(60)
        assert service.stats()["waiting"] == 0 and len(dead) == 4000
        service.submit(query("dead.example"), dead.append)
        assert len(dead) == 4000  # nothing is still counted


async def test_a_dead_forward_holds_up_no_other_names(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dead, live = Mixed("dead"), Mixed("live")
    dead.capacity = 8
    async with running(live, forward=[("lan", dead), ("home", dead)]) as service:
        answers: list[bytes] = []
        for number in range(1000):
            name = f"dead{number}." + ("lan" if number % 2 else "home")
            service.submit(query(name, use_edns=0), answers.append, source=1)
        await trio.sleep(0.1)
        assert read(await service.answer(query("live.example"))).answer
        assert dead.most == 8  # for both domains together
        assert not answers
        with trio.fail_after(16):
            while len(answers) < 1000:
                await trio.sleep(0.1)
        codes = {read(answer).options[0].code for answer in answers}
        texts = {read(answer).options[0].text for answer in answers}
        assert codes == {22}
        assert "no answer from dead within 5 s" in texts
        assert "8 queries before this one wait for their answers" in texts
        assert dead.active == 0


async def test_who_gives_up_a_query_asks_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """What gives way is cancelled at the upstream, too."""
    upstream = Mixed()
    async with running(upstream, max_in_flight=2) as service:
        for number in range(5):
            service.submit(query(f"dead{number}.example"), lambda _: None, source=number)
            await trio.testing.wait_all_tasks_blocked()
            assert upstream.active == min(number + 1, 2)


async def test_answers_that_give_way_do_not_grow_the_stack(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each answer has another connection ask, for whose query yet another one gives way."""
    async with running(Mixed(), max_in_flight=1000) as service:
        asked = 0

        def ask_again(source: int) -> None:
            nonlocal asked
            if asked < 5000:
                asked += 1
                service.submit(
                    raw(f"dead{asked}.example"), lambda _: ask_again(source + 1), source=asked
                )

        for source in range(1001):
            ask_again(source)
        assert asked == 5000


async def test_who_waits_at_the_end_is_answered() -> None:
    answers: list[bytes] = []
    async with running(Upstream(delay=99)) as service:
        service.submit(query(use_edns=0), answers.append)
        await trio.testing.wait_all_tasks_blocked()
    assert [read(answer).rcode() for answer in answers] == [dns.rcode.SERVFAIL]
    with pytest.raises(RuntimeError):
        await service.answer(query("another.example"))


async def test_forwarded_domains_go_to_their_resolver_only() -> None:
    general, lan, inner = Upstream(), Upstream("lan"), Upstream("inner")
    async with running(
        general, forward=[("lan.example", lan), ("deep.lan.example", inner)]
    ) as service:
        for name in ("lan.example", "a.LAN.example", "xlan.example", "b.deep.lan.example"):
            await service.answer(query(name))
        assert (len(general.asked), len(lan.asked), len(inner.asked)) == (1, 2, 1)


async def test_names_that_are_answered_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.9 Host.example alias # comment\nfe80::1%eth0 link\nrubbish\n")
    block = tmp_path / "block"
    block.write_text("# list\n0.0.0.0 ads.example other.example\nbad.example\n1.2.3.4 odd\n\n")
    upstream = Upstream()
    async with running(
        upstream,
        hosts=hosts,
        block=[block],
        static=map(
            parse_static_name,
            ["Db.test=192.0.2.7", "db.test=2001:db8::7", "bad.example=192.0.2.8"],
        ),
    ) as service:

        def ask(name: str, kind: str = "A") -> str:
            seen = read(service.answer_now(query(name, kind, use_edns=0)))
            data = " ".join(str(item) for rrset in seen.answer for item in rrset)
            return data or dns.rcode.to_text(seen.rcode())

        assert ask("db.TEST") == "192.0.2.7"
        assert ask("db.test", "AAAA") == "2001:db8::7"
        assert ask("db.test", "HTTPS") == "NOERROR"
        assert ask("7.2.0.192.in-addr.arpa", "PTR") == "db.test."
        assert ask("host.example") == "192.0.2.9"
        assert ask("host.example", "AAAA") == "NOERROR"
        assert service.answer_now(query("host.example", "MX")) is None
        assert ask("9.2.0.192.in-addr.arpa", "PTR") == "host.example. alias."
        assert ask("link", "AAAA") == "fe80::1"
        assert ask("ads.example") == "0.0.0.0"
        assert ask("ads.example", "AAAA") == "::"
        assert ask("ads.example", "HTTPS") == "NOERROR"
        assert service.answer_now(query("x.ads.example")) is None
        assert ask("bad.example") == "192.0.2.8"
        assert ask("x.bad.example") == "NXDOMAIN"
        assert ask("use-application-dns.net") == "NXDOMAIN"
        assert ask("_dns.resolver.arpa", "SVCB") == "NOERROR"
        assert ask("localhost") == "127.0.0.1"
        assert ask("a.localhost", "AAAA") == "::1"
        assert ask("x.onion") == "NXDOMAIN"
        assert service.answer_now(query("ads.example", rdclass="CH")) is None
        blocked = read(service.answer_now(query("x.bad.example", use_edns=0)))
        assert blocked.options[0].code == 15
        assert not upstream.asked
        hosts.write_text("192.0.2.10 host.example\n")
        block.write_text("new.example\n")
        service.flush()
        with trio.fail_after(60):
            while service.stats().get("reloaded") != 1:
                await trio.sleep(0.01)
        assert ask("host.example") == "192.0.2.10"
        assert ask("new.example") == "NXDOMAIN"
        block.unlink()
        service.flush()
        with trio.fail_after(60):
            while "cannot be read" not in caplog.text:
                await trio.sleep(0.01)
        assert ask("new.example") == "NXDOMAIN"


async def test_a_changed_hosts_file_is_noticed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    async with running(Upstream(), hosts=hosts, hosts_interval=0.01) as service:
        assert service.answer_now(query("host.example")) is None
        hosts.write_text("192.0.2.9 host.example\n")
        with trio.fail_after(60):
            while service.answer_now(query("host.example")) is None:
                await trio.sleep(0.01)


@pytest.mark.parametrize("text", ["a.test", "=192.0.2.1", "a.test=", "a..test=192.0.2.1", "a=b"])
def test_a_malformed_static_name_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="`dns_static`"):
        DnsService([], static=[parse_static_name(text)])


async def test_no_datagram_is_larger_than_one_can_be() -> None:
    """A client that takes 65,535 bytes over UDP: IP could not carry that."""

    def large(message: bytes) -> bytes:
        asked = dns.message.from_wire(message)
        made = dns.message.make_response(asked)
        text = " ".join(["x" * 250] * 240)
        made.answer.append(dns.rrset.from_text(asked.question[0].name, 300, "IN", "TXT", text))
        return made.to_wire(max_size=65535)

    async with running(Upstream(act=large)) as service:
        message = query(kind="TXT", use_edns=0, payload=65535)
        assert read(await service.answer(message)).flags & dns.flags.TC
        assert len(await service.answer(message, transport="tcp") or b"") > 60000


async def test_silence_only_for_what_cannot_be_a_query() -> None:
    async with running() as service:
        assert await service.answer(b"x" * 11) is None
        assert await service.answer(query()[:2] + b"\x81\x80" + query()[4:]) is None
        stats = service.stats()
        assert (stats["rejected short"], stats["rejected response"]) == (1, 1)
        with pytest.raises(DnsError):
            await service.resolve(b"x")


async def test_tcp_pipelined_and_split_anyhow(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Upstream(delay=0.1)) as service:
        client, server = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_stream, service, server)
            asked = [query(f"n{number}.example") for number in range(300)]
            data = b"".join(frame(message) for message in asked) + frame(b"short") + frame(b"")
            for start in range(0, len(data), 7):
                await client.send_all(data[start : start + 7])
            await client.send_eof()
            received = bytearray()
            async for part in client:
                received += part
        answers = []
        while received:
            size = int.from_bytes(received[:2], "big")
            answers.append(bytes(received[2 : 2 + size]))
            del received[: 2 + size]
        assert sorted(answer[:2] for answer in answers) == sorted(one[:2] for one in asked)
        assert service.stats()["rejected short"] == 2


async def test_tcp_is_bounded_and_ends_when_idle(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream(delay=3)
    async with running(upstream) as service:
        client, server = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_stream, service, server)
            await client.send_all(
                b"".join(frame(query(f"n{number}.example")) for number in range(500))
            )
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert service.stats()["waiting"] == 128
            start = trio.current_time()
            received = 0
            async for part in client:
                received += len(part)
            assert received > 500 * 40
            assert 30 < trio.current_time() - start < 45


async def test_what_is_repeated_below_counts_down_and_is_forgotten(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.9 host.example\n")
    packets = PacketCache()
    cache = Cache(clock=trio.current_time)
    async with running(Upstream(), cache=cache, hosts=hosts) as service:
        service.use_packet_cache(packets)
        asked, local = query(), query("host.example")
        await service.answer(asked)
        assert not packets.known  # the first answer of an upstream may be the last, too
        await trio.sleep(1.25)
        service.answer_now(asked)
        answer, ttls, age, seconds = packets.known[asked[2:]]
        assert read(asked[:2] + answer).answer[0].ttl == 300
        assert [int.from_bytes(answer[at : at + 4], "big") for at in ttls] == [300]
        assert (age, seconds) == (pytest.approx(1.25), pytest.approx(298.75))
        assert read(service.answer_now(asked)).answer[0].ttl == 299
        service.answer_now(local)
        assert packets.known[local[2:]][1:] == ([], 0, 60)
        # Queries that will never come again are not kept, nor what was asked over TCP.
        service.answer_now(query(use_edns=0, options=[dns.edns.GenericOption(10, b"x" * 8)]))
        service.answer_now(query(use_edns=0), transport="tcp")
        assert len(packets.known) == 2
        service.answer_now(query(use_edns=0))
        assert len(packets.known) == 3
        service.flush()
        assert not packets.known
        assert service.stats()["repeated"] == 7


class PacketCache:
    hits = 7

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[bytes, Sequence[int], float, float]] = {}

    def put(
        self, key: bytes, answer: bytes, ttls: Sequence[int], age: float, seconds: float
    ) -> None:
        self.known[key] = (answer, ttls, age, seconds)

    def clear(self) -> None:
        self.known.clear()
