"""A pause opens the host, and is ended by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from zks_lwip.daemon.pause import LOOK_SECONDS, Pauses
from zks_lwip.errors import HostError


class Host:
    def __init__(self) -> None:
        self.open = False
        self.failures = 0

    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()
        self.open = True
        if self.failures < 0:
            raise HostError("half open")

    async def resume(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures > 0:
            self.failures -= 1
            raise HostError("nft failed")
        self.open = False


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def pauses(host: Host, nursery: trio.Nursery) -> AsyncIterator[Pauses]:
    running = Pauses(host, clock=trio.current_time)
    nursery.start_soon(running.run)
    yield running


async def test_it_ends_by_itself(host: Host, pauses: Pauses, autojump_clock: MockClock) -> None:
    assert pauses.status() is None
    await pauses.begin(300)
    assert host.open and pauses.active
    await trio.sleep(299)
    status = pauses.status()
    assert status is not None and status["active"] and 0.9 < status["seconds_left"] < 1.1
    await trio.sleep(2)
    assert not host.open and not pauses.active
    status = pauses.status()
    assert status is not None and status["ended"] and status["how"] == "its time was over"


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(
            "darwin",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="clock_gettime is not there"),
        ),
        "win32",
    ],
)
async def test_other_systems_have_other_clocks(
    system: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    pauses = Pauses(host)
    await pauses.begin(300)
    status = pauses.status()
    assert host.open and status is not None and 290 < status["seconds_left"] <= 300


async def test_it_is_ended_when_asked(
    host: Host, pauses: Pauses, autojump_clock: MockClock
) -> None:
    assert await pauses.end("asked for") is False
    await pauses.begin(300)
    assert await pauses.end("asked for") is True
    assert not host.open
    await trio.sleep(400)
    status = pauses.status()
    assert status is not None and status["how"] == "asked for"


async def test_asking_again_begins_the_time_anew(
    host: Host, pauses: Pauses, autojump_clock: MockClock
) -> None:
    await pauses.begin(300)
    await trio.sleep(200)
    await pauses.begin(300)
    await trio.sleep(200)
    assert host.open
    await trio.sleep(101)
    assert not host.open


async def test_closing_is_not_given_up(
    host: Host,
    pauses: Pauses,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await pauses.begin(10)
    host.failures = 3
    await trio.sleep(12)
    assert host.open and "the host is still open: nft failed" in caplog.text
    await trio.sleep(2)
    assert not host.open


async def test_what_cannot_be_opened_whole_is_closed(
    host: Host, pauses: Pauses, autojump_clock: MockClock
) -> None:
    host.failures = -1
    with pytest.raises(HostError, match="half open"):
        await pauses.begin(10)
    assert not host.open and not pauses.active


async def test_time_goes_on_while_the_machine_sleeps(
    host: Host, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    slept = 0.0
    running = Pauses(host, clock=lambda: trio.current_time() + slept)
    nursery.start_soon(running.run)
    await running.begin(300)
    await trio.sleep(10)
    slept = 1000.0
    await trio.sleep(LOOK_SECONDS + 0.1)
    assert not host.open
