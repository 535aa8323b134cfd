"""What the far end sent along with its connection is pushed before the handshake is over."""

from __future__ import annotations

import pytest
import trio

from zks_lwip.device import memory_device_pair
from zks_lwip.stack import Flow, connect_tcp, open_stack


@pytest.mark.parametrize("size", [10, 100_000])
async def test_bytes_and_fin_pushed_with_the_accept_arrive(size: int) -> None:
    here, there = memory_device_pair()
    content = bytes(range(250)) * (size // 250 or 1)

    def push_all(flow: Flow) -> None:
        flow.accept()
        assert flow.push(content) == len(content)
        flow.send_eof()

    async with open_stack(here) as server, open_stack(there) as client:
        server.on_flow = push_all
        with trio.fail_after(20):
            stream = await connect_tcp(client, ("10.0.0.1", 40000), ("192.0.2.1", 80))
            received = bytearray()
            async for data in stream:
                received += data
        assert received == content
