"""What the far end sent along with its connection is pushed before the handshake is over."""

from __future__ import annotations

import pytest
import trio

from zks_lwip.device import memory_device_pair
from zks_lwip.stack import Flow, TcpStream, connect_tcp, open_stack

from ...kits.packets import ACK, APP, FAR, RST, SYN, parse, tcp


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
        with trio.fail_after(60):
            stream = await connect_tcp(client, ("10.0.0.1", 40000), ("192.0.2.1", 80))
            received = bytearray()
            async for data in stream:
                received += data
        assert received == content


@pytest.mark.parametrize("together", [True, False])
async def test_a_connection_that_is_reset_at_once_was_a_connection(together: bool) -> None:
    """Whether the reset is noticed with the handshake or after it was left to chance."""
    here, there = memory_device_pair()
    async with open_stack(here) as stack:
        streams: list[TcpStream] = []

        async def connect() -> None:
            streams.append(await connect_tcp(stack, (FAR[4], 80), (APP[4], 40000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            syn = parse((await there.__anext__())[0])
            source, destination = (APP[4], 40000), (FAR[4], 80)
            packets = [
                tcp(source, destination, SYN | ACK, 500, syn.seq + 1),
                tcp(source, destination, RST, 501),
            ]
            for batch in [packets] if together else [[packet] for packet in packets]:
                await there.send(batch)
        with pytest.raises(trio.BrokenResourceError):
            await streams[0].receive_some()
