"""TcpStream and TcpListener, on both pumps."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
import trio.testing

from zks_lwip.stack import Reject, TcpListener, TcpStream, UdpListener, connect_tcp

from ...kits.wires import CLIENT, PUMPS, SERVER, wire

BUFFER = 0xFFFF << 4  # bytes: the send buffer
WINDOW = 65_520  # bytes: the receive window of a flow that has not been read from

pytestmark = pytest.mark.parametrize("pump", PUMPS)


@pytest.mark.parametrize("family", [4, 6])
async def test_trio_accepts_it_as_a_half_closeable_stream(pump: str, family: int) -> None:
    async with wire(pump) as w:
        listener = TcpListener(w.b)

        async def make() -> tuple[TcpStream, TcpStream]:
            return await w.connect(listener, family)

        async def make_clogged() -> tuple[TcpStream, TcpStream]:
            left, right = await w.connect(listener, family)
            for stream in (left, right):
                # Until the reader's window and the sender's buffer are full: a scaled window does
                # not say its last bytes.
                room = BUFFER + WINDOW
                with trio.fail_after(120):
                    while room >= 16:
                        room -= stream.flow.push(bytes(room))
                        await trio.sleep(0.002)
            return left, right

        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_bytes_come_out_as_they_went_in(pump: str) -> None:
    data = random.Random(1).randbytes(8 << 20)
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))

        async def send(stream: TcpStream) -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async def receive(stream: TcpStream) -> None:
            digest = hashlib.sha256()
            while piece := await stream.receive_some(100_000):
                digest.update(piece)
            assert digest.digest() == hashlib.sha256(data).digest()

        async with trio.open_nursery() as nursery:
            for stream in (client, server):
                nursery.start_soon(send, stream)
                nursery.start_soon(receive, stream)
        await client.aclose()
        await server.aclose()


async def test_a_reader_that_waits_holds_up_the_sender(pump: str) -> None:
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        sent = -1
        while client.bytes_sent > sent:  # a busy machine may take a piece in part
            sent = client.bytes_sent
            with trio.move_on_after(2):
                await client.send_all(bytes(65536))
        # What one send buffer and one receive window hold, and no more.
        assert BUFFER <= sent <= BUFFER + WINDOW
        got = 0
        with trio.fail_after(120):
            while got < sent:
                got += len(await server.receive_some(1 << 20))


async def test_half_close_in_both_orders(pump: str) -> None:
    async with wire(pump) as w:
        listener = TcpListener(w.b)
        for first_is_client in (True, False):
            ends = await w.connect(listener)
            first, second = ends if first_is_client else ends[::-1]
            await first.send_all(b"question")
            await first.send_eof()
            question = b""
            while piece := await second.receive_some():
                question += piece
            assert question == b"question"
            await second.send_all(b"answer" * 50_000)
            await second.send_eof()
            answer = b""
            while piece := await first.receive_some():
                answer += piece
            assert answer == b"answer" * 50_000
            await first.aclose()
            await second.aclose()


async def test_abort_is_a_reset_for_the_other_end(pump: str) -> None:
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        client.abort()
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"y")


async def test_closing_with_unread_bytes_is_a_reset(pump: str) -> None:
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        await client.send_all(b"never read")
        with trio.fail_after(60):
            while client.flow.unacked():
                await trio.sleep(0.01)
        await server.aclose()
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            await client.receive_some()


async def test_a_connection_without_a_listener_is_refused(pump: str) -> None:
    async with wire(pump) as w:
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            await connect_tcp(w.a, (CLIENT[4], 1), (SERVER[4], 80))


async def test_a_held_connection_is_refused(pump: str) -> None:
    async with wire(pump) as w:
        w.b.on_flow = lambda flow: flow.reject(Reject.RST)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            await connect_tcp(w.a, (CLIENT[6], 1), (SERVER[6], 80))
        assert w.b.stats()["flows_refused"] == 1
        assert w.b.stats()["flows"] == 0


async def test_the_handshake_waits_for_accept(pump: str) -> None:
    async with wire(pump) as w:
        listener = TcpListener(w.b)
        connected = False

        async def connect() -> None:
            nonlocal connected
            await connect_tcp(w.a, (CLIENT[4], 1), (SERVER[4], 80))
            connected = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            flow = await listener.accept_flow()
            await trio.sleep(0.1)
            assert not connected
            stream = TcpStream(flow)
            flow.accept()
            await stream.wait_established()
        assert connected


async def test_what_is_over_leaves_nothing_behind(pump: str) -> None:
    async with wire(pump) as w:
        listener = TcpListener(w.b)
        for i in range(50):
            client, server = await w.connect(listener)
            await client.send_all(b"a" * i * 100)
            if i % 5 == 0:
                server.abort()
            await client.aclose()
            await server.aclose()
        with trio.fail_after(60):
            while any(s.stats()["flows"] for s in (w.a, w.b)):
                await trio.sleep(0.1)
        assert w.a.open_flows == w.b.open_flows == 0


async def test_closing_the_stack_resets_its_connections(pump: str) -> None:
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        w.b.close()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        if pump == "thread":
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
                await client.receive_some()


async def test_closing_a_listener_ends_a_task_that_accepts(pump: str) -> None:
    async with wire(pump) as w:
        tcp, udp = TcpListener(w.a), UdpListener(w.a)

        async def accept(listener: TcpListener | UdpListener) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, tcp)
            nursery.start_soon(accept, udp)
            await trio.testing.wait_all_tasks_blocked()
            await tcp.aclose()
            await udp.aclose()
        await accept(tcp)
        await accept(udp)


async def test_cancelled_receive_and_send_lose_nothing(pump: str) -> None:
    data = random.Random(2).randbytes(3 << 20)
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        got = bytearray()

        async def receive() -> None:
            patience = 0.0005
            while len(got) < len(data):
                with trio.move_on_after(patience) as scope:
                    got.extend(await server.receive_some(70_000))
                # a machine that is too slow for it is given more each time
                patience = patience * 2 if scope.cancelled_caught else 0.0005

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await client.send_all(data)
        assert got == data


async def test_calls_after_the_end_are_harmless(pump: str) -> None:
    async with wire(pump) as w:
        client, server = await w.connect(TcpListener(w.b))
        flow = client.flow
    assert flow.push(b"x") == 0
    assert flow.pull_into(bytearray(10)) == 0
    assert flow.unacked() == 0
    flow.send_eof()
    flow.close()
    flow.abort()
    assert not w.a.send_datagram(("192.0.2.1", 1), ("192.0.2.2", 2), b"")
    assert w.a.stats() == {}
    w.a.close()
