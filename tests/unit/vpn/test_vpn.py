"""The whole of it without privilege: a stack in memory plays the machine, the rest is real."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest
import trio

from zks_lwip.config import (
    Ipv6,
    VpnConfig,
    WorkerEndpoint,
    parse_static_name,
    parse_worker_url,
)
from zks_lwip.device import MemoryDevice, memory_device_pair
from zks_lwip.errors import AuthError, DeviceError, TunnelError, WorkerNotFound
from zks_lwip.stack import Stack, TcpStream, UdpListener, connect_tcp, open_stack
from zks_lwip.vpn import Vpn, open_vpn
from zks_lwip.vpn.embedded_worker import open_embedded_worker

from ...kits.cutter import cutting
from ...kits.tunnel import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker inherits pipes")

OURS = "10.99.0.1"
HOST = "198.18.0.2"  # the alias of the loopback


@asynccontextmanager
async def tunnelled(config: VpnConfig) -> AsyncIterator[tuple[Stack, Vpn]]:
    """An application's stack behind a tunnel."""
    inner, outer = memory_device_pair()
    with trio.fail_after(60):
        async with open_vpn(config, device=outer) as vpn, open_stack(inner) as stack:
            yield stack, vpn


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """On the host's loopback: sends back what comes, then FIN."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


_ports = iter(range(20000, 60000))


async def connect(stack: Stack, port: int, host: str = HOST) -> TcpStream:
    return await connect_tcp(stack, (OURS, next(_ports)), (host, port))


async def test_tcp_goes_through_the_embedded_worker_both_ways() -> None:
    content = bytes(range(256)) * 8000
    async with echo_server() as port, tunnelled(VpnConfig()) as (stack, vpn):
        assert vpn.up and vpn.worker.loopback
        stream = await connect(stack, port)
        received = bytearray()
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(content)
                await stream.send_eof()

            nursery.start_soon(send)
            async for data in stream:
                received += data
        assert received == content
        stats = vpn.counters()
        assert stats["gateway"]["bytes_up"] == stats["gateway"]["bytes_down"] == len(content)
        assert stats["gateway"]["flows_accepted"] == 1
        assert stats["stack"]["packets_in"] > 0 and stats["tunnel"]["data_out"] == len(content)


async def test_many_connections_leave_nothing_open() -> None:
    async with echo_server() as port, tunnelled(VpnConfig()) as (stack, vpn):

        async def one() -> None:
            async with await connect(stack, port) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert b"".join([data async for data in stream]) == b"hello"

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(one)
        with trio.fail_after(60):
            while vpn.counters()["gateway"]["flows"] or vpn.counters()["tunnel"]["streams"]:
                await trio.sleep(0.05)


async def test_what_is_refused_there_is_refused_here() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with tunnelled(VpnConfig()) as (stack, vpn):
            with pytest.raises(trio.BrokenResourceError):
                await connect(stack, unused.getsockname()[1])
            assert vpn.counters()["gateway"]["refused"] == {111: 1}


async def test_fast_connect_accepts_and_then_resets() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with tunnelled(VpnConfig(fast_connect=True)) as (stack, _):
            stream = await connect(stack, unused.getsockname()[1])
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_fast_connect_sends_what_comes_before_the_far_end() -> None:
    async with echo_server() as port, tunnelled(VpnConfig(fast_connect=True)) as (stack, _):
        async with await connect(stack, port) as stream:
            await stream.send_all(b"early")
            await stream.send_eof()
            assert b"".join([data async for data in stream]) == b"early"


@pytest.mark.parametrize(
    ("settings", "destination", "refused"),
    [
        # ICMP 3/13 and ICMPv6 1/0; lwIP as a client does not heed them, a kernel does.
        ({"host_loopback": None}, (HOST, 80), b"\x03\x0d"),
        ({"ipv6": Ipv6.BLOCK}, ("2001:db8::1", 80), b"\x01\x00"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_icmp(
    settings: dict[str, Any], destination: tuple[str, int], refused: bytes
) -> None:
    inner, outer = memory_device_pair()
    sent = trio.Event()

    def look(packets: list[bytes]) -> list[bytes]:
        for packet in packets:
            header = 20 if packet[0] >> 4 == 4 else 40
            if packet[header : header + 2] == refused:
                sent.set()
        return packets

    outer.filter = look
    with trio.fail_after(60):
        async with open_vpn(VpnConfig(**settings), device=outer), open_stack(inner) as stack:
            stack.connect((OURS if "." in destination[0] else "fd00::1", 2000), destination)
            with trio.fail_after(60):
                await sent.wait()


async def test_udp_and_dns() -> None:
    static = (parse_static_name("hello.zks.test=192.0.2.99"),)
    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        await server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        async with tunnelled(VpnConfig(dns_static=static)) as (stack, vpn):
            answers = UdpListener(stack)
            assert stack.send_datagram((OURS, 5000), (HOST, port), b"ping")
            data, address = await server.recvfrom(100)
            assert data == b"ping"
            await server.sendto(b"pong", address)
            flow = await answers.accept()
            assert flow.source == (HOST, port)
            assert await flow.receive() == (b"pong", (OURS, 5000))

            query = dns.message.make_query("hello.zks.test", "A")
            assert stack.send_datagram((OURS, 5001), ("9.9.9.9", 53), query.to_wire())
            flow = await answers.accept()
            assert flow.source == ("9.9.9.9", 53)
            answer = dns.message.from_wire((await flow.receive())[0])
            assert query.is_response(answer)
            assert [str(item) for item in answer.answer[0]] == ["192.0.2.99"]
            assert vpn.counters()["gateway"]["dns_queries"] == 1


async def test_several_workers_each_with_its_token(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        open_embedded_worker() as one,
        open_embedded_worker() as two,
        cutting(parse_worker_url(two.url).port) as path,
        trio.open_nursery() as nursery,
    ):
        # A second that is nearer, as it may seem to be, is asked alone; so it answers later.
        path.open = trio.Event()

        async def let_the_second_answer() -> None:
            await eventually(lambda: "401" in caplog.text)
            path.open.set()

        nursery.start_soon(let_the_second_answer)
        endpoints = tuple(
            WorkerEndpoint(url=parse_worker_url(url), token=token)
            for url, token in ((one.url, "wrong"), (path.url(), two.token))
        )
        async with tunnelled(VpnConfig(workers=endpoints)) as (_, vpn):
            assert vpn.worker == endpoints[1].url and vpn.up
            first, second = vpn.workers()
            assert (first["in_use"], second["in_use"]) == (False, True)
            assert "401" in first["problem"] and not second["problem"]


async def test_a_wrong_token_is_one_plain_error() -> None:
    _, outer = memory_device_pair()
    with trio.fail_after(60):
        async with open_embedded_worker() as worker:
            config = VpnConfig(worker=parse_worker_url(worker.url), token="wrong")
            with pytest.raises(AuthError):
                async with open_vpn(config, device=outer):
                    pytest.fail("it let us in")


async def test_what_is_no_worker_is_one_plain_error() -> None:
    _, outer = memory_device_pair()

    async def shop(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, shop, listeners)
            port = listeners[0].socket.getsockname()[1]
            config = VpnConfig(worker=parse_worker_url(f"ws://127.0.0.1:{port}"))
            with pytest.raises(WorkerNotFound):
                async with open_vpn(config, device=outer):
                    pytest.fail("it let us in")
            nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_end_of_the_embedded_worker_is_one_plain_error() -> None:
    _, outer = memory_device_pair()
    others = _children()  # of tests that share this process
    with trio.fail_after(60), pytest.raises(TunnelError, match="embedded worker ended"):
        async with open_vpn(VpnConfig(), device=outer):
            for pid in _children() - others:
                os.kill(pid, signal.SIGKILL)
            await trio.sleep_forever()


async def test_a_device_that_goes_is_one_plain_error() -> None:
    class Gone(MemoryDevice):
        async def __anext__(self) -> list[bytes]:
            await trio.sleep(0.1)
            raise StopAsyncIteration

    with trio.fail_after(60), pytest.raises(DeviceError):
        async with open_vpn(VpnConfig(), device=Gone()):
            await trio.sleep_forever()


async def test_an_error_of_the_callers_passes_unchanged() -> None:
    _, outer = memory_device_pair()
    with trio.fail_after(60), pytest.raises(KeyError, match="mine"):
        async with open_vpn(VpnConfig(), device=outer):
            raise KeyError("mine")


def _children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    children = set()
    for task in tasks:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children |= {int(pid) for pid in task.read_text().split()}
    return children
