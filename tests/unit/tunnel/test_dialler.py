"""Attempts at a worker that does not answer: which of them does what, and when."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from zks_lwip.net.backoff import Backoff
from zks_lwip.protocol import Hello
from zks_lwip.tunnel.attempts import outage_interval
from zks_lwip.tunnel.dialler import Dialler

from ...kits.cutter import cutting
from ...kits.tunnel import quick

SECONDS = 3.0
_TCP, _FASTOPEN_CONNECT = 6, 30


class Seen:
    """The sockets that attempts have made, and when; whether each sends early."""

    def __init__(self) -> None:
        self.made: list[tuple[float, bool]] = []

    def configure(self, sock: trio.socket.SocketType, address: str, port: int) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(self._look, trio.current_time(), sock)

    def _look(self, when: float, sock: trio.socket.SocketType) -> None:
        self.made.append((when, bool(sock.getsockopt(_TCP, _FASTOPEN_CONNECT))))

    def whole(self, early: bool) -> list[int]:
        """The milliseconds between those attempts."""
        times = [when for when, sent_early in self.made if sent_early == early]
        pairs = zip(times[:-1], times[1:], strict=True)
        return [round((after - before) * 1000) for before, after in pairs]


@asynccontextmanager
async def attempting(
    seen: Seen, url: str, address: str | None, **config: Any
) -> AsyncIterator[None]:
    """Attempts at a session, in an outage."""
    async with trio.open_nursery() as nursery:
        dialler = Dialler(quick(url, configure_socket=seen.configure, **config), nursery)
        attempts = dialler.attempts(
            interval=lambda: outage_interval(0.0),
            backoff=Backoff(1.0, 1.0),
            failed=lambda error, delay: None,
            session="the-session",
            hello=lambda: Hello(session="the-session", attempt=1),
            address=address,
            detached=lambda: True,
        )
        nursery.start_soon(attempts.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="TCP Fast Open is Linux's here")
async def test_what_does_not_send_early_stands_beside(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It takes no time from those that do, one of which is the first when the network is back."""
    seen = Seen()
    async with cutting(1) as path:
        path.blackhole()
        async with attempting(seen, path.url(), None, fast_open=True):
            await trio.sleep(SECONDS)
    early, late = seen.whole(True), seen.whole(False)
    assert set(early) == {25} and len(early) > 100
    assert len(late) > 10


async def test_a_look_up_stands_beside(autojump_clock: trio.testing.MockClock) -> None:
    """It may find nothing for as long as there is no network, nor for a while then."""
    asked = 0

    async def resolve(name: str) -> list[str]:
        nonlocal asked
        asked += 1
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    seen = Seen()
    async with cutting(1) as path:
        path.blackhole()
        url = path.url().replace("127.0.0.1", "worker.test")
        async with attempting(seen, url, "127.0.0.1", plaintext=True, resolve=resolve):
            await trio.sleep(SECONDS)
    assert set(seen.whole(False)) == {25}
    assert asked > 10
