"""The tunnel connects again when its way has changed, and only then."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

if sys.platform != "linux":
    pytest.skip("routes are looked up on Linux", allow_module_level=True)

from zks_lwip import roaming
from zks_lwip.host import ways
from zks_lwip.host.ways import Way, way_to
from zks_lwip.roaming import Roaming


class Carrier:
    def __init__(self, own: str = "192.0.2.10", peer: str = "203.0.113.5") -> None:
        self.own, self.peer = own, peer

    def getpeername(self) -> tuple[str, int]:
        if not self.peer:
            raise OSError("not connected any more")
        return self.peer, 443

    def getsockname(self) -> tuple[str, int]:
        return self.own, 50000


class Tunnel:
    def __init__(self) -> None:
        self.up = True
        self.carriers = [Carrier()]
        self.told: list[str] = []

    def reconnect(self, why: str) -> None:
        self.told.append(why)

    def retry(self) -> None:
        self.told.append("retry")


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tunnel = Tunnel()
        self.way: Way | None = Way(2, "192.0.2.1", "192.0.2.10")
        monkeypatch.setattr(ways, "way_to", lambda peer, mark: self.way)
        self.roaming = Roaming(self.tunnel, None)  # type: ignore[arg-type]

    async def moved(self, slept: bool = False) -> list[str]:
        self.roaming.moved(slept)
        await trio.sleep(0.05)
        told, self.tunnel.told = self.tunnel.told, []
        return told


@asynccontextmanager
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(roaming, "_LEARN_EVERY", 0.02)
    made = Bench(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.roaming.run)
        await trio.sleep(0.06)
        yield made
        nursery.cancel_scope.cancel()


async def test_changes_elsewhere_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(monkeypatch) as b:
        assert await b.moved() == []
        b.way = None  # the cable is pulled ...
        assert await b.moved() == []
        b.way = Way(2, "192.0.2.1", "192.0.2.10")  # ... and back
        assert await b.moved() == []
        b.tunnel.carriers.append(Carrier(peer=""))
        assert await b.moved() == []


@pytest.mark.parametrize(
    "way",
    [
        Way(2, "192.0.2.254", "192.0.2.10"),
        Way(3, "192.0.2.1", "192.0.2.10"),
        Way(2, "192.0.2.1", "192.0.2.11"),
    ],
)
async def test_another_way(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    async with bench(monkeypatch) as b:
        b.way = way
        assert await b.moved() == ["the way to the worker has changed"]
        b.tunnel.carriers = [Carrier(way.source)]
        assert await b.moved() == []


async def test_after_a_sleep_and_while_it_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(monkeypatch) as b:
        assert await b.moved(slept=True) == ["the machine has slept"]
        b.tunnel.up = False
        assert await b.moved() == ["retry"]


async def test_ipv4_in_ipv6_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(monkeypatch) as b:
        b.tunnel.carriers = [Carrier("::ffff:192.0.2.10", "::ffff:203.0.113.5")]
        assert await b.moved() == []


def test_the_kernel_is_asked() -> None:
    way = way_to("127.0.0.1", None)
    assert way is not None and way.source == "127.0.0.1" and way.gateway == ""
    assert way.link == socket.if_nametoindex("lo")


async def test_a_suspended_machine_is_noticed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zks_lwip.host import monitor

    slept = 100.0

    def clock(which: int) -> float:
        return slept if which == monitor.time.CLOCK_BOOTTIME else 0.0

    monkeypatch.setattr(monitor.time, "clock_gettime", clock)
    told: list[bool] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor._clock, told.append)
        await trio.sleep(20)
        assert told == []
        slept += 3600
        await trio.sleep(20)
        assert told == [True]
        nursery.cancel_scope.cancel()
