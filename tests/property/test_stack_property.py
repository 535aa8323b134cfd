"""Two stacks and a bad wire between them, under random sequences of socket operations: what goes in
comes out, in order and whole; and when all is over nothing is left.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zks_lwip.device import memory_device_pair
from zks_lwip.stack import Stack, TcpListener, TcpStream, connect_tcp, open_stack

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)  # the machine may be busy
NOISE = random.Random(3).randbytes(1 << 16)
ADDRESS = [{4: "10.0.0.1", 6: "fd00::1"}, {4: "203.0.113.7", 6: "2001:db8::7"}]
MOST_FLOWS = 5


def pattern(salt: int, start: int, size: int) -> bytes:
    """Bytes of an endless stream that no other stream has."""
    start += salt * 4099
    whole = NOISE[start % len(NOISE) :] + NOISE * (size // len(NOISE) + 1)
    return whole[:size]


class Wire:
    """One direction: loses, repeats, delays and damages packets."""

    def __init__(self, seed: int, loss: float, repeat: float, delay: float, damage: float) -> None:
        self._random = random.Random(seed)
        self.rates = (loss, repeat, delay, damage)
        self.late: deque[bytes] = deque()

    def __call__(self, packets: list[bytes]) -> list[bytes]:
        loss, repeat, delay, damage = self.rates
        chance = self._random.random
        result = []
        for packet in packets:
            if chance() < loss:
                continue
            if chance() < damage:
                raw = bytearray(packet)
                raw[self._random.randrange(len(raw))] ^= 1 << self._random.randrange(8)
                packet = bytes(raw)
            if chance() < delay:
                self.late.append(packet)
                continue
            result.append(packet)
            if chance() < repeat:
                result.append(packet)
            if self.late and chance() < 0.5:
                result.append(self.late.popleft())
        return result


@dataclass
class End:
    """One end of a connection. Two tasks work through what it is told to send and to receive."""

    salt: int
    stream: TcpStream
    peer: End | None = None
    received: int = 0
    came_to_end: bool = False
    ended: bool = False
    broken: bool = False
    orders: dict[str, Any] = field(default_factory=dict)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)

    def order(self, kind: str, size: int) -> None:
        self.orders["receive" if kind in ("receive", "drain") else "send"].send_nowait((kind, size))

    async def work(self, which: str, task_status: trio.TaskStatus[None]) -> None:
        self.orders[which], orders = trio.open_memory_channel[tuple[str, int]](1000)
        task_status.started()
        async for kind, size in orders:
            with trio.CancelScope() as self.scopes[which]:
                try:
                    await getattr(self, "_" + kind)(size)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.broken = True

    async def _send(self, size: int) -> None:
        if not self.ended:
            await self.stream.send_all(pattern(self.salt, self.stream.bytes_sent, size))

    async def _finish(self, size: int) -> None:
        if not self.ended:
            await self.stream.send_eof()
            self.ended = True

    async def _receive(self, size: int) -> None:
        assert self.peer is not None
        data = await self.stream.receive_some(size)
        assert data == pattern(self.peer.salt, self.received, len(data))
        self.received += len(data)
        assert self.received <= self.peer.stream.bytes_sent
        if not data:
            assert self.peer.ended or self.peer.broken
            assert self.received == self.peer.stream.bytes_sent
            self.came_to_end = True

    async def _drain(self, size: int) -> None:
        while not self.came_to_end:
            await self._receive(100_000)


class World:
    """Two stacks, the connections between them, and what has been told to them."""

    def __init__(self, stacks: list[Stack], nursery: trio.Nursery) -> None:
        self.stacks = stacks
        self.listeners = [TcpListener(stack) for stack in stacks]
        self.nursery = nursery
        self.pairs: list[list[End]] = []
        self.opened = 0

    async def connect(self, index: int, family: int) -> None:
        """A connection from stack ``index`` to the other; given up after half a minute."""
        if self.opened >= MOST_FLOWS:
            return
        self.opened += 1
        source = (ADDRESS[index][family], 1000 + self.opened)
        destination = (ADDRESS[1 - index][family], 80)
        streams: list[TcpStream] = []

        async def accept() -> None:
            streams.append(await self.listeners[1 - index].accept())

        with trio.move_on_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                try:
                    streams.insert(0, await connect_tcp(self.stacks[index], source, destination))
                except trio.BrokenResourceError:
                    nursery.cancel_scope.cancel()
        if len(streams) != 2 or streams[0].source != (destination[0], 80):
            for stream in streams:
                stream.abort()
            return
        pair = [End(self.opened * 2 + i, stream) for i, stream in enumerate(streams)]
        pair[0].peer, pair[1].peer = pair[1], pair[0]
        self.pairs.append(pair)
        for end in pair:
            for which in ("send", "receive"):
                await self.nursery.start(end.work, which)

    async def do(self, kind: str, which: int, size: int) -> None:
        if kind.startswith("connect"):
            return await self.connect(which & 1, 6 if which & 2 else 4)
        if kind == "wait":
            return await trio.sleep(size / 50_000)
        if not self.pairs:
            return None
        pair = self.pairs[which // 2 % len(self.pairs)]
        end = pair[which & 1]
        if kind == "abort":
            end.broken = True
            end.stream.abort()
        elif kind == "close":
            end.broken = True  # unless all had been said and read; then nothing else is to come
            await end.stream.aclose()
        elif kind == "cancel":
            for scope in end.scopes.values():
                scope.cancel()
        else:
            end.order(kind, max(1, size) if kind == "receive" else size)
        await trio.lowlevel.checkpoint()
        return None

    async def finish(self) -> None:
        """Let every connection come to its end, over a wire that is good by now."""
        for pair in self.pairs:
            whole = not any(end.broken for end in pair)
            for end in pair:
                end.order("finish", 0)
                end.order("drain", 0)
            if whole:
                await until(lambda pair=pair: all(end.came_to_end for end in pair))  # type: ignore[misc]
                for end in pair:
                    assert not end.broken
                    assert end.peer is not None and end.received == end.peer.stream.bytes_sent
            else:
                await trio.sleep(5)
            for end in pair:
                if whole:
                    await end.stream.aclose()
                else:
                    end.stream.abort()
        for stack in self.stacks:
            await until(lambda stack=stack: stack.stats()["flows"] == 0)  # type: ignore[misc]
            assert stack.open_flows == 0


async def until(condition: Callable[[], bool]) -> None:
    """At most half an hour, by the stacks' clock."""
    with trio.fail_after(1800):
        while not condition():
            await trio.sleep(0.25)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await main()

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


SIZES = st.sampled_from([1, 7, 500, 1460, 1461, 9000, 65536, 1_100_000]) | st.integers(0, 300_000)
OPERATIONS = st.tuples(
    st.sampled_from(
        ["connect", "connect", "send", "send", "send", "receive", "receive", "finish", "cancel"]
        + ["wait", "wait", "abort", "close"]
    ),
    st.integers(0, 2 * MOST_FLOWS - 1),
    SIZES,
)
RATES = st.sampled_from([(0, 0, 0, 0), (0.05, 0, 0, 0), (0, 0.1, 0.2, 0), (0.1, 0.05, 0.1, 0.05)])


@given(
    st.sampled_from([576, 1280, 1500, 9000, 65535]),
    st.integers(0, 2**32),
    st.tuples(RATES, RATES),
    st.lists(OPERATIONS, min_size=10, max_size=60),
)
@settings(max_examples=600, deadline=None, suppress_health_check=SLOW)
def test_what_goes_in_comes_out(
    mtu: int,
    seed: int,
    rates: tuple[tuple[float, ...], tuple[float, ...]],
    operations: list[tuple[str, int, int]],
) -> None:
    async def main() -> None:
        devices = memory_device_pair(mtu, queue=1000)
        wires = [Wire(seed + i, *rates[i]) for i in (0, 1)]
        async with (
            open_stack(devices[0]) as left,
            open_stack(devices[1]) as right,
            trio.open_nursery() as nursery,
        ):
            for device, wire in zip(devices, wires, strict=True):
                device.filter = wire
            world = World([left, right], nursery)
            await world.connect(seed & 1, 4)
            for operation in operations:
                await world.do(*operation)
            for wire in wires:
                wire.rates = (0, 0, 0, 0)
            await world.finish()
            nursery.cancel_scope.cancel()

    run(main)
