"""What a program does with a VPN itself: streams, sockets, names, states, flows and decisions."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import dns.rrset
import pytest
import trio
import trio.testing

from tests.kits.ports import SHORTEST_QUEUE, kept_port, refused_udp_port
from zks_lwip import Direct, FlowRequest, Reject, Tunnel, Vpn, VpnConfig, VpnState, open_vpn
from zks_lwip.daemon.states import State
from zks_lwip.device import memory_device_pair
from zks_lwip.dns import DnsOptions
from zks_lwip.errors import DnsError
from zks_lwip.stack import Stack, TcpStream, open_stack, open_tcp_stream, open_udp
from zks_lwip.worker import RunningWorker, WorkerConfig, open_worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker inherits pipes")

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)


@asynccontextmanager
async def worker() -> AsyncIterator[RunningWorker]:
    async with open_worker(WorkerConfig(port=0, allow=LOOPBACK, drain=0.1)) as running:
        yield running


@asynccontextmanager
async def vpn(**options: Any) -> AsyncIterator[Vpn]:
    """A VPN through a worker of this process, without a device."""
    with trio.fail_after(60):
        async with worker() as running:
            settings = options.pop("config", {})
            config = VpnConfig(worker=running.url, **settings)
            async with open_vpn(config, **options) as opened:
                yield opened


@asynccontextmanager
async def carried(
    decide: Callable[..., Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Stack, Vpn]]:
    """An application's stack behind such a VPN."""
    inner, outer = memory_device_pair()
    async with vpn(device=outer, decide=decide, config=settings) as opened:
        async with open_stack(inner) as stack:
            yield stack, opened


@asynccontextmanager
async def shouter() -> AsyncIterator[int]:
    """On loopback: sends back in capitals what comes, then FIN."""

    async def shout(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data.upper())
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, shout, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ask(stream: trio.abc.HalfCloseableStream, text: bytes = b"hello") -> bytes:
    async with stream:
        await stream.send_all(text)
        await stream.send_eof()
        return b"".join([data async for data in stream])


async def test_a_stream_goes_through_the_worker_and_is_told_of() -> None:
    async with shouter() as port, vpn() as opened:
        stream = await opened.open_tcp_stream("127.0.0.1", port)
        assert stream.destination == ("127.0.0.1", port)
        (flow,) = opened.flows()
        assert (flow.protocol, flow.source, flow.destination) == ("tcp", None, ("127.0.0.1", port))
        assert (flow.via, flow.state) == ("tunnel", "open") and flow.seconds >= 0
        assert await ask(stream) == b"HELLO"
        assert opened.flows() == []
        stats = opened.stats()
        assert stats.bytes_up == stats.bytes_down == 5
        assert (stats.connections, stats.connections_opened) == (0, 1)
        assert stats.state is VpnState.CONNECTED and stats.problem == ""
        assert stats.workers[0].in_use and stats.sessions[0].worker == stats.worker
        assert dataclasses.asdict(stats)["counters"]["tunnel"]["data_out"] == 5
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_it_is_a_stream_as_trio_wants_one() -> None:
    async with vpn() as opened:

        async def make() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ends: list[trio.SocketStream] = []
            async with listener, trio.open_nursery() as nursery:

                async def accept() -> None:
                    ends.append(await listener.accept())

                nursery.start_soon(accept)
                port = listener.socket.getsockname()[1]
                near = await opened.open_tcp_stream("127.0.0.1", port)
            return near, ends[0]

        await trio.testing.check_half_closeable_stream(make, None)


async def test_what_fails_fails_as_a_socket_would() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with vpn(config={"ipv6": "block"}) as opened:
            with pytest.raises(ConnectionRefusedError, match="127.0.0.1"):
                await opened.open_tcp_stream("127.0.0.1", unused.getsockname()[1])
            with pytest.raises(PermissionError):  # not allowed by the worker's policy
                await opened.open_tcp_stream("127.0.0.2", 80)
            with pytest.raises(OSError) as caught:
                await opened.open_tcp_stream("2001:db8::1", 80)
            assert caught.value.errno == errno.ENETUNREACH
            for host, port in (("bad name", 80), ("1.2.3", 80), ("", 80), ("a.example", 0)):
                with pytest.raises(ValueError, match="port|name"):
                    await opened.open_tcp_stream(host, port)
            assert opened.stats().connections_refused == 2 and opened.flows() == []


async def test_names_that_are_known_here_are_not_asked_of_the_worker() -> None:
    static = ["shouter.test=127.0.0.1"]
    async with shouter() as port, vpn(config={"dns_static": static}) as opened:
        assert await opened.resolve("Shouter.test.") == ["127.0.0.1"]
        assert await opened.resolve("192.0.2.7") == ["192.0.2.7"]
        assert await ask(await opened.open_tcp_stream("shouter.test", port)) == b"HELLO"
        with pytest.raises(DnsError, match="no such name"):
            await opened.resolve("nothing.invalid")
        with pytest.raises(socket.gaierror):
            await opened.open_tcp_stream("nothing.invalid", 80)
        with pytest.raises(DnsError, match="no host name"):
            await opened.resolve("bad name")


async def test_datagrams_go_both_ways_and_errors_come_back() -> None:
    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        await server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        async with vpn() as opened, opened.open_udp() as udp:
            assert udp.send(b"ping", address)
            data, sender = await server.recvfrom(100)
            assert data == b"ping"
            await server.sendto(b"pong", sender)
            assert await udp.receive() == (b"pong", address)
            (flow,) = opened.flows()
            assert (flow.protocol, flow.destination) == ("udp", address)
            assert (flow.bytes_up, flow.bytes_down) == (4, 4)
            with refused_udp_port() as refused:
                udp.send(b"ping", ("127.0.0.1", refused))
                with pytest.raises(ConnectionRefusedError):
                    await udp.receive()
            for wrong in (("name.example", 1), ("127.0.0.1", 0)):
                with pytest.raises(ValueError):
                    udp.send(b"", wrong)
            await udp.aclose()
            await udp.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await udp.receive()
            assert opened.flows() == []


async def test_states_are_told_as_they_come() -> None:
    assert VpnState.LOST == "lost"
    assert {state.value for state in VpnState} <= {state.value for state in State}
    told: list[VpnState] = []
    with trio.fail_after(60), kept_port() as port:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as workers:

                async def serve(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
                    with trio.CancelScope() as scope:
                        config = WorkerConfig(port=port, allow=LOOPBACK, drain=0.1)
                        async with open_worker(config):
                            task_status.started(scope)
                            await trio.sleep_forever()

                scope = await workers.start(serve)
                config = VpnConfig(worker=f"ws://127.0.0.1:{port}", resume=0)
                async with open_vpn(config) as opened:
                    waiting = opened.open_udp()

                    async def watch() -> None:
                        async for state in opened.states():
                            told.append(state)

                    async def receive() -> None:
                        with pytest.raises(trio.BrokenResourceError, match="has ended"):
                            await waiting.receive()

                    nursery.start_soon(watch)
                    nursery.start_soon(receive)
                    await opened.wait_up()
                    scope.cancel()
                    while opened.state is not VpnState.LOST:
                        await trio.sleep(0.01)
                    assert opened.problem and opened.stats().problem == opened.problem
                    scope = await workers.start(serve)
                    await opened.wait_up()
                    assert opened.problem == ""
                    await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert opened.state is VpnState.DISCONNECTED
    assert told == [
        VpnState.CONNECTED,
        VpnState.LOST,
        VpnState.CONNECTED,
        VpnState.DISCONNECTED,
    ]
    with pytest.raises(trio.BrokenResourceError):
        await opened.wait_up()
    with pytest.raises(trio.BrokenResourceError):
        await opened.open_tcp_stream("127.0.0.1", 80)


async def test_nothing_is_captured_unless_asked() -> None:
    _, outer = memory_device_pair()
    with pytest.raises(ValueError, match="not both"):
        async with open_vpn(VpnConfig(), device=outer, capture=True):
            pytest.fail("unreachable")
    with pytest.raises(ValueError, match="no flows"):
        async with open_vpn(VpnConfig(), decide=lambda flow: Tunnel):
            pytest.fail("unreachable")
    async with vpn() as opened:
        assert opened.interface == "" and opened.counters()["stack"] == {}


async def test_each_flow_is_decided() -> None:
    asked: list[FlowRequest] = []

    async with shouter() as port, trio.open_nursery() as nursery:

        async def own() -> trio.StapledStream[Any, Any]:
            near, far = trio.testing.memory_stream_pair()

            async def answer() -> None:
                async for data in far:
                    await far.send_all(b"own " + data)
                await far.send_eof()

            nursery.start_soon(answer)
            return near

        async def decide(flow: FlowRequest) -> Any:
            asked.append(flow)
            if flow.destination[0] == "192.0.2.1":
                return Tunnel("127.0.0.1", port)
            if flow.destination[0] == "192.0.2.2":
                return await own()
            if flow.destination[0] == "192.0.2.3":
                return Reject.PROHIBITED
            if flow.destination[0] == "192.0.2.4":
                raise OSError(errno.EHOSTUNREACH, "not there")
            if flow.destination[0] == "192.0.2.5":
                return Reject
            if flow.destination[0] == "192.0.2.6":
                return Tunnel("x" * 256, 80)
            return Direct

        async with carried(decide) as (stack, opened):
            assert await ask(await open_tcp_stream(stack, "192.0.2.1", 80)) == b"HELLO"
            stream = await open_tcp_stream(stack, "192.0.2.2", 80)
            (flow,) = opened.flows()
            assert (flow.via, flow.destination) == ("stream", ("192.0.2.2", 80))
            assert await ask(stream) == b"own hello"
            with pytest.raises(PermissionError):
                await open_tcp_stream(stack, "192.0.2.3", 80)
            for address in ("192.0.2.4", "192.0.2.6"):
                with pytest.raises(OSError) as caught:
                    await open_tcp_stream(stack, address, 80)
                assert caught.value.errno == errno.EHOSTUNREACH
            with pytest.raises(ConnectionRefusedError):
                await open_tcp_stream(stack, "192.0.2.5", 80)
            assert asked[0].protocol == "tcp" and asked[0].destination == ("192.0.2.1", 80)
            assert asked[0].source[0] == "198.18.0.2"
            assert opened.stats().connections == 0
        nursery.cancel_scope.cancel()


async def test_a_direct_flow_leaves_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alias of the loopback stands for 127.0.0.1 here, as it does at an embedded worker."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket() as unused:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        unused.bind(("127.0.0.1", 0))
        udp_port = server.getsockname()[1]

        def decide(flow: FlowRequest) -> type[Direct]:
            return Direct

        inner, outer = memory_device_pair()
        with trio.fail_after(60):
            async with (
                shouter() as port,
                open_vpn(VpnConfig(), device=outer, decide=decide) as opened,
                open_stack(inner) as stack,
            ):
                stream = await open_tcp_stream(stack, "198.18.0.2", port, source=("10.9.9.9", 0))
                (flow,) = opened.flows()
                assert flow.via == "direct"
                assert await ask(stream) == b"HELLO"
                with pytest.raises(ConnectionRefusedError):
                    await open_tcp_stream(
                        stack, "198.18.0.2", unused.getsockname()[1], source=("10.9.9.9", 0)
                    )
                udp = open_udp(stack, "10.9.9.9")
                assert udp.send(b"ping", ("198.18.0.2", udp_port))
                await trio.lowlevel.wait_readable(server)
                data, sender = server.recvfrom(100)
                server.sendto(data.upper(), sender)
                assert await udp.receive() == (b"PING", ("198.18.0.2", udp_port))
                assert [each.via for each in opened.flows()] == ["direct"]
                assert opened.counters()["tunnel"]["data_out"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors")
async def test_direct_flows_leave_descriptors_for_the_tunnel() -> None:
    """What is over their part meets silence: it connects when there is room, if it still waits."""
    import resource

    part = 120
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    inner, outer = memory_device_pair()
    with contextlib.ExitStack() as limit, trio.fail_after(60), socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(2 * part)  # and accepts none: these would be descriptors of this process
        port = server.getsockname()[1]
        limit.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * part, hard))
        async with (
            open_vpn(VpnConfig(), device=outer, decide=lambda flow: Direct) as opened,
            open_stack(inner) as stack,
            trio.open_nursery() as nursery,
        ):

            async def connect() -> TcpStream:
                return await open_tcp_stream(stack, "198.18.0.2", port, source=("10.9.9.9", 0))

            streams = [await connect() for _ in range(part)]
            late = trio.Event()

            async def one_more() -> None:
                await connect()
                late.set()

            nursery.start_soon(one_more)
            while not opened.counters()["gateway"]["flows_over_limit"]:
                await trio.sleep(0.01)
            assert not late.is_set()
            os.close(os.open("/dev/null", os.O_RDONLY))  # one is left for whatever needs it
            streams.pop().abort()
            await late.wait()


async def test_a_flow_that_is_closed_is_reset_at_both_ends() -> None:
    """And not ended, which would make of what has come of it all of it."""
    inner, outer = memory_device_pair()
    with trio.fail_after(60):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with (
            listener,
            open_vpn(VpnConfig(), device=outer, decide=lambda flow: Direct) as opened,
            open_stack(inner) as stack,
        ):
            port = listener.socket.getsockname()[1]
            near = await open_tcp_stream(stack, "198.18.0.2", port, source=("10.9.9.9", 0))
            far = await listener.accept()
            async with near, far:
                await near.send_all(b"a part")
                assert await far.receive_some() == b"a part"
                await far.send_all(b"a part")
                assert await near.receive_some() == b"a part"
                (flow,) = opened.flows()
                assert opened.close_flow(flow)
                for end in (near, far):
                    with pytest.raises(trio.BrokenResourceError):
                        await end.receive_some()
            assert opened.flows() == []


async def test_nothing_is_asked_of_the_worker_for_a_flow_that_was_given_up() -> None:
    asked, decided = trio.Event(), trio.Event()

    async def decide(flow: FlowRequest) -> Any:
        asked.set()
        with trio.CancelScope(shield=True):
            await decided.wait()
        return Tunnel("127.0.0.1", port)

    async def connect(stack: Stack) -> None:
        with pytest.raises(ConnectionRefusedError):
            await open_tcp_stream(stack, "192.0.2.1", 80)

    async with shouter() as port, carried(decide) as (stack, opened):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, stack)
            await asked.wait()
            (flow,) = opened.flows()
            assert flow.state == "connecting" and opened.close_flow(flow)
        decided.set()
        await trio.sleep(0.2)
        assert opened.flows() == []
        assert opened.counters()["gateway"]["flows_accepted"] == 0


async def test_who_waits_for_a_connection_is_told_of_the_end() -> None:
    async def connect(opened: Vpn, port: int) -> None:
        with pytest.raises(trio.BrokenResourceError, match="has ended"):
            await opened.open_tcp_stream("127.0.0.1", port)

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(SHORTEST_QUEUE)
        with socket.create_connection(full.getsockname()):  # the kernel takes no more
            async with trio.open_nursery() as nursery:
                async with vpn() as opened:
                    nursery.start_soon(connect, opened, full.getsockname()[1])
                    while not opened.flows():
                        await trio.sleep(0.01)


async def test_a_queue_holds_something() -> None:
    async with carried() as (stack, opened):
        with pytest.raises(ValueError, match="1 or more"):
            opened.open_udp(queue=0)
        with pytest.raises(ValueError, match="1 or more"):
            open_udp(stack, queue=0)


async def test_datagrams_wait_for_their_decision() -> None:
    decided = trio.Event()
    asked = 0

    async def decide(flow: FlowRequest) -> Any:
        nonlocal asked
        asked += 1
        await decided.wait()
        return Tunnel if flow.destination[0] == "127.0.0.1" else Reject.RST

    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        await server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        async def redirect(flow: FlowRequest) -> Any:
            host = "127.0.0.1" if flow.destination[1] == port else "192.0.2.1"
            return await decide(dataclasses.replace(flow, destination=(host, port)))

        inner, outer = memory_device_pair()
        with trio.fail_after(60), refused_udp_port() as refused:
            async with (
                open_vpn(VpnConfig(), device=outer, decide=redirect) as opened,
                open_stack(inner) as stack,
            ):
                udp = open_udp(stack, "10.9.9.9")
                for number in range(20):
                    udp.send(b"%d" % number, ("198.18.0.2", port))
                await trio.testing.wait_all_tasks_blocked()
                assert asked == 1 and opened.flows() == []
                decided.set()
                got = {(await server.recvfrom(100))[0] for _ in range(16)}
                assert got == {b"%d" % number for number in range(16)}
                assert opened.stats().counters["gateway"]["datagrams_dropped"] == 4
                # The same socket, another destination: another decision.
                udp.send(b"elsewhere", ("198.18.0.2", refused))
                with pytest.raises(ConnectionRefusedError):
                    await udp.receive()
                udp.send(b"again", ("198.18.0.2", port))
                assert (await server.recvfrom(100))[0] == b"again" and asked == 2


async def test_a_flow_is_decided_of_by_name() -> None:
    asked: list[str] = []

    def decide(flow: FlowRequest) -> Any:
        asked.append(flow.name)
        return Reject.RST

    async def answer(server: trio.socket.SocketType) -> None:
        while True:
            data, address = await server.recvfrom(512)
            reply = dns.message.make_response(dns.message.from_wire(data))
            name = reply.question[0].name
            reply.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "192.0.2.80"))
            await server.sendto(reply.to_wire(), address)

    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await server.bind(("127.0.0.1", 0))
    options = DnsOptions(forward=(f"shop.test=127.0.0.1:{server.getsockname()[1]}",))
    with server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, server)
            async with carried(decide, dns=options) as (stack, _):
                query = dns.message.make_query("www.shop.test", "A").to_wire()
                async with open_udp(stack) as udp:
                    udp.send(query, ("9.9.9.9", 53))
                    await udp.receive()
                for address in ("192.0.2.80", "192.0.2.81"):
                    with pytest.raises(ConnectionRefusedError):
                        await open_tcp_stream(stack, address, 443)
            nursery.cancel_scope.cancel()
    assert asked == ["www.shop.test", ""]


async def test_an_error_of_the_decider_ends_the_vpn_as_it_is() -> None:
    def decide(flow: FlowRequest) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with carried(decide) as (stack, _):
            await open_tcp_stream(stack, "192.0.2.1", 80)
            await trio.sleep_forever()

    with pytest.raises(TypeError, match="decides nothing"):
        async with carried(lambda flow: "tunnel") as (stack, _):
            await open_tcp_stream(stack, "192.0.2.1", 80)
            await trio.sleep_forever()


async def test_blocked_names_are_not_connected_to(tmp_path: Any) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("tracker.example\n")
    async with vpn(config={"dns": DnsOptions(block=[blocked])}) as opened:
        with pytest.raises(socket.gaierror):
            await opened.open_tcp_stream("a.tracker.example", 80)
