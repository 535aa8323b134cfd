"""What is asked of the kernel about the way out, and when the machine has slept."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
from trio.testing import MockClock

if sys.platform != "linux":
    pytest.skip("routes are looked up on Linux", allow_module_level=True)

from zks_lwip.host.linux.route_lookup import next_hop
from zks_lwip.host.monitor import watch_clock


def test_the_kernel_is_asked() -> None:
    hop = next_hop("127.0.0.1", None)
    assert hop is not None and hop.source == "127.0.0.1" and hop.gateway == ""
    assert hop.link == socket.if_nametoindex("lo")


async def test_a_suspended_machine_is_noticed(autojump_clock: MockClock) -> None:
    slept = 100.0
    told: list[bool] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_clock, told.append, lambda: slept)
        await trio.sleep(20)
        assert told == []
        slept += 3600
        await trio.sleep(20)
        assert told == [True]
        nursery.cancel_scope.cancel()
