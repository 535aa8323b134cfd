"""What the kernel tells of real TCP connections."""

from __future__ import annotations

import sys

import pytest
import trio
import trio.testing

from tests.kits.tunnel import eventually
from zks_lwip.carrier.liveness import ALONE, Others
from zks_lwip.carrier.neighbours import Neighbours
from zks_lwip.carrier.tcp_info import (
    MAX_STRETCH,
    carrier_of,
    idle,
    progress,
    round_trip,
    stretched,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_INFO of Linux")


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    far = await listener.accept()
    await listener.aclose()
    return near, far


@linux_only
async def test_what_is_acknowledged_and_what_is_not() -> None:
    near, far = await pair()
    async with near, far:
        carrier = carrier_of(near)
        before = progress(carrier, 0)
        assert before is not None and before.acknowledged == before.written
        await near.send_all(b"x" * 1000)

        def acknowledged() -> bool:
            now = progress(carrier, 0)
            assert now is not None and now.written == before.written + 1000
            return now.acknowledged == now.written

        await eventually(acknowledged)  # by the kernel alone: nothing is read
        with trio.move_on_after(0.5):
            while True:
                await near.send_all(bytes(1 << 20))
        full = progress(carrier, 0)
        assert full is not None and full.acknowledged < full.written
        await trio.sleep(0.5)  # zero-window probes are answered meanwhile
        assert progress(carrier, 0) == full
        await far.receive_some(1 << 20)
        while (await far.receive_some(1 << 20)) and progress(carrier, 0) == full:
            pass
        assert carrier is not None and 0 < round_trip(carrier) < 30


@linux_only
async def test_since_when_there_has_been_nothing_to_send() -> None:
    near, far = await pair()
    async with near, far:
        carrier = near.socket
        await near.send_all(b"x" * 1000)
        await eventually(lambda: idle(carrier) >= 0.1)  # it is on its way, or the peer's
        with trio.move_on_after(0.5):
            while True:
                await near.send_all(bytes(1 << 20))
        await trio.sleep(0.1)
        assert idle(carrier) == 0
    assert idle(carrier) == 0  # closed


async def test_what_is_no_tcp_has_nothing_to_tell() -> None:
    near, _far = trio.testing.memory_stream_pair()
    assert carrier_of(near) is None
    assert progress(None, 7) is None and round_trip(None) == 0 and idle(None) == 0
    one, other = trio.socket.socketpair()
    with one, other:
        assert progress(one, 7) is None and round_trip(one) == 0 and idle(one) == 0
    assert progress(one, 7) is None and round_trip(one) == 0  # closed


def test_times_follow_the_round_trip() -> None:
    assert stretched(10, 3, 0) == 10
    assert stretched(10, 3, 0.1) == pytest.approx(10.3)
    assert stretched(10, 3, 12) == 46
    assert stretched(10, 3, 1000) == MAX_STRETCH
    assert stretched(100, 3, 1000) == 100


class Connection:
    def __init__(self, carrier: trio.socket.SocketType | None, last_heard: float) -> None:
        self.carrier = carrier
        self.last_heard = last_heard


@linux_only
async def test_what_the_connections_to_a_peer_know(autojump_clock: None) -> None:
    near, far = await pair()
    async with near, far:
        looked = 0

        def connections() -> list[tuple[str, Connection]]:
            nonlocal looked
            looked += 1
            return [("a", Connection(near.socket, 3)), ("b", Connection(None, 7)),
                    ("a", Connection(None, 5))]  # fmt: skip

        neighbours = Neighbours(connections)
        assert neighbours.of("a").round_trip > 0 and neighbours.of("a").heard == 5
        assert neighbours.of("b") == Others(0, 7)
        assert neighbours.of("c") == ALONE
        assert looked == 1, "it looks at all of them each time"
        await trio.sleep(1.1)
        assert neighbours.of("a").round_trip > 0 and looked == 2
