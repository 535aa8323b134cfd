"""A peer's bytes of whatever shape: others have their turns, memory is bounded, and it is told.

Both ends: a server that a client sends them to, a client that a server sends them to. With the
framing in C and without.
"""

from __future__ import annotations

import os
import re
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.kits.plain_websocket import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    upgrade_request,
    upgrade_response,
)
from tests.kits.short import SHORT
from zks_lwip.carrier.masking import IN_C
from zks_lwip.carrier.upgrade import Accept, accept_websocket, upgrade_websocket
from zks_lwip.carrier.websocket import WebSocketClosed, WsConnection

MAX_MESSAGE = 1 << 17
#: Seconds of the processor between two turns of another task; a slice is 0.003.
MOST_TURN = 0.04 * (6 if "ZKS_LWIP_SANITIZE" in os.environ else 1)
CHUNK = 1 << 17  # bytes that come at once


class Raw:
    """The hostile end: plain bytes on a socket, after an upgrade that is all right."""

    def __init__(self, stream: trio.SocketStream, *, masked: bool) -> None:
        self.stream = stream
        self.masked = masked
        self.received = bytearray()

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        return frame(payload, opcode, fin=fin, masked=self.masked)

    async def read_on(self) -> None:
        """Keep what comes, until the end."""
        try:
            async for data in self.stream:
                self.received += data
        except trio.BrokenResourceError:
            pass

    @property
    def told(self) -> tuple[int, str] | None:
        """Status and reason of the Close frame that came, if one did."""
        for found in re.finditer(rb"\x88[\x02-\x7d\x82-\xfd]", self.received):
            size, body = self.received[found.start() + 1], self.received[found.end() :]
            if size & 0x80:
                key, body = body[:4], body[4:]
                body = bytearray(byte ^ key[n % 4] for n, byte in enumerate(body))
            if len(body) == size & 0x7F:
                return struct.unpack_from("!H", body)[0], body[2:].decode()
        return None


@asynccontextmanager
async def open_pair(role: str) -> AsyncIterator[tuple[WsConnection, Raw]]:
    """A connection of ours, as ``client`` or ``server``, and the hostile end of it."""
    near, far = trio.socket.socketpair()
    ours, raw = trio.SocketStream(near), Raw(trio.SocketStream(far), masked=role == "server")
    async with trio.open_nursery() as nursery:
        connection: WsConnection | None = None
        if role == "server":
            await raw.stream.send_all(upgrade_request())
            connection = await accept_websocket(
                nursery, ours, authorize=lambda _: Accept(), max_message=MAX_MESSAGE
            )
            assert (await raw.stream.receive_some()).startswith(b"HTTP/1.1 101")
        else:

            async def serve() -> None:
                request = (await raw.stream.receive_some()).decode()
                await raw.stream.send_all(upgrade_response(request, None))

            nursery.start_soon(serve)
            connection = await upgrade_websocket(
                nursery, ours, host="h", path="/", max_message=MAX_MESSAGE
            )
            await trio.testing.wait_all_tasks_blocked()  # serve() is over
        assert connection is not None
        try:
            yield connection, raw
        finally:
            await trio.aclose_forcefully(raw.stream)
            await connection.aclose()
            nursery.cancel_scope.cancel()


async def read_to_end(connection: WsConnection, *, delivered: bool = True) -> None:
    """Do what an owner does: take messages, and close when there are no more."""
    if delivered:
        await connection.deliver(lambda message: None)
    else:
        with pytest.raises(WebSocketClosed):
            await connection.receive_message()
    await connection.aclose()


class Turns:
    """What another task notices: its turns, and the longest that it waited for one."""

    def __init__(self) -> None:
        self.count = 0
        self.worst = 0.0
        self._began = time.thread_time()

    async def run(self) -> None:
        self._began = time.thread_time()
        while True:
            await trio.sleep(0)
            self.look()
            self.count += 1

    def look(self) -> None:
        """It has its turn, or it is all over."""
        now = time.thread_time()
        self.worst = max(self.worst, now - self._began)
        self._began = now


# (None of our C runs in the second.)
@pytest.fixture(params=["in C"] if SHORT else ["in C", "by wsproto"])
def _framing(request: pytest.FixtureRequest) -> Iterator[None]:
    before = IN_C.enabled
    if request.param == "by wsproto":
        IN_C.enabled = False
    yield
    IN_C.enabled = before


SHAPES: dict[str, Callable[[Raw], bytes]] = {
    "empty messages": lambda raw: raw.frame(BINARY),
    "messages of one byte": lambda raw: raw.frame(BINARY, b"\x06"),
    "fragments of one byte": lambda raw: (
        raw.frame(BINARY, b"x", fin=False) + raw.frame(CONTINUATION, b"x")
    ),
    "many fragments of one byte": lambda raw: (
        raw.frame(BINARY, b"x", fin=False)
        + raw.frame(CONTINUATION, b"x", fin=False) * 1000
        + raw.frame(CONTINUATION, b"x")
    ),
    "pings": lambda raw: raw.frame(PING),
    "pings of 125 bytes": lambda raw: raw.frame(PING, bytes(125)),
    "pongs": lambda raw: raw.frame(PONG),
    "pings between fragments": lambda raw: (
        raw.frame(BINARY, b"x", fin=False) + raw.frame(PING) + raw.frame(CONTINUATION, b"x")
    ),
    "bulk": lambda raw: raw.frame(BINARY, bytes(MAX_MESSAGE)),
    "bulk in fragments": lambda raw: (
        raw.frame(BINARY, bytes(1000), fin=False) + raw.frame(CONTINUATION, bytes(64_000))
    ),
}


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_others_have_their_turns(shape: str, role: str) -> None:
    await wait_less_than(MOST_TURN, partial(longest_turn, shape, role))


async def wait_less_than(most: float, longest: Callable[[], Awaitable[float]]) -> None:
    """Where a turn takes too long, three in a row do: a busy machine seldom does that."""
    worst = [await longest()]
    while worst[-1] >= most and len(worst) < 3:
        worst.append(await longest())
    assert min(worst) < most, worst


async def longest_turn(shape: str, role: str) -> float:
    """Send frames of this shape, all of which arrive; the longest wait of another task, in s."""
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        one = SHAPES[shape](raw)
        count = CHUNK // len(one) + 1
        messages = one.count(raw.frame(BINARY)[:1]) and not shape.startswith("p")
        turns, last = Turns(), b"the last"
        taken: list[int] = []
        done = trio.Event()

        def take(message: memoryview) -> None:
            taken.append(len(message))
            if message == last:
                done.set()

        nursery.start_soon(connection.deliver, take)
        nursery.start_soon(raw.read_on)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(turns.run)
        with trio.fail_after(120):
            await raw.stream.send_all(one * count + raw.frame(BINARY, last))
            await done.wait()
        turns.look()
        print(f"{count} times, {turns.count} turns, at worst {turns.worst:.4f} s, {len(taken)}")
        assert not messages or len(taken) == count + 1  # and nothing was lost
        nursery.cancel_scope.cancel()
    return turns.worst


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("early", [1, 16, 17, 40])
async def test_what_came_before_it_is_delivered_is_delivered_first(early: int, role: str) -> None:
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        numbers = [b"%d" % number for number in range(80)]
        frames = [raw.frame(BINARY, number) for number in numbers]
        taken: list[bytes] = []
        nursery.start_soon(raw.read_on)
        await raw.stream.send_all(b"".join(frames[:early]))
        await trio.sleep(0.02)  # more than its queue holds, perhaps
        nursery.start_soon(connection.deliver, lambda message: taken.append(bytes(message)))
        for one in frames[early:]:
            await raw.stream.send_all(one)
        with trio.fail_after(30):
            while len(taken) < len(numbers):
                await trio.sleep(0.005)
        assert taken == numbers
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(("opcode", "delivered"), [(BINARY, True), (BINARY, False), (TEXT, True)])
async def test_endless_empty_fragments_are_a_breach(
    opcode: int, delivered: bool, role: str
) -> None:
    """The peer is told so, and nothing has been kept of them."""
    # (it is traced)
    await wait_less_than(2 * MOST_TURN, partial(longest_turn_of_a_breach, opcode, delivered, role))


async def longest_turn_of_a_breach(opcode: int, delivered: bool, role: str) -> float:
    """Send empty fragments until the connection is closed; the longest wait of another task."""
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        turns = Turns()
        nursery.start_soon(partial(read_to_end, connection, delivered=delivered))
        nursery.start_soon(raw.read_on)
        nursery.start_soon(turns.run)
        empty = raw.frame(CONTINUATION, fin=False)
        tracemalloc.start()
        try:
            with trio.fail_after(120):
                try:
                    await raw.stream.send_all(raw.frame(opcode, fin=False))
                    for _ in range(16):
                        await raw.stream.send_all(empty * (100_000 // len(empty)))
                except trio.BrokenResourceError:
                    pass  # it was cut off meanwhile
                while connection.closed_status is None:
                    await trio.sleep(0.01)
                while raw.told is None:
                    await trio.sleep(0.01)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{turns.count} turns, at worst {turns.worst:.4f} s, {kept} bytes, {raw.told}")
        assert raw.told[0] == connection.closed_status == 1002
        assert "empty" in raw.told[1] and "fragments" in connection.closed_reason
        assert kept < 700_000
        nursery.cancel_scope.cancel()
    return turns.worst


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize(
    ("opcode", "role"), [(BINARY, "server"), (BINARY, "client"), (TEXT, "server")]
)
async def test_a_message_costs_its_bytes_and_not_its_pieces(opcode: int, role: str) -> None:
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        nursery.start_soon(connection.read_ahead)
        nursery.start_soon(raw.read_on)
        wire = raw.frame(CONTINUATION, b"xy", fin=False) * (MAX_MESSAGE // 64)
        await raw.stream.send_all(raw.frame(opcode, b"x", fin=False))
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            with trio.fail_after(120):
                for _ in range(8):
                    await raw.stream.send_all(wire)
                # it has been taken: the pong behind it says so
                await raw.stream.send_all(raw.frame(PING, b"taken"))
                while not raw.received:
                    await trio.sleep(0.01)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{after - before} bytes are held for {MAX_MESSAGE // 4}")
        # the message itself, the buffer that it comes in, and room for either to grow
        assert after - before < 700_000
        assert connection.closed_status is None
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("piece", [16, 1000])
async def test_a_message_in_pieces_over_max_message(piece: int, role: str) -> None:
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        nursery.start_soon(partial(read_to_end, connection, delivered=False))
        nursery.start_soon(raw.read_on)
        with trio.fail_after(120):
            try:
                await raw.stream.send_all(raw.frame(BINARY, bytes(piece), fin=False))
                more = raw.frame(CONTINUATION, bytes(piece), fin=False)
                for _ in range(8):
                    await raw.stream.send_all(more * (MAX_MESSAGE // piece // 8 + 1))
            except trio.BrokenResourceError:
                pass
            while raw.told is None:
                await trio.sleep(0.01)
        assert raw.told[0] == connection.closed_status == 1009
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_framing")
@pytest.mark.parametrize("role", ["server", "client"])
async def test_pings_whose_pongs_are_not_read(role: str) -> None:
    """One pong waits at a time, and what comes behind the pings is read all the same."""
    async with open_pair(role) as (connection, raw), trio.open_nursery() as nursery:
        done = trio.Event()

        def take(message: memoryview) -> None:
            done.set()

        nursery.start_soon(connection.deliver, take)
        pings = raw.frame(PING, bytes(125)) * 500
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            with trio.fail_after(120):
                for _ in range(16):  # 1 MB: more than the kernel holds of the pongs
                    await raw.stream.send_all(pings)
                await raw.stream.send_all(raw.frame(BINARY, b"x"))
                await done.wait()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 700_000
        nursery.start_soon(raw.read_on)
        await connection.send_message(b"still works")
        with trio.fail_after(60):
            last = frame(b"still works")
            while role == "server" and last not in raw.received:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
