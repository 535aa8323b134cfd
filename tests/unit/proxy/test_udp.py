"""UDP ASSOCIATE: real sockets on loopback, through a real tunnel, to far ends and name servers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kits.ports import refused_udp_port
from tests.kits.proxy import address, asked, exactly, proxying, reply, request, reset
from tests.kits.tunnel import eventually, tunnel_and_worker, tunnelling
from tests.kits.worker import FakeNameServer, running_worker, zone
from zks_lwip.net.readiness import Readiness, TaskReadiness, make_readiness
from zks_lwip.protocol import Settings
from zks_lwip.proxy import ProxyServer

both_kinds = pytest.mark.parametrize("readiness", [make_readiness, TaskReadiness])
Kind = Callable[[], Readiness]


class UdpClient:
    """A socket of a client, and where its association is."""

    def __init__(self, relay: tuple[str, int], own: str = "127.0.0.1") -> None:
        self.relay = relay
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        self.sock = trio.socket.socket(family, socket.SOCK_DGRAM)
        self.own = own

    async def bind(self) -> UdpClient:
        await self.sock.bind((self.own, 0))
        return self

    async def send(self, host: str, port: int, payload: bytes, fragment: int = 0) -> None:
        header = b"\0\0" + bytes((fragment,)) + address(host, port)
        await self.sock.sendto(header + payload, self.relay)

    async def receive(self) -> tuple[bytes, bytes]:
        """Address and port as they came, and the payload."""
        with trio.fail_after(30):
            data, source = await self.sock.recvfrom(65535)
        assert source[:2] == self.relay and data.startswith(b"\0\0\0")
        size = 3 + {1: 7, 4: 19}[data[3]]
        return data[3:size], data[size:]

    async def nothing(self) -> None:
        with trio.move_on_after(0.2):
            raise AssertionError(await self.sock.recvfrom(65535))


def is_free(where: tuple[str, int]) -> bool:
    """Whether no socket has this address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(where)
        except OSError:
            return False
        return True


@asynccontextmanager
async def far_socket(host: str = "127.0.0.1") -> AsyncIterator[trio.socket.SocketType]:
    """A UDP socket of the internet's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.bind((host, 0))
        yield sock


@asynccontextmanager
async def world(
    readiness: Kind = make_readiness, names: dict[str, list[str]] | None = None, **config: Any
) -> AsyncIterator[ProxyServer]:
    """A proxy, a tunnel, a real worker, and name servers for it."""
    async with (
        FakeNameServer(zone(names or {})).running() as name_server,
        running_worker(resolvers=(name_server.server,)) as (_, where),
        tunnelling(f"ws://127.0.0.1:{where[1]}") as tunnel,
        proxying(tunnel, readiness=readiness(), **config) as server,
    ):
        yield server


@asynccontextmanager
async def associated(
    server: ProxyServer, host: str = "0.0.0.0", port: int = 0
) -> AsyncIterator[tuple[trio.SocketStream, UdpClient]]:
    """An association, and a client with a socket for it."""
    stream, (code, relay, relay_port) = await asked(server, 3, host, port)
    assert code == 0 and relay == server.address[0]
    client = await UdpClient((relay, relay_port), server.address[0]).bind()
    with client.sock:
        yield stream, client


@both_kinds
async def test_datagrams_go_both_ways(readiness: Kind) -> None:
    async with world(readiness) as server, associated(server) as (_, client), far_socket() as far:
        where = far.getsockname()
        for size in (0, 1, 1200, 60_000):
            await client.send(*where, b"x" * size)
            data, source = await far.recvfrom(65535)
            assert data == b"x" * size
            await far.sendto(data * 1 + b"y", source)
            assert await client.receive() == (address(*where), b"x" * size + b"y")
        assert (server.counters.datagrams_up, server.counters.datagrams_down) == (4, 4)


async def test_many_at_once() -> None:
    async with world() as server, associated(server) as (_, client), far_socket() as far:
        for number in range(200):
            await client.send(*far.getsockname(), str(number).encode())
            data, _ = await far.recvfrom(100)
            assert data == str(number).encode()


async def test_it_is_a_full_cone() -> None:
    """Who was never sent to may answer, from wherever."""
    async with world() as server, associated(server) as (_, client):
        async with far_socket() as first, far_socket() as second:
            await client.send(*first.getsockname(), b"hello")
            _, mapped = await first.recvfrom(100)
            await second.sendto(b"I am another", mapped)
            assert await client.receive() == (address(*second.getsockname()), b"I am another")
            await client.send(*second.getsockname(), b"hello")
            assert (await second.recvfrom(100))[1] == mapped


async def test_ipv6() -> None:
    async with world(host="::1") as server:
        async with associated(server, "::") as (_, client), far_socket("::1") as far:
            await client.send("::1", far.getsockname()[1], b"six")
            data, source = await far.recvfrom(100)
            await far.sendto(data, source)
            assert await client.receive() == (address("::1", far.getsockname()[1]), b"six")


async def test_a_datagram_that_only_ipv6_takes_is_dropped_and_the_next_is_not() -> None:
    async with world(host="::1") as server:
        async with associated(server, "::") as (_, client), far_socket() as far:
            await client.send(*far.getsockname(), b"x" * 65508)
            await client.send("a.b", 9, b"x" * 65508)
            await client.send(*far.getsockname(), b"x" * 65507)
            with trio.fail_after(30):
                assert len((await far.recvfrom(65535))[0]) == 65507
            assert server.counters.datagrams_dropped == 2


async def test_names_are_resolved_at_the_worker() -> None:
    names = {"far.example": ["127.0.0.1"], "six.example": ["::1"], "none.example": []}
    async with world(names=names) as server, associated(server) as (_, client):
        async with far_socket() as far:
            port = far.getsockname()[1]
            for name in ("far.example", "FAR.example", "far.example."):
                for _ in range(3):
                    await client.send(name, port, name.encode())
                for _ in range(3):
                    assert (await far.recvfrom(100))[0] == name.encode()
        for name in ("none.example", "unknown.example", "bad..name", "1.2.3", "x" * 255):
            await client.send(name, port, b"lost")
        await eventually(lambda: server.counters.datagrams_dropped == 5)


async def test_what_waits_for_an_address_is_bounded() -> None:
    async with tunnel_and_worker(Settings(udp=True, dns=True)) as (tunnel, worker):
        worker.answers = False
        async with proxying(tunnel) as server, associated(server) as (_, client):
            for number in range(200):
                await client.send(f"{number % 20}.example", 53, bytes(3000))
                await trio.sleep(0)
            await eventually(lambda: server.counters.datagrams_dropped >= 180)
            assert server.counters.datagrams_dropped < 200
            await eventually(lambda: worker.queries == 16)


async def test_clients_of_both_families(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text("me:secret\n", encoding="utf-8")
    path.chmod(0o600)
    async with world(host="::", password_file=path) as server, far_socket() as far:
        for own in ("127.0.0.1", "::1"):
            stream = await trio.open_tcp_stream(own, server.address[1])
            async with stream:
                await stream.send_all(b"\x05\x01\x02\x01\x02me\x06secret")
                await stream.send_all(request(3, "0.0.0.0", 0))
                assert await exactly(stream, 4) == b"\x05\x02\x01\x00"
                code, relay, port = await reply(stream)
                assert (code, relay) == (0, own)
                client = await UdpClient((relay, port), own).bind()
                with client.sock:
                    await client.send(*far.getsockname(), own.encode())
                    data, source = await far.recvfrom(100)
                    assert data == own.encode()
                    await far.sendto(data, source)
                    assert (await client.receive())[1] == data


async def test_fragments_and_nonsense_are_dropped_and_counted() -> None:
    async with world() as server, associated(server) as (_, client), far_socket() as far:
        where = far.getsockname()
        for fragment in (1, 127, 128, 255):
            await client.send(*where, b"piece", fragment)
        for data in (b"", b"\0\0\0", b"\0\0\0\x01\x7f", b"\0\0\0\x07" + bytes(20), b"\xff" * 100):
            await client.sock.sendto(data, client.relay)
        await client.send(*where, b"whole")
        assert (await far.recvfrom(100))[0] == b"whole"
        counters = server.counters
        assert (counters.datagrams_fragmented, counters.datagrams_malformed) == (4, 5)
        assert counters.datagrams_up == 1


async def test_other_addresses_and_ports_are_not_served() -> None:
    async with world() as server, associated(server) as (_, client), far_socket() as far:
        where = far.getsockname()
        other = await UdpClient(client.relay, "127.0.0.2").bind()
        with other.sock:
            await other.send(*where, b"from another address")
        await client.send(*where, b"mine")
        data, mapped = await far.recvfrom(100)
        assert data == b"mine"
        late = await UdpClient(client.relay).bind()
        with late.sock:
            await late.send(*where, b"from another port")
            await client.send(*where, b"mine again")
            assert (await far.recvfrom(100))[0] == b"mine again"
            await far.sendto(b"to the first", mapped)
            assert (await client.receive())[1] == b"to the first"
            await late.nothing()
        assert server.counters.datagrams_foreign == 2


async def test_the_port_that_a_client_names_is_kept_to() -> None:
    async with world() as server, far_socket() as far:
        mine = await UdpClient(("", 0)).bind()
        with mine.sock:
            port = mine.sock.getsockname()[1]
            async with associated(server, "127.0.0.1", port) as (_, other):
                await other.send(*far.getsockname(), b"not mine")
                mine.relay = other.relay
                await mine.send(*far.getsockname(), b"mine")
                assert (await far.recvfrom(100))[0] == b"mine"
    assert server.counters.datagrams_foreign == 1


async def test_what_is_no_address_of_the_client_is_not_taken_for_one() -> None:
    """Some clients name there where they want to send to."""
    async with world() as server, far_socket() as far:
        for host in ("192.0.2.1", "far.example"):
            async with associated(server, host, 53) as (_, client):
                await client.send(*far.getsockname(), b"hello")
                assert (await far.recvfrom(100))[0] == b"hello"


@both_kinds
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_it_ends_with_its_tcp_connection(readiness: Kind, how: str) -> None:
    async with world(readiness) as server, associated(server) as (stream, client):
        await stream.send_all(b"what is said here is of no interest" * 100)
        assert server.stats()["associations"] == 1
        if how == "end":
            await stream.send_eof()
        else:
            reset(stream)
        await eventually(lambda: server.stats()["associations"] == 0)
        # Its socket is closed. (Another test may have got its port by now, for a while.)
        await eventually(lambda: is_free(client.relay))


async def test_their_number_is_bounded() -> None:
    async with world(max_associations=2) as server:
        async with associated(server) as (first, _), associated(server):
            assert (await asked(server, 3, "0.0.0.0", 0))[1][0] == 1
            assert server.counters.over_limit == 1
            await first.aclose()
            await eventually(lambda: server.stats()["associations"] == 1)
            async with associated(server):
                pass


async def test_a_worker_without_udp() -> None:
    async with (
        tunnel_and_worker(Settings(udp=False)) as (tunnel, _),
        proxying(tunnel) as server,
    ):
        assert (await asked(server, 3, "0.0.0.0", 0))[1][0] == 7


async def test_the_workers_limit_holds() -> None:
    async with (
        tunnel_and_worker(Settings(udp=True, associations=1)) as (tunnel, _),
        proxying(tunnel) as server,
        associated(server),
    ):
        assert (await asked(server, 3, "0.0.0.0", 0))[1][0] == 1


async def test_what_the_far_end_refuses_is_counted() -> None:
    async with world() as server, associated(server) as (_, client):
        with refused_udp_port() as port:
            await client.send("127.0.0.1", port, b"no socket is there")
            await eventually(lambda: server.counters.udp_errors == 1)
