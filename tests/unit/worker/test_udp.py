"""UDP, DNS and ICMP through the worker, with real sockets."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import dns.message
import pytest
import trio

from tests.kits.ports import refused_udp_port
from tests.kits.until import until
from tests.kits.worker import (
    FakeNameServer,
    RawClient,
    answer,
    far_sockets,
    raw_client,
    running_worker,
    truncated,
)
from zks_lwip.net.readiness import Readiness, TaskReadiness, make_readiness
from zks_lwip.protocol import DnsQuery, DnsResponse, Echo, EchoReply, Udp, UdpClose, UdpError
from zks_lwip.worker import Limits
from zks_lwip.worker.icmp import Pinger

both_kinds = pytest.mark.parametrize("readiness", [make_readiness, TaskReadiness])
one_by_one = pytest.mark.parametrize("one_by_one", [False, True], ids=["batches", "one by one"])
"""With the system calls that only some systems have, and without."""
Make = Callable[[], Readiness]


@asynccontextmanager
async def udp_socket(host: str = "127.0.0.1") -> AsyncIterator[trio.socket.SocketType]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        if sys.platform == "darwin":  # sends at most 9,216 bytes otherwise
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        await sock.bind((host, 0))
        yield sock


def at_once(sock: trio.socket.SocketType) -> socket.socket:
    """The same socket for calls that do not wait, and give no other task a turn."""
    same = socket.fromfd(sock.fileno(), sock.family, sock.type)
    same.setblocking(False)
    return same


@asynccontextmanager
async def udp_echo(host: str = "127.0.0.1") -> AsyncIterator[int]:
    async def serve() -> None:
        while True:
            payload, source = await sock.recvfrom(65535)
            await sock.sendto(payload, source)

    async with udp_socket(host) as sock, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()


@both_kinds
async def test_echo_of_every_size(readiness: Make) -> None:
    async with (
        running_worker(readiness=readiness) as (_, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        assert client.hello.udp
        for size in (0, 1, 1472, 9000, 65507):
            payload = os.urandom(size)
            await client.send(Udp(7, "127.0.0.1", port, payload))
            frame = await client.expect(Udp)
            assert (frame.association, frame.host, frame.port) == (7, "127.0.0.1", port)
            assert bytes(frame.payload) == payload


async def test_ipv6() -> None:
    async with running_worker() as (_, address):
        async with udp_echo("::1") as port, raw_client(address) as client:
            await client.send(Udp(1, "0:0::1", port, b"six"))
            frame = await client.expect(Udp)
            assert (frame.host, frame.port, bytes(frame.payload)) == ("::1", port, b"six")
            await client.send(Udp(1, "::ffff:127.0.0.1", port, b"x"))


async def test_one_socket_and_full_cone() -> None:
    async with (
        running_worker() as (_, address),
        udp_socket() as first,
        udp_socket() as second,
        udp_socket() as stranger,
        raw_client(address) as client,
    ):
        mapped = []
        for far in (first, second):
            await client.send(Udp(1, "127.0.0.1", far.getsockname()[1], b"hello"))
            mapped.append((await far.recvfrom(100))[1])
        assert mapped[0] == mapped[1]
        await stranger.sendto(b"unasked", mapped[0])
        frame = await client.expect(Udp)
        assert bytes(frame.payload) == b"unasked"
        assert frame.port == stranger.getsockname()[1]
        await client.send(Udp(2, "127.0.0.1", first.getsockname()[1], b"hello"))
        assert (await first.recvfrom(100))[1] != mapped[0]


@pytest.mark.skipif(sys.platform != "linux", reason="error queues are Linux's (IP_RECVERR)")
@both_kinds
async def test_port_unreachable(readiness: Make) -> None:
    with refused_udp_port() as closed:
        async with (
            running_worker(readiness=readiness) as (_, address),
            udp_echo() as port,
            raw_client(address) as client,
        ):
            for host, association in (("127.0.0.1", 1), ("::1", 2)):
                await client.send(Udp(association, host, closed, b"anyone?"))
                error = await client.expect(UdpError)
                assert error == UdpError(association, 111, host, closed)
            # the socket goes on, and no datagram is lost to the error of another one
            await client.send(
                Udp(1, "127.0.0.1", closed, b"anyone?"), Udp(1, "127.0.0.1", port, b"still here")
            )
            kinds = {type(await client.receive()) for _ in range(2)}
            assert kinds == {Udp, UdpError}


async def test_too_big_and_nonsense() -> None:
    async with (
        running_worker() as (worker, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        await client.send(
            Udp(1, "not an address", port, b"x"),
            Udp(1, "example.com", port, b"x"),
            Udp(1, "127.0.0.1", 0, b"x"),
            Udp(1, "fe80::1%lo", port, b"x"),
        )
        await client.silent()
        await client.send(Udp(1, "127.0.0.1", port, b"works"))
        assert bytes((await client.expect(Udp)).payload) == b"works"
        del worker


async def test_policy_both_ways() -> None:
    async with (
        running_worker(allow=("127.0.0.2/32",)) as (_, address),
        udp_socket("127.0.0.2") as allowed,
        udp_socket("127.0.0.3") as refused,
        raw_client(address) as client,
    ):
        port = refused.getsockname()[1]
        for host in ("127.0.0.3", "0x7f000003", "::ffff:127.0.0.3", "64:ff9b::7f00:3"):
            await client.send(Udp(1, host, port, b"out"))
            assert await client.expect(UdpError) == UdpError(1, 403, host, port)
        await client.send(Udp(1, "127.0.0.2", allowed.getsockname()[1], b"out"))
        _, mapped = await allowed.recvfrom(100)
        await refused.sendto(b"in", ("127.0.0.1", mapped[1]))
        await client.silent()
        await allowed.sendto(b"in", ("127.0.0.1", mapped[1]))
        assert bytes((await client.expect(Udp)).payload) == b"in"
        with pytest.raises(BlockingIOError), at_once(refused) as same:
            same.recv(100)


async def test_idle_associations_end() -> None:
    async with (
        running_worker(idle_udp=1) as (worker, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        assert client.hello.idle_udp == 1
        await client.send(Udp(1, "127.0.0.1", port, b"x"))
        await client.expect(Udp)
        assert far_sockets(worker) == 1
        assert (await client.expect(UdpClose)).association == 1
        assert far_sockets(worker) == 0
        await client.send(Udp(1, "127.0.0.1", port, b"again"))
        assert bytes((await client.expect(Udp)).payload) == b"again"


async def test_the_least_recently_used_association_goes() -> None:
    async with (
        running_worker(limits=Limits(associations=2)) as (worker, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        for association in (1, 2, 1):
            await client.send(Udp(association, "127.0.0.1", port, b"x"))
            await client.expect(Udp)
        await client.send(Udp(3, "127.0.0.1", port, b"x"))
        frames = [await client.receive(), await client.receive()]
        assert UdpClose(2) in frames
        assert far_sockets(worker) == 2
        await client.send(UdpClose(1))
        await until(lambda: far_sockets(worker) == 1)
        await client.silent(0.05)


async def test_associations_last_five_minutes_and_leave_descriptors_for_streams() -> None:
    async with (
        running_worker() as (worker, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        assert client.hello.idle_udp == 300
        (account,) = worker.accounts.values()
        assert client.hello.associations <= account.udp.total <= account.descriptors.total // 2
        account.udp.resize(2)
        gone = {3: 2, 4: 1}  # over it, the least recently used gives way
        for association in (1, 2, 1, 3, 4):
            await client.send(Udp(association, "127.0.0.1", port, b"x"))
            if association in gone:
                assert (await client.expect(UdpClose)).association == gone[association]
            assert (await client.expect(Udp)).association == association
        assert account.udp.free == 0 and account.descriptors.free > 0


async def test_no_descriptor_left() -> None:
    async with (
        running_worker() as (worker, address),
        udp_echo() as port,
        raw_client(address) as client,
    ):
        kept, worker.descriptors.free = worker.descriptors.free, 0
        await client.send(Udp(1, "127.0.0.1", port, b"x"))
        await client.silent(0.05)
        worker.descriptors.free = kept
        await client.send(Udp(1, "127.0.0.1", port, b"x"))
        await client.expect(Udp)


async def test_a_flood_in_does_not_stop_the_others() -> None:
    """One socket gets more than one turn's worth; everything arrives or is dropped, none hangs."""
    async with (
        running_worker() as (_, address),
        udp_socket() as far,
        raw_client(address) as client,
    ):
        await client.send(Udp(1, "127.0.0.1", far.getsockname()[1], b"x"))
        _, mapped = await far.recvfrom(100)
        with at_once(far) as burst:
            for number in range(200):
                burst.sendto(b"%d" % number, mapped)
        got = [int(bytes((await client.expect(Udp)).payload)) for _ in range(150)]
        assert got == sorted(got)


@one_by_one
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_many_in_one_message(host: str, one_by_one: bool) -> None:
    """Of several associations to several hosts, of sizes that go together and that do not: each
    comes back whole, and those of an association in order."""
    sizes = [1200] * 40 + [0, 1, 1200, 1200, 700, 1200, 9000, 9000, 9000, 1, 1, 0] + [300] * 100
    async with (
        running_worker(one_by_one=one_by_one) as (_, address),
        udp_echo(host) as first,
        udp_echo(host) as second,
        raw_client(address) as client,
    ):
        for repeat in range(2):  # the first opens the associations
            sent: dict[int, list[tuple[int, bytes]]] = {n: [] for n in range(1, 6)}
            frames = []
            for number, size in enumerate(sizes):
                association, port = number % 5 + 1, (first, second)[number // 7 % 2]
                payload = (b"%d %d " % (repeat, number) * 2000)[:size]
                sent[association].append((port, payload))
                frames.append(Udp(association, host, port, payload))
            await client.send(*frames)
            got: dict[int, list[tuple[int, bytes]]] = {n: [] for n in sent}
            for _ in sizes:
                frame = await client.expect(Udp)
                got[frame.association].append((frame.port, bytes(frame.payload)))
            for association, expected in sent.items():
                for port in (first, second):
                    assert [x for x in got[association] if x[0] == port] == [
                        x for x in expected if x[0] == port
                    ]


@one_by_one
async def test_errors_among_many(one_by_one: bool) -> None:
    """What is refused, goes nowhere or meets no socket is told, and costs the others nothing."""
    with refused_udp_port() as closed:
        async with (
            running_worker(one_by_one=one_by_one) as (_, address),
            udp_echo() as port,
            raw_client(address) as client,
        ):
            for _ in range(3):
                await client.send(
                    Udp(1, "127.0.0.1", port, b"a"),
                    Udp(1, "10.1.2.3", 7, b"refused"),
                    Udp(1, "127.0.0.1", 0, b"no port"),
                    Udp(1, "127.0.0.1", closed, b"no socket"),
                    *(Udp(1, "127.0.0.1", port, b"b") for _ in range(5)),
                    Udp(2, "1.2.3.4.5", 7, b"no address"),
                    Udp(2, "127.0.0.1", port, b"c"),
                    Udp(2, "::1", port, b"of another family"),
                )
                echoed, errors = [], set()
                while len(echoed) < 7 or (sys.platform == "linux" and len(errors) < 2):
                    frame = await client.receive()
                    if isinstance(frame, Udp):
                        echoed.append(bytes(frame.payload))
                    elif isinstance(frame, UdpError) and frame.port != port:
                        errors.add((frame.code, frame.host))
                assert sorted(echoed) == [b"a", b"b", b"b", b"b", b"b", b"b", b"c"]
                assert (403, "10.1.2.3") in errors


async def test_a_burst_of_one_sender() -> None:
    """What a kernel hands over as one (UDP_SEGMENT, UDP_GRO) comes as the datagrams that it is."""
    async with (
        running_worker() as (_, address),
        udp_socket() as far,
        raw_client(address) as client,
    ):
        await client.send(Udp(1, "127.0.0.1", far.getsockname()[1], b"x"))
        _, mapped = await far.recvfrom(100)
        with at_once(far) as burst:
            if sys.platform == "linux":
                burst.setsockopt(17, 103, 1000)  # SOL_UDP, UDP_SEGMENT
                burst.sendto(b"".join(bytes([n]) * 1000 for n in range(30)) + b"last", mapped)
                sizes = [1000] * 30 + [4]
            else:
                for n in range(30):
                    burst.sendto(bytes([n]) * 1000, mapped)
                sizes = [1000] * 30
        frames = [await client.expect(Udp) for _ in sizes]
        assert [len(frame.payload) for frame in frames] == sizes
        assert [frame.payload[0] for frame in frames[:30]] == list(range(30))


if "ZKS_TEST_FAR" in os.environ:  # set in the namespaces that the next test makes

    async def test_too_big_for_the_path() -> None:
        """A datagram that does not fit behind a router whose other link has an MTU of 1280."""
        far = os.environ["ZKS_TEST_FAR"]
        async with running_worker(allow=("10.0.0.0/8",)) as (_, address):
            async with raw_client(address) as client:
                await client.send(Udp(1, far, 9, bytes(1400)))
                assert await client.expect(UdpError) == UdpError(1, 90, far, 9)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="named network namespaces need root and iproute2",
)
def test_path_mtu() -> None:
    tag = secrets.token_hex(3)
    here, router, there = (f"zt-{tag}{part}" for part in "hrt")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    made: list[str] = []
    try:
        for name in (here, router, there):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        for left, right, net, mtu in ((here, router, 1, 1500), (router, there, 2, 1280)):
            ip("-n", left, "link", "add", f"e{net}", "type", "veth", "peer", f"f{net}")
            ip("-n", left, "link", "set", f"f{net}", "netns", right)
            for name, device, host in ((left, f"e{net}", 1), (right, f"f{net}", 2)):
                ip("-n", name, "address", "add", f"10.9.{net}.{host}/24", "dev", device)
                ip("-n", name, "link", "set", device, "mtu", str(mtu), "up")
        ip("-n", here, "route", "add", "default", "via", "10.9.1.2")
        ip("-n", there, "route", "add", "default", "via", "10.9.2.1")
        ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        test = f"{__file__}::test_too_big_for_the_path"
        done = subprocess.run(
            ["ip", "netns", "exec", here, sys.executable, "-m", "pytest", "-q", test]
            + ["-p", "no:cacheprovider"],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"ZKS_TEST_FAR": "10.9.2.2"},
        )
        assert "1 passed" in done.stdout, done.stdout + done.stderr
    finally:
        for name in made:
            ip("netns", "delete", name)


# --- DNS --------------------------------------------------------------------------------------


def query(name: str = "example.com") -> bytes:
    return dns.message.make_query(name, "A", id=0x4242).to_wire()


async def test_dns() -> None:
    def respond(q: dns.message.Message, tcp: bool) -> bytes | None:
        name = q.question[0].name.to_text()
        if name.startswith("long") and not tcp:
            return truncated(q)
        if name.startswith("silent"):
            return None
        return answer(q, *(["192.0.2.1"] if not tcp else [f"192.0.2.{n}" for n in range(255)]))

    server = FakeNameServer(respond)
    async with (
        server.running(),
        running_worker(resolvers=(server.server,), limits=Limits(requests=4)) as (_, address),
        raw_client(address) as client,
    ):
        assert client.hello.dns and client.hello.requests == 4
        await client.send(DnsQuery(9, query()), DnsQuery(10, query("long.example")))
        got = {}
        for _ in range(2):
            frame = await client.expect(DnsResponse)
            got[frame.request] = dns.message.from_wire(frame.message)
        assert len(got[9].answer[0]) == 1 and got[9].id == 0x4242
        assert len(got[10].answer[0]) == 255 and got[10].id == 0x4242
        await client.send(DnsQuery(11, b"nonsense"))
        frame = await client.expect(DnsResponse)
        assert frame.request == 11 and frame.message[3] & 15 == 1
        await client.send(*(DnsQuery(n, query("silent.example")) for n in range(20, 25)))
        frame = await client.expect(DnsResponse)  # at once: it is one too many
        assert frame.request == 24 and frame.message[3] & 15 == 2
        for _ in range(4):
            frame = await client.expect(DnsResponse)
            assert frame.request in range(20, 24) and frame.message[3] & 15 == 2


async def test_too_many_queries_of_one_token() -> None:
    server = FakeNameServer(lambda q, tcp: None)
    async with (
        server.running(),
        running_worker(resolvers=(server.server,), limits=Limits(queries=2)) as (_, address),
        raw_client(address) as client,
        raw_client(address) as other,
    ):
        await client.send(DnsQuery(1, query()), DnsQuery(2, query()))
        await until(lambda: len(server.queries) >= 2)
        await other.send(DnsQuery(3, query()))
        frame = await other.expect(DnsResponse, 3)  # at once
        assert frame.request == 3 and frame.message[3] & 15 == 2


async def test_without_name_server() -> None:
    async with running_worker() as (worker, address):
        worker.dns.servers = lambda: ()
        async with raw_client(address) as client:
            assert not client.hello.dns
            await client.send(DnsQuery(1, query()))
            frame = await client.expect(DnsResponse)
            assert frame.message[3] & 15 == 2


# --- ICMP -------------------------------------------------------------------------------------


async def test_echo_where_the_system_allows_it() -> None:
    allow = ("127.0.0.1/32", "::1/128")
    async with running_worker(allow=allow) as (worker, address), raw_client(address) as client:
        kind = {"datagram": False, "raw": True, "none": None}.get(
            os.environ.get("ZKS_TEST_ICMP", "")
        )
        raw = {one.raw for one in worker.pinger.sockets}
        if "ZKS_TEST_ICMP" in os.environ:
            assert raw == (set() if kind is None else {kind})
        assert client.hello.icmp == bool(raw)
        await client.send(Echo(1, "127.0.0.1", b"ping"))
        if client.hello.icmp:
            await _check_echo(client)
        else:
            await client.silent(0.05)


async def _check_echo(client: RawClient) -> None:
    reply = await client.expect(EchoReply)
    assert (reply.request, bytes(reply.payload)) == (1, b"ping")
    await client.send(
        Echo(2, "8.8.8.8.8", b"x"), Echo(3, "127.0.0.2", b"refused"), Echo(4, "::1", b"six" * 100)
    )
    reply = await client.expect(EchoReply)
    assert (reply.request, bytes(reply.payload)) == (4, b"six" * 100)
    for first in range(100, 400, 50):  # more at a time may be more than a socket's buffer takes
        for request in range(first, first + 50):
            await client.send(Echo(request, "127.0.0.1", b"%d" % request))
        for _ in range(50):
            reply = await client.expect(EchoReply)
            assert bytes(reply.payload) == b"%d" % reply.request


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize("kind", ["datagram", "raw", "none"])
def test_echo_in_a_namespace(kind: str) -> None:
    """The test above, where ICMP sockets are open to all users, to privilege alone, to none."""
    # A new namespace says "1 0": none.
    groups = "echo 0 0 > /proc/sys/net/ipv4/ping_group_range" if kind == "datagram" else "true"
    setpriv = "setpriv --bounding-set=-net_raw --inh-caps=-net_raw" if kind == "none" else ""
    script = (
        f"ip link set lo up && {groups}"
        f" && exec {setpriv} {sys.executable} -m pytest -q -p no:cacheprovider {__file__}"
        " -k test_echo_where_the_system_allows_it"
    )
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    try:
        # Ubuntu lets it succeed and takes the privileges away.
        probe = [*unshare, "ip", "link", "set", "lo", "up"]
        allowed = subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("network namespaces cannot be made here")
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"ZKS_TEST_ICMP": kind},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


async def test_replies_come_to_whom_they_are_for() -> None:
    """Sessions share a socket; what a session gave up, or never asked, is not passed on.

    What may be in flight is the token's, however many sessions it has.
    """
    allow = ("127.0.0.0/8",)
    async with running_worker(allow=allow, limits=Limits(echoes=2)) as (worker, address):
        pinger = worker.pinger
        if not pinger.usable:
            pytest.skip("no ICMP socket here")
        async with raw_client(address) as one, raw_client(address) as other:
            for request in range(1, 20):
                await one.send(Echo(request, "127.0.0.1", b"one %d" % request))
                await other.send(Echo(request, "127.0.0.2", b"other %d" % request))
                for client, name in ((one, b"one"), (other, b"other")):
                    reply = await client.expect(EchoReply)
                    assert bytes(reply.payload) == b"%s %d" % (name, request)
            assert not pinger.in_flight
            asked: list[object] = []
            for sock in pinger.sockets:
                sock.send = lambda *request: asked.append(request)  # type: ignore[method-assign]
            await one.send(*(Echo(request, "127.0.0.1", b"x") for request in range(100, 111)))
            await until(lambda: len(asked) == 11)
            assert [request for _, request in pinger.in_flight] == [109, 110]
            await other.send(Echo(200, "127.0.0.1", b"x"))
            await until(lambda: len(asked) == 12)
            assert [request for _, request in pinger.in_flight] == [110, 200]
            sequence = pinger.in_flight[0][0]
            pinger.on_reply("127.0.0.9", sequence, b"a lie")
            pinger.on_reply("127.0.0.1", sequence + 1, b"another")
            pinger.on_reply("127.0.0.1", sequence, b"true")
            reply = await one.expect(EchoReply)
            assert (reply.request, bytes(reply.payload)) == (110, b"true")
        await until(lambda: not pinger.in_flight)


class Asker:
    """Asks the pinger, and notes which of its numbers are its no more."""

    def __init__(self) -> None:
        self.over: list[int] = []

    def answered(self, sequence: int) -> None:
        self.over.append(sequence)

    def reply(self, request: int, payload: bytes) -> None:
        raise AssertionError("no far end answers")


def refuse(*request: object) -> None:
    raise OSError(errno.ENETUNREACH, "as ordered")


async def test_where_all_numbers_are_in_flight_the_oldest_echo_is_given_up() -> None:
    pinger = Pinger(None)
    try:
        if not pinger.usable:
            pytest.skip("no ICMP socket here")
        for sock in pinger.sockets:
            sock.send = lambda *request: None  # type: ignore[method-assign]
        asker: Any = Asker()
        here = ip_address("127.0.0.1")
        for request in range(65_535):
            pinger.send(asker, request, here, b"")
        assert not asker.over and len(pinger.in_flight) == 65_535
        oldest = [sequence for sequence, _ in pinger.in_flight[:3]]
        assert [pinger.send(asker, request, here, b"") for request in (1, 2, 3)] == oldest
        assert asker.over == oldest and len(pinger.in_flight) == 65_535
        for sock in pinger.sockets:
            sock.send = refuse  # type: ignore[method-assign]
        with pytest.raises(OSError, match="as ordered"):
            pinger.send(asker, 4, here, b"")
        assert asker.over == oldest, "what was not sent takes no number"
    finally:
        pinger.close()
