"""The tunnel connects again when its way has changed, and only then."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

if sys.platform != "linux":
    pytest.skip("routes are looked up on Linux", allow_module_level=True)

from tests.kits.tunnel import eventually
from zks_lwip.host.reports import NextHop
from zks_lwip.vpn.roaming import Roaming


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
    def __init__(self) -> None:
        self.tunnel = Tunnel()
        self.way: NextHop | None = NextHop(2, "192.0.2.1", "192.0.2.10")
        self.looked = 0
        self.roaming = Roaming(
            self.tunnel,  # type: ignore[arg-type]
            None,
            look_up=self.look_up,
            learn_seconds=0.02,
        )

    def look_up(self, peer: str, mark: int | None) -> NextHop | None:
        self.looked += 1
        return self.way

    async def has_looked(self, before: int) -> None:
        """Wait until what was looked up is known."""
        limiter = trio.to_thread.current_default_thread_limiter()
        await eventually(lambda: self.looked > before and not limiter.borrowed_tokens)

    async def moved(self, slept: bool = False) -> list[str]:
        before = self.looked
        self.roaming.moved(slept)
        if self.tunnel.up and not slept:
            await self.has_looked(before)
        await trio.sleep(0.05)
        told, self.tunnel.told = self.tunnel.told, []
        return told


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.roaming.run)
        await made.has_looked(0)
        await trio.sleep(0.06)
        yield made
        nursery.cancel_scope.cancel()


async def test_changes_elsewhere_do_not_disturb_the_tunnel() -> None:
    async with bench() as b:
        assert await b.moved() == []
        b.way = None  # the cable is pulled ...
        assert await b.moved() == []
        b.way = NextHop(2, "192.0.2.1", "192.0.2.10")  # ... and back
        assert await b.moved() == []
        b.tunnel.carriers.append(Carrier(peer=""))
        assert await b.moved() == []


@pytest.mark.parametrize(
    "way",
    [
        NextHop(2, "192.0.2.254", "192.0.2.10"),
        NextHop(3, "192.0.2.1", "192.0.2.10"),
        NextHop(2, "192.0.2.1", "192.0.2.11"),
    ],
)
async def test_another_way(way: NextHop) -> None:
    async with bench() as b:
        b.way = way
        assert await b.moved() == ["the way to the worker has changed"]
        b.tunnel.carriers = [Carrier(way.source)]
        assert await b.moved() == []


async def test_after_a_sleep_and_while_it_is_down() -> None:
    async with bench() as b:
        assert await b.moved(slept=True) == ["the machine has slept"]
        b.tunnel.up = False
        assert await b.moved() == ["retry"]


async def test_ipv4_in_ipv6_sockets() -> None:
    async with bench() as b:
        b.tunnel.carriers = [Carrier("::ffff:192.0.2.10", "::ffff:203.0.113.5")]
        assert await b.moved() == []
