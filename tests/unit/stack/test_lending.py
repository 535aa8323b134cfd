"""The pump's device, lent to the thread of trio while packets are few."""

from __future__ import annotations

import select
import socket

import pytest
import trio

from zks_lwip.device import GivenTun
from zks_lwip.stack import Stack, open_stack

from ...kits.packets import APP, FAR, echo_request

if not hasattr(select, "epoll"):
    pytest.skip("it is lent where callbacks need no task", allow_module_level=True)

PING = echo_request(APP[4], FAR[4], 1, 2, b"x")


async def borrow(stack: Stack, far: socket.socket) -> None:
    """Ping until trio's thread has taken one of the packets itself."""
    before = stack.stats()["packets_borrowed"]
    with trio.fail_after(60):
        while stack.stats()["packets_borrowed"] == before:
            far.send(PING)
            await trio.lowlevel.wait_readable(far)
            assert far.recv(1 << 16)


async def test_the_pump_takes_the_device_back_from_a_thread_that_is_busy() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        async with open_stack(GivenTun(near.fileno(), 1500, "raw"), icmp="reply") as stack:
            for _ in range(5):
                await borrow(stack, far)
                far.settimeout(60)
                far.send(PING)
                assert far.recv(1 << 16)  # no checkpoint: trio's thread takes no packets
                far.setblocking(False)
