"""How the worker connects: policy on every address, Happy Eyeballs, error codes."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import dns.message
import pytest
import trio

from tests.kits.ports import SHORTEST_QUEUE, on_one_port, refused_port
from tests.kits.until import until
from tests.kits.worker import (
    Answerer,
    FakeNameServer,
    answer,
    budget,
    open_descriptors,
    tcp_server,
    zone,
)
from zks_lwip.net.sockets import reset
from zks_lwip.worker.dial import Dialer, DialError, error_code
from zks_lwip.worker.dnsclient import DnsClient
from zks_lwip.worker.nameservers import HostsFile
from zks_lwip.worker.policy import Policy
from zks_lwip.worker.resolver import Resolver

ALL_LOOPBACK = ("127.0.0.0/8", "::1/128")


async def serve_name(stream: trio.SocketStream) -> None:
    await stream.send_all(stream.socket.getsockname()[0].encode())


@asynccontextmanager
async def dialing(
    tmp_path: Path,
    respond: Answerer,
    allow: tuple[str, ...] = ALL_LOOPBACK,
    **delays: float,
) -> AsyncIterator[Dialer]:
    server = FakeNameServer(respond)
    (tmp_path / "hosts").write_text("")
    resolver = Resolver(DnsClient(lambda: [server.server]), HostsFile(tmp_path / "hosts"))
    async with server.running(), trio.open_nursery() as nursery:
        await nursery.start(resolver.run)
        yield Dialer(Policy(map(ip_network, allow)), resolver, **delays)
        nursery.cancel_scope.cancel()


async def greeting(sock: socket.socket) -> str:
    with trio.fail_after(30), sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await trio.lowlevel.wait_readable(sock)
        return sock.recv(100).decode()


async def failure(dialer: Dialer, host: str, port: int, seconds: float = 20) -> tuple[int, str]:
    dialer.seconds = seconds
    with pytest.raises(DialError) as info:
        await dialer.dial(host, port, budget())
    return info.value.code, str(info.value)


@asynccontextmanager
async def black_hole(host: str, *free: str) -> AsyncIterator[int]:
    """A port of which every SYN is lost: a listener whose queue is full.

    On the addresses ``free`` the port is not used.
    """
    ends = [(socket.SOCK_STREAM, address) for address in (host, *free)]
    listener, *others = on_one_port(*ends)
    for other in others:
        other.close()
    with listener:
        listener.listen(SHORTEST_QUEUE)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, port))
        assert select.select([], fillers, [], 30)[1]  # one is in the queue
        await trio.sleep(0.02)
        yield port
        for filler in fillers:
            filler.close()


async def test_literal(tmp_path: Path) -> None:
    async with dialing(tmp_path, zone({})) as dialer, tcp_server(serve_name) as port:
        assert await greeting(await dialer.dial("127.1", port, budget())) == "127.0.0.1"
        assert await greeting(await dialer.dial("::ffff:127.0.0.1", port, budget())) == "127.0.0.1"


async def test_policy_before_any_packet(tmp_path: Path) -> None:
    touched: list[str] = []

    async def touch(stream: trio.SocketStream) -> None:
        touched.append("!")

    names = {"inside.example": ["127.0.0.1"], "mixed.example": ["127.0.0.1", "::1"]}
    async with dialing(tmp_path, zone(names), allow=()) as dialer, tcp_server(touch) as port:
        for host in ("127.0.0.1", "0x7f.1", "localhost", "inside.example", "mixed.example", "::1"):
            code, message = await failure(dialer, host, port)
            assert (code, message) == (403, "refused by policy: loopback"), host
        await trio.sleep(0.05)
    assert not touched


async def test_only_the_allowed_address_of_a_name_is_used(tmp_path: Path) -> None:
    names = {"mixed.example": ["127.0.0.2", "127.0.0.1", "10.1.1.1"]}
    async with (
        dialing(tmp_path, zone(names), allow=("127.0.0.1/32",)) as dialer,
        tcp_server(serve_name, host="0.0.0.0") as port,
    ):
        assert await greeting(await dialer.dial("mixed.example", port, budget())) == "127.0.0.1"


async def test_no_second_look_up(tmp_path: Path) -> None:
    """DNS rebinding: public at the first question, private at the next. One question is asked."""
    asked: list[int] = []

    def rebinding(q: dns.message.Message, tcp: bool) -> bytes:
        asked.append(q.question[0].rdtype)
        address = "127.0.0.1" if asked.count(1) <= 1 else "127.0.0.2"
        return zone({"rebind.example": [address]})(q, tcp)  # type: ignore[return-value]

    async with (
        dialing(tmp_path, rebinding, allow=("127.0.0.1/32",)) as dialer,
        tcp_server(serve_name, host="0.0.0.0") as port,
    ):
        assert await greeting(await dialer.dial("rebind.example", port, budget())) == "127.0.0.1"
    assert asked.count(1) == 1


async def test_errors(tmp_path: Path) -> None:
    async with dialing(tmp_path, zone({"empty.example": []})) as dialer:
        with refused_port() as refused:
            assert (await failure(dialer, "127.0.0.1", refused))[0] == 111
        assert (await failure(dialer, "127.0.0.1", 0))[0] == 111
        assert await failure(dialer, "empty.example", 80) == (502, "the name has no address")
        assert (await failure(dialer, "missing.example", 80))[0] == 502
        assert (await failure(dialer, "a b", 80))[0] == 502
        assert (await failure(dialer, "fe80::1%lo", 80))[0] == 502


async def test_hang_times_out(tmp_path: Path) -> None:
    async with dialing(tmp_path, zone({})) as dialer, black_hole("127.0.0.1") as port:
        began = trio.current_time()
        assert (await failure(dialer, "127.0.0.1", port, seconds=0.3))[0] == 110
        assert trio.current_time() - began < 5


async def test_falls_back_when_the_first_address_hangs(tmp_path: Path) -> None:
    names = {"slow.example": ["127.0.0.2", "127.0.0.1"]}
    async with (
        dialing(tmp_path, zone(names)) as dialer,
        black_hole("127.0.0.2", "127.0.0.1") as port,
        tcp_server(serve_name, port=port),
    ):
        began = trio.current_time()
        sock = await dialer.dial("slow.example", port, budget())
        took = trio.current_time() - began
        assert await greeting(sock) == "127.0.0.1"
        assert 0.2 < took < 5


async def test_falls_back_at_once_when_the_first_is_refused(tmp_path: Path) -> None:
    names = {"two.example": ["127.0.0.2", "127.0.0.1"]}
    async with (
        dialing(tmp_path, zone(names), attempt_delay=20.0) as dialer,
        tcp_server(serve_name) as port,
    ):
        began = trio.current_time()
        assert await greeting(await dialer.dial("two.example", port, budget())) == "127.0.0.1"
        assert trio.current_time() - began < 10


async def test_all_refused_tells_refused(tmp_path: Path) -> None:
    names = {"two.example": ["127.0.0.2", "127.0.0.1", "10.9.9.9"]}
    async with dialing(tmp_path, zone(names)) as dialer:
        with refused_port() as refused:
            assert (await failure(dialer, "two.example", refused))[0] == 111


async def test_ipv6_first_and_no_waiting_for_a_slow_family(tmp_path: Path) -> None:
    names = zone({"both.example": ["127.0.0.1", "::1"]})

    def respond(q: dns.message.Message, tcp: bool) -> bytes | None:
        if q.question[0].rdtype == 28 and silent:
            return None
        return names(q, tcp)  # type: ignore[return-value]

    silent = False
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve_name, 0)
        port = listeners[0].socket.getsockname()[1]
        has_v6 = len(listeners) > 1 and listeners[1].socket.getsockname()[1] == port
        async with dialing(tmp_path, respond, resolution_delay=20.0) as dialer:
            expected = "::1" if has_v6 else "127.0.0.1"
            assert await greeting(await dialer.dial("both.example", port, budget())) == expected
        silent = True
        async with dialing(tmp_path, respond) as dialer:
            began = trio.current_time()
            assert await greeting(await dialer.dial("both.example", port, budget())) == "127.0.0.1"
            assert 0.04 < trio.current_time() - began < 3
        nursery.cancel_scope.cancel()


async def test_a_name_that_no_server_answers_for_is_no_unreachable_host(tmp_path: Path) -> None:
    """110: it may answer yet. 429: a limit of our own. 502: there is no such name."""

    def respond(q: dns.message.Message, tcp: bool) -> bytes | None:
        return answer(q, rcode=3) if "missing" in q.question[0].name.to_text() else None

    async with dialing(tmp_path, respond) as dialer:
        assert (await failure(dialer, "missing.example", 80))[0] == 502
        for purse in (budget(questions=1), budget(sockets=0)):
            with pytest.raises(DialError) as info:
                await dialer.dial("limited.example", 80, purse)
            assert info.value.code == 429, info.value
        assert await failure(dialer, "silent.example", 80) == (
            110,
            "no name server answered in time",
        )


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs poll(2)")
async def test_a_far_end_that_resets_in_that_moment_is_told_as_such(tmp_path: Path) -> None:
    """Between two looks at its socket, too: it is never an error of the system's."""
    async with dialing(tmp_path, zone({})) as dialer:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = dialer.literal("127.0.0.1")
            assert address is not None
            attempt = dialer.begin(address, listener.getsockname()[1])
            with attempt.sock:
                end = select.poll()
                end.register(attempt.sock, 0)  # an error, or the end of both directions
                reset(listener.accept()[0])
                assert end.poll(10_000)
                attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # it is told once
                with pytest.raises(DialError) as info:
                    attempt.finish()
    assert info.value.code == 104


@pytest.mark.skipif(os.name != "posix", reason="descriptors are counted")
async def test_nothing_is_left_open(tmp_path: Path) -> None:
    names = {"two.example": ["127.0.0.2", "127.0.0.1"]}
    before = open_descriptors()
    async with dialing(tmp_path, zone(names)) as dialer, tcp_server(serve_name) as port:
        for seconds in (0.0, 0.001, 0.01):
            with trio.move_on_after(seconds):
                (await dialer.dial("two.example", port, budget())).close()
        (await dialer.dial("two.example", port, budget())).close()
    await until(lambda: open_descriptors() <= before)


async def test_a_refusal_reads_as_people_say_it(tmp_path: Path) -> None:
    async with dialing(tmp_path, zone({})) as dialer:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            code, text = await failure(dialer, "127.0.0.1", unused.getsockname()[1])
    assert (code, text) == (111, os.strerror(errno.ECONNREFUSED))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, 101),
        (errno.ECONNRESET, 104),
        (errno.ETIMEDOUT, 110),
        (errno.ECONNREFUSED, 111),
        (errno.EHOSTUNREACH, 113),
        (errno.EACCES, 403),
        (errno.EMFILE, 429),
        (errno.EMSGSIZE, 90),
        (errno.EIO, 502),
    ],
)
def test_error_codes(number: int, code: int) -> None:
    assert error_code(OSError(number, "x")) == code
