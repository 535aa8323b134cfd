"""Published ports without a namespace: the orders and times that are rare."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.kits.tunnel import eventually
from zks_lwip.host.published.connection import LINGER
from zks_lwip.host.published.datagrams import (
    IDLE,
    MAX_CONNECTING,
    MAX_HELD,
    PublishedDatagrams,
    UdpCounters,
)
from zks_lwip.host.published.listeners import bind_all
from zks_lwip.host.published.ports import parse_published
from zks_lwip.host.published.publisher import Publisher
from zks_lwip.net.readiness import make_readiness


class Here:
    """Makes sockets in the namespace of the test."""

    async def open(self, family: int, kind: int) -> socket.socket:
        await trio.lowlevel.checkpoint()
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream, Publisher]]:
    """A client, the program that it is connected to, and what is between them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports = parse_published([f"0:{listener.getsockname()[1]}/tcp"])
        with Publisher(ports) as publisher:
            publisher.listen()
            async with publisher.serving(Here(), ipv6=False):
                client = await trio.open_tcp_stream("127.0.0.1", publisher.ports[0].port)
                inner = trio.socket.from_stdlib_socket(listener)
                sock, _ = await inner.accept()
                async with client, trio.SocketStream(sock) as program:
                    yield client, program, publisher


async def everything(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_the_program_answers_and_goes_while_the_client_still_sends(
    mock_clock: trio.testing.MockClock,
) -> None:
    """All of the answer arrives; the client is heard no more, and reset a moment later."""
    mock_clock.rate = 1
    async with connected() as (client, program, _):
        await client.send_all(b"the first of many")
        assert await program.receive_some() == b"the first of many"
        await program.send_all(b"answer" * 20_000)
        await program.aclose()
        await client.send_all(b"more")  # which the program's kernel answers by a reset
        await client.send_all(b"more")
        await trio.sleep(0.05)
        assert await everything(client) == b"answer" * 20_000
        await client.send_all(b"more")
        mock_clock.jump(LINGER)
        with trio.fail_after(60):
            while True:
                try:
                    await client.send_all(b"more")
                except trio.BrokenResourceError as error:
                    assert isinstance(error.__cause__, OSError)
                    assert error.__cause__.errno in (errno.ECONNRESET, errno.EPIPE)
                    break
                await trio.sleep(0.01)


async def test_the_client_sends_all_and_goes_while_the_program_still_reads() -> None:
    """An upload behind whose end the client has gone is whole."""
    size = 200_000
    async with connected() as (client, program, publisher):
        await client.send_all(bytes(size))
        await client.send_eof()
        await eventually(lambda: publisher.stats()["tcp"]["bytes_in"] == size)
        await trio.testing.wait_all_tasks_blocked(0.02)  # the end is passed on
        reset(client)  # as it would be over an answer that is not read
        await trio.testing.wait_all_tasks_blocked(0.02)  # it has been seen
        assert len(await everything(program)) == size


async def test_a_reset_before_the_end_is_passed_on() -> None:
    async with connected() as (client, program, publisher):
        await client.send_all(b"half of it")
        assert await program.receive_some() == b"half of it"
        reset(client)
        try:
            await program.receive_some()
        except trio.BrokenResourceError as error:
            assert isinstance(error.__cause__, ConnectionResetError)
        else:
            raise AssertionError("it looks like an end")
        assert publisher.stats()["tcp"] == {
            "accepted": 1,
            "connected": 1,
            "refused": 0,
            "too_many": 0,
            "bytes_in": 10,
            "bytes_out": 0,
        }


async def test_the_command_ends_while_connections_wait_for_descriptors() -> None:
    """What is connected goes on to its end."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as late:
        with Publisher(parse_published([f"0:{listener.getsockname()[1]}/tcp"])) as publisher:
            publisher.listen()
            here = "127.0.0.1", publisher.ports[0].port
            async with publisher.serving(Here(), ipv6=False):
                client = await trio.open_tcp_stream(*here)
                program, _ = await trio.socket.from_stdlib_socket(listener).accept()
                await program.send(b"the last of it")  # and nothing says that it is
                highest = os.dup(0)
                os.close(highest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
                try:
                    late.connect(here)  # by the kernel: it is not accepted yet
                    await trio.testing.wait_all_tasks_blocked(0.01)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert publisher.stats()["tcp"]["accepted"] == 1
            with client.socket, program:
                assert await client.receive_some() == b"the last of it"


async def test_a_writer_waits_for_the_reader() -> None:
    """What is held is bounded: one piece, and what the kernels hold."""
    async with connected() as (client, program, publisher):
        sent = 0
        with trio.move_on_after(1):
            while sent < 200_000_000:
                await client.send_all(bytes(65536))
                sent += 65536
        assert sent < 100_000_000
        got = 0
        while got < sent:
            got += len(await program.receive_some(1 << 20))
        assert publisher.stats()["tcp"]["bytes_in"] >= sent


class Late(Here):
    """Makes them only when it is told to."""

    def __init__(self) -> None:
        self.told = trio.Event()

    async def open(self, family: int, kind: int) -> socket.socket:
        await self.told.wait()
        return await super().open(family, kind)


class Port:
    """A published UDP port, and the program behind it: it answers, from then on to all clients."""

    def __init__(
        self, nursery: trio.Nursery, most: int = 1024, sockets: Here | None = None
    ) -> None:
        self.program = socket.socket(type=socket.SOCK_DGRAM)
        self.program.bind(("127.0.0.1", 0))
        self.program.settimeout(20)
        ((_, (listener,)),) = bind_all(parse_published([f"0:{self.program.getsockname()[1]}/udp"]))
        self.listener = listener
        self.readiness = make_readiness()
        self.counters = UdpCounters()
        self.datagrams = PublishedDatagrams(
            listener, sockets or Here(), self.readiness, self.counters, ipv6=False, most=most
        )
        nursery.start_soon(self.readiness.run)
        nursery.start_soon(self.datagrams.run)

    def client(self) -> trio.socket.SocketType:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(("127.0.0.1", self.listener.port.port))
        return trio.socket.from_stdlib_socket(sock)

    async def seen_as(self, client: trio.socket.SocketType) -> tuple[str, int]:
        """Send a datagram; its source address at the program."""
        before = self.counters.datagrams_in
        await client.send(b"hello")
        await eventually(lambda: self.counters.datagrams_in > before)
        data, peer = self.program.recvfrom(100)
        assert data == b"hello"
        return (peer[0], peer[1])

    def close(self) -> None:
        self.listener.socket.close()
        self.program.close()
        self.readiness.close()


@asynccontextmanager
async def udp_port(most: int = 1024, sockets: Here | None = None) -> AsyncIterator[Port]:
    port: Port | None = None
    try:
        async with trio.open_nursery() as nursery:
            port = Port(nursery, most, sockets)
            await trio.testing.wait_all_tasks_blocked()
            yield port
            nursery.cancel_scope.cancel()
    finally:
        if port is not None:
            port.close()


async def test_a_client_that_is_idle_is_forgotten(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    async with udp_port() as port:
        talks, listens = port.client(), port.client()
        address, other = await port.seen_as(talks), await port.seen_as(listens)
        mock_clock.jump(IDLE - 20)
        port.program.sendto(b"news", other)
        assert await listens.recv(100) == b"news"
        mock_clock.jump(30)
        await eventually(lambda: len(port.datagrams) == 1)
        port.program.sendto(b"news", other)
        assert await listens.recv(100) == b"news", "who only listens is not idle"
        assert await port.seen_as(talks) != address
        for sock in (talks, listens):
            sock.close()


async def test_more_clients_than_there_may_be() -> None:
    """The one that has been silent longest goes; it may come back."""
    async with udp_port(most=3) as port:
        clients = [port.client() for _ in range(4)]
        seen = [await port.seen_as(client) for client in clients[:3]]
        assert await port.seen_as(clients[0]) == seen[0]
        await port.seen_as(clients[3])
        assert len(port.datagrams) == 3
        assert await port.seen_as(clients[0]) == seen[0], "it was not the one"
        assert await port.seen_as(clients[1]) != seen[1]
        assert port.counters.associations == 5
        for sock in clients:
            sock.close()


async def test_what_waits_for_sockets_is_bounded_in_bytes() -> None:
    """However many clients there are; there is room again when it has been passed on."""
    sockets, size = Late(), 60_000
    fit = MAX_HELD // size
    async with udp_port(sockets=sockets) as port:
        clients = [port.client() for _ in range(fit // 16 + 2)]
        for client in clients * 16:
            await client.send(bytes(size))
            await trio.testing.wait_all_tasks_blocked()
        assert port.counters.dropped == 16 * len(clients) - fit
        sockets.told.set()
        await eventually(lambda: port.counters.datagrams_in == fit)
        sockets.told = trio.Event()
        clients.append(port.client())
        await clients[-1].send(bytes(size))
        await trio.testing.wait_all_tasks_blocked()
        sockets.told.set()
        await eventually(lambda: port.counters.datagrams_in == fit + 1)
        for client in clients:
            client.close()


async def test_how_many_wait_for_sockets_is_bounded() -> None:
    """Also where they come so fast that those before them are forgotten."""
    sockets = Late()
    async with udp_port(most=10, sockets=sockets) as port:
        tasks = trio.lowlevel.current_statistics().tasks_living
        clients: deque[trio.socket.SocketType] = deque()
        for _ in range(MAX_CONNECTING + 20):
            clients.append(port.client())
            await clients[-1].send(b"hello")
            await trio.testing.wait_all_tasks_blocked()
            if len(clients) > 40:  # those that are not forgotten keep their port
                clients.popleft().close()
        assert trio.lowlevel.current_statistics().tasks_living == tasks + MAX_CONNECTING
        assert port.counters.dropped == MAX_CONNECTING - 10 + 20
        sockets.told.set()
        await eventually(lambda: port.counters.datagrams_in == 10)
        assert len(port.datagrams) == 10
        clients.append(port.client())
        await clients[-1].send(b"hello")
        await eventually(lambda: port.counters.datagrams_in == 11)
        for client in clients:
            client.close()
