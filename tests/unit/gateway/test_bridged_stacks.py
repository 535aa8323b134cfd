"""Bytes between applications and far ends, as C moves them: lwIP at both ends of a wire, pumped by
threads of their own, a bridge for each connection, and two sessions without a WebSocket.
"""

from __future__ import annotations

import random
import socket
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import trio

from tests.kits.session import Bytes
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.flow_table import FlowTable
from zks_lwip.gateway.policy import FlowPolicy
from zks_lwip.gateway.tcp import TcpBridge
from zks_lwip.protocol import (
    DataReceived,
    EofReceived,
    Event,
    Role,
    Session,
    Settings,
    StreamConnected,
    StreamOpened,
)
from zks_lwip.stack import Flow, Stack, TcpStream, open_stack, open_tcp_stream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs SOCK_SEQPACKET")


@dataclass
class WireEnd:
    """One end of a wire that keeps packets apart, as a device for a C pump."""

    fd: int
    mtu: int = 65535
    framing: Literal["raw"] = "raw"


class Stream:
    """A stream of the client's session; its bridge is the peer."""

    def __init__(self, session: Session, host: str, port: int, peer: TcpBridge) -> None:
        self.session = session
        self.peer = peer
        self.connected = False
        self.id = session.connect(host, port, self)

    def pull_into(self, view: memoryview) -> int | None:
        return self.peer.pull_into(view) if self.connected else 0

    def broke(self, errno: int, *, pushing: bool) -> None:
        raise AssertionError(f"a flow has no errno {errno}")

    def mark_ready(self) -> None:
        self.session.mark_ready(self.id)

    def consumed(self, n: int) -> None:
        self.session.consumed(self.id, n)

    def bind(self, target: Any, handle: int, **directions: bool) -> None:
        self.session.bind(self.id, target, handle, **directions)

    def unbind(self) -> None:
        self.session.unbind(self.id)

    def close(self) -> None:
        self.session.close(self.id)


class Carriage:
    """Both sessions. The far end of each port sends ``down`` of it, and ``up`` is what it gets."""

    hopeless = False

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        settings = Settings(window=1 << 20)
        self.client = Session(Role.CLIENT, settings)
        self.worker = Session(Role.WORKER, settings)
        self.chance = chance
        self.down: dict[int, bytes] = {}
        self.up: dict[int, bytearray] = {}
        self._port: dict[int, int] = {}
        self._streams: dict[int, Stream] = {}
        self._counters = GatewayCounters()
        self._table = FlowTable(100, self._counters)
        stack.on_flow = self._on_flow
        self.client.attach()
        self.worker.attach()
        for sender, receiver in ((self.client, self.worker), (self.worker, self.client)):
            receiver.receive(sender.next_message() or b"")  # HELLO

    def _on_flow(self, flow: Flow) -> None:
        bridge = TcpBridge(flow, self._table)
        bridge.start(self, FlowPolicy(), fast_connect=False)

    def open_stream(self, host: str, port: int, peer: TcpBridge, *, marked: bool = True) -> Stream:
        stream = Stream(self.client, host, port, peer)
        return self._streams.setdefault(stream.id, stream)

    async def run(self) -> None:
        """Carry messages. A busy link pauses between the events of one, too."""
        ends = ((self.client, self.worker, self._at_worker), (self.worker, self.client, self._here))
        while True:
            for sender, receiver, act in ends:
                message = sender.next_message(self.chance.choice([4096, 20_000, 100_000, 1 << 18]))
                for event in receiver.work_through(message) if message else ():
                    if event is not None:
                        act(event)
                    if self.chance.random() < 0.3:
                        await trio.sleep(self.chance.choice([0, 0, 0.0005]))
            await trio.sleep(0)

    def _at_worker(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self._port[event.stream] = event.port
            self.up[event.port] = bytearray()
            self.worker.accept(event.stream, Bytes(self.down[event.port], end=True, most=70_000))
            self.worker.connected(event.stream)
            self.worker.mark_ready(event.stream)
        elif isinstance(event, DataReceived):
            self.up[self._port[event.stream]] += event.payload
            self.worker.consumed(event.stream, len(event.payload))

    def _here(self, event: Event) -> None:
        if isinstance(event, StreamConnected):
            stream = self._streams[event.stream]
            stream.connected = True
            stream.peer.on_connected()
            stream.mark_ready()
        elif isinstance(event, DataReceived):
            self._streams[event.stream].peer.on_data(event.payload)
        elif isinstance(event, EofReceived):
            self._streams[event.stream].peer.on_eof()


@pytest.mark.parametrize("seed", range(8))
async def test_bytes_stay_in_order_where_the_stack_takes_little_at_a_time(seed: int) -> None:
    """As with thousands of connections, which leave none of the budget; the pump's thread makes
    room at any moment."""
    chance = random.Random(seed)
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ends[0], ends[1], trio.fail_after(120):
        async with (
            open_stack(WireEnd(ends[0].fileno())) as applications,
            open_stack(WireEnd(ends[1].fileno()), max_memory=1) as stack,
            trio.open_nursery() as carrying,
        ):
            carriage = Carriage(stack, chance)
            carrying.start_soon(carriage.run)

            async def transfer(port: int) -> None:
                up, carriage.down[port] = chance.randbytes(500_000), chance.randbytes(500_000)
                stream = await open_tcp_stream(
                    applications, "203.0.113.7", port, source=("198.18.0.1", 0)
                )
                down = bytearray()
                async with stream, trio.open_nursery() as sending:
                    sending.start_soon(send, stream, up)
                    async for data in stream:
                        down += data
                assert len(down) == len(carriage.down[port])
                same = down == carriage.down[port]
                assert same, "what came to the application differs from what was sent"
                while len(carriage.up[port]) < len(up):
                    await trio.sleep(0.001)
                same = carriage.up[port] == up
                assert same, "what came to the far end differs from what was sent"

            for port in range(1, 9, 2):  # of two streams each has several DATA in one message
                async with trio.open_nursery() as transfers:
                    transfers.start_soon(transfer, port)
                    transfers.start_soon(transfer, port + 1)
            carrying.cancel_scope.cancel()


async def send(stream: TcpStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()
