"""Several listeners and sockets of one stack, and what becomes of connections that begin here."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from zks_lwip.device import memory_device_pair
from zks_lwip.errors import StackError
from zks_lwip.stack import (
    Datagram,
    Reject,
    Stack,
    TcpListener,
    TcpStream,
    UdpListener,
    open_stack,
    open_tcp_stream,
    open_udp,
)

SERVER = {4: "203.0.113.7", 6: "2001:db8::7"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@asynccontextmanager
async def stacks() -> AsyncIterator[tuple[Stack, Stack]]:
    """A client's stack and a server's."""
    left, right = memory_device_pair()
    with trio.fail_after(60):
        async with open_stack(left) as a, open_stack(right) as b:
            yield a, b


@FAMILIES
async def test_a_stream_is_opened_from_a_free_port(family: int) -> None:
    async with stacks() as (a, b):
        listener = TcpListener(b, SERVER[family], 80)
        ends = [await open_tcp_stream(a, SERVER[family], 80) for _ in range(3)]
        ports = {end.destination[1] for end in ends}
        assert len(ports) == 3 and min(ports) >= 49152
        accepted = [await listener.accept() for _ in range(3)]
        assert {each.source[1] for each in accepted} == ports
        assert ends[0].source == (SERVER[family], 80)


@FAMILIES
@pytest.mark.parametrize(
    ("how", "number"),
    [
        (Reject.RST, errno.ECONNREFUSED),
        (Reject.NET_UNREACHABLE, errno.ENETUNREACH),
        (Reject.HOST_UNREACHABLE, errno.EHOSTUNREACH),
        (Reject.PROHIBITED, errno.EACCES),
        (Reject.PORT_UNREACHABLE, errno.ECONNREFUSED),
    ],
)
async def test_a_refusal_says_what_it_is(family: int, how: Reject, number: int) -> None:
    async with stacks() as (a, b):
        b.on_flow = lambda flow: flow.reject(how)
        with pytest.raises(OSError) as caught:
            await open_tcp_stream(a, SERVER[family], 80)
        assert caught.value.errno == number
        assert SERVER[family] in str(caught.value) and "80" in str(caught.value)
        assert a.open_flows == 0 and a.stats()["flows"] == 0


async def test_silence_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    left, right = memory_device_pair()
    async with open_stack(left) as a, open_stack(right) as b:
        b.on_flow = lambda flow: flow.reject(Reject.SILENT)
        began = trio.current_time()
        with pytest.raises(TimeoutError):
            await open_tcp_stream(a, SERVER[4], 80)
        assert 4 < trio.current_time() - began < 60


async def test_an_icmp_error_that_quotes_another_sequence_number_ends_nothing() -> None:
    left, right = memory_device_pair()
    async with open_stack(left) as a, open_stack(right) as b:
        forged = trio.Event()

        def forge(packets: list[bytes]) -> list[bytes]:
            changed = []
            for packet in packets:
                if packet[9] == 1:  # ICMP: the sequence number, and the checksum by as much
                    raw = bytearray(packet)
                    quoted = 20 + 8 + 20 + 4
                    low = int.from_bytes(raw[quoted : quoted + 2], "big")
                    check = int.from_bytes(raw[22:24], "big")
                    step = 1 if low < 0xFFFF and check > 1 else 0
                    raw[quoted : quoted + 2] = (low + step).to_bytes(2, "big")
                    raw[22:24] = (check - step).to_bytes(2, "big")
                    packet = bytes(raw)
                    forged.set()
                changed.append(packet)
            return changed

        right.filter = forge
        b.on_flow = lambda flow: flow.reject(Reject.HOST_UNREACHABLE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_tcp_stream, a, SERVER[4], 80)
            await forged.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert a.open_flows == 1
            assert a.stats()["drop_icmp_header"] == 1
            nursery.cancel_scope.cancel()


async def test_the_closest_listener_gets_a_connection() -> None:
    async with stacks() as (a, b):
        listeners = {
            "both": TcpListener(b, SERVER[4], 80),
            "port": TcpListener(b, None, 80),
            "host": TcpListener(b, SERVER[4]),
        }
        for where, port, expected in [
            (SERVER[4], 80, "both"),
            ("192.0.2.9", 80, "port"),
            (SERVER[6], 80, "port"),
            (SERVER[4], 81, "host"),
        ]:
            await open_tcp_stream(a, where, port)
            stream = await listeners[expected].accept()
            assert stream.destination == (where, port)
        with pytest.raises(ConnectionRefusedError):
            await open_tcp_stream(a, "192.0.2.9", 81)
        rest = TcpListener(b)
        await open_tcp_stream(a, "192.0.2.9", 81)
        assert (await rest.accept()).destination == ("192.0.2.9", 81)


async def test_what_is_taken_is_an_error_until_it_is_closed() -> None:
    async with stacks() as (a, b):
        listener = TcpListener(b, "2001:db8:0::7", 80)
        assert (listener.host, listener.port) == ("2001:db8::7", 80)
        with pytest.raises(StackError, match="port 80"):
            TcpListener(b, "2001:db8::7", 80)
        await listener.aclose()
        await listener.aclose()
        TcpListener(b, "2001:db8::7", 80)
        with pytest.raises(ValueError, match="no-address"):
            TcpListener(b, "no-address", 80)
        assert TcpListener(b, None, 0).port in range(49152, 65536)
        b.on_datagrams = print
        with pytest.raises(StackError, match="on_datagrams"):
            open_udp(b)


async def test_a_peer_that_never_finishes_its_handshake_holds_up_no_other() -> None:
    left, right = memory_device_pair()
    mute = 40000

    def drop_acks_of_the_mute(packets: list[bytes]) -> list[bytes]:
        return [
            packet
            for packet in packets
            if int.from_bytes(packet[20:22], "big") != mute or packet[33] & 2  # SYN passes
        ]

    left.filter = drop_acks_of_the_mute
    async with open_stack(left) as a, open_stack(right) as b:
        listener = TcpListener(b, None, 80)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                results: list[TcpStream] = []

                async def accept() -> None:
                    while True:
                        results.append(await listener.accept())

                nursery.start_soon(accept)
                a.connect(("10.0.0.1", mute), (SERVER[4], 80))
                await trio.testing.wait_all_tasks_blocked()
                began = trio.current_time()
                for _ in range(20):
                    await open_tcp_stream(a, SERVER[4], 80)
                assert trio.current_time() - began < 3  # it was 6 s for the first alone
                while len(results) < 20:
                    await trio.sleep(0.01)
                assert all(each.source[1] != mute for each in results)
                nursery.cancel_scope.cancel()


async def test_a_flood_of_handshakes_is_bounded() -> None:
    left, right = memory_device_pair(queue=4096)
    left.filter = lambda packets: [each for each in packets if each[33] & 2]  # only SYNs leave
    async with open_stack(left) as a, open_stack(right) as b:
        listener = TcpListener(b, None, 80)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.accept)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(1500):
                    a.connect(("10.0.0.1", 1024 + number), (SERVER[4], 80))
                await trio.sleep(0.5)
                assert 0 < b.open_flows <= 1024
                nursery.cancel_scope.cancel()


async def test_more_than_the_backlog_wait_for_their_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = memory_device_pair()
    async with open_stack(left) as a, open_stack(right) as b:
        listener = TcpListener(b, None, 80, backlog=2)
        for _ in range(2):
            await open_tcp_stream(a, SERVER[4], 80)
        late = trio.Event()

        async def connect() -> None:
            await open_tcp_stream(a, SERVER[4], 80)
            late.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.sleep(0.2)
            assert not late.is_set()  # its SYN was dropped, and is sent again
            for _ in range(3):
                await listener.accept()


@FAMILIES
async def test_udp_sockets_talk_to_each_other(family: int) -> None:
    async with stacks() as (a, b):
        server = open_udp(b, SERVER[family], 53)
        async with open_udp(a) as client:
            assert client.send(b"question", (SERVER[family], 53))
            data, sender = await server.receive()
            assert data == b"question" and sender[1] == client.port
            assert server.send(b"answer", sender)
            assert await client.receive() == (b"answer", (SERVER[family], 53))
        with pytest.raises(trio.ClosedResourceError):
            client.send(b"", (SERVER[family], 53))
        with pytest.raises(trio.ClosedResourceError):
            await client.receive()
        await client.aclose()
        await server.aclose()


@FAMILIES
@pytest.mark.parametrize(
    ("how", "number"),
    [
        (Reject.PORT_UNREACHABLE, errno.ECONNREFUSED),
        (Reject.HOST_UNREACHABLE, errno.EHOSTUNREACH),
        (Reject.PROHIBITED, errno.EACCES),
        (Reject.TOO_BIG, errno.EMSGSIZE),
    ],
)
async def test_icmp_errors_reach_the_socket(family: int, how: Reject, number: int) -> None:
    async with stacks() as (a, b):

        def refuse(batch: list[Datagram]) -> None:
            for datagram in batch:
                b.refuse_datagram(datagram, how, mtu=1280 if how is Reject.TOO_BIG else 0)

        b.on_datagrams = refuse
        one, other = open_udp(a), open_udp(a)
        one.send(b"question", (SERVER[family], 53))
        with pytest.raises(OSError) as caught:
            await one.receive()
        assert caught.value.errno == number
        assert caught.value.filename == f"{SERVER[family]} port 53"
        await one.aclose()
        await other.aclose()
        before = a.stats()["drop_icmp_header"]
        a.send_datagram((a.source_for(SERVER[family]), 7), (SERVER[family], 53), b"not asked")
        await trio.testing.wait_all_tasks_blocked()
        assert a.stats()["drop_icmp_header"] == before + 1


async def test_a_port_without_a_socket_is_unreachable() -> None:
    async with stacks() as (a, b):
        open_udp(b, port=99)
        client = open_udp(a)
        client.send(b"x", (SERVER[4], 98))
        with pytest.raises(ConnectionRefusedError):
            await client.receive()


async def test_a_socket_beside_a_listener_gets_what_is_its_own() -> None:
    async with stacks() as (a, b):
        listener, own = UdpListener(b), open_udp(b, port=99)
        client = open_udp(a)
        client.send(b"one", (SERVER[4], 99))
        client.send(b"two", (SERVER[4], 98))
        assert (await own.receive())[0] == b"one"
        assert await (await listener.accept()).receive() == (b"two", (SERVER[4], 98))


async def test_the_end_of_the_stack_is_told_to_all_that_wait() -> None:
    left, _ = memory_device_pair()
    async with trio.open_nursery() as nursery:
        async with open_stack(left) as stack:
            listener, datagrams = TcpListener(stack), UdpListener(stack)
            udp = open_udp(stack, port=5)

            async def wait(what: object) -> None:
                with pytest.raises(trio.BrokenResourceError, match="stack has ended"):
                    await what()  # type: ignore[operator]

            for what in (listener.accept, datagrams.accept, udp.receive):
                nursery.start_soon(wait, what)
            await trio.testing.wait_all_tasks_blocked()
    for closed in (listener, datagrams, udp):
        await closed.aclose()
    with pytest.raises(StackError, match="ended"):
        TcpListener(stack)
    with pytest.raises(StackError, match="ended"):
        await open_tcp_stream(stack, SERVER[4], 80)


async def test_every_close_is_harmless_twice_and_told_alike() -> None:
    left, right = memory_device_pair()
    async with open_stack(left) as a, open_stack(right) as b:
        listener, datagrams = TcpListener(b, None, 80), UdpListener(b, None, 53)
        near, udp = await open_tcp_stream(a, SERVER[4], 80), open_udp(a)
        far = await listener.accept()
        udp.send(b"x", (SERVER[4], 53))
        flow = await datagrams.accept()
        for closed, use in [
            (near, near.receive_some),
            (far, far.receive_some),
            (flow, flow.receive),
            (listener, listener.accept),
            (datagrams, datagrams.accept),
            (udp, udp.receive),
        ]:
            assert isinstance(closed, trio.abc.AsyncResource)
            async with closed:
                pass
            await closed.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await use()
        await b.aclose()
        await b.aclose()
        assert b.stats() == {}
        with pytest.raises(StackError, match="ended"):
            open_udp(b)


async def test_errors_of_the_block_come_out_as_they_are() -> None:
    left, _ = memory_device_pair()
    with pytest.raises(KeyError, match="mine"):
        async with open_stack(left):
            raise KeyError("mine")
    with pytest.raises(ExceptionGroup, match="mine, too") as caught:
        async with open_stack(left):
            raise ExceptionGroup("mine, too", [ValueError()])
    assert isinstance(caught.value.exceptions[0], ValueError)
    with trio.move_on_after(0.01) as scope:
        async with open_stack(left):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_free_port_is_one_that_no_socket_of_any_address_has() -> None:
    """Else the closer one would be given what is the other's."""
    ports = range(49152, 65536)
    inner, _ = memory_device_pair()
    async with open_stack(inner) as stack:
        held = [open_udp(stack, "0.0.0.0", port) for port in ports[:-2]]
        held.append(open_udp(stack, "192.0.2.1", ports[-2]))
        held += [open_udp(stack, "192.0.2.2") for _ in range(2)]
        assert {each.port for each in held[-2:]} == set(ports[-2:])
        with pytest.raises(StackError, match="every ephemeral port"):
            open_udp(stack, "192.0.2.2")
