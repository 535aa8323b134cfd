"""Large segments to a device that cuts them itself, which a pair of sockets stands for."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
import trio
import trio.testing

if sys.platform == "win32":
    pytest.skip("descriptors are not Windows'", allow_module_level=True)

from zks_lwip.device import GivenTun
from zks_lwip.protocol import Data, Hello
from zks_lwip.stack import Flow, open_stack

from ...kits.packets import ACK, APP, FAR, SYN, Recorder, mss, tcp, wscale
from ...kits.session import Bytes, client, parse

HEADER = struct.Struct("=BBHHHH")
"""virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
TCPV4 = 1


def bulk_frames(streams: int) -> list[int]:
    """Return the bytes of DATA in each frame of a message of streams that have much to send."""
    session = client(peer=Hello(window=1 << 24, max_data=1 << 18))
    for number in range(1, streams + 1):
        session.connect("h", number, Bytes(bytes(2_000_000)))
        session.mark_ready(number)
    session.next_message()
    message = session.next_message(1 << 18)
    assert message is not None
    return [len(frame.payload) for frame in parse(message) if isinstance(frame, Data)]


def test_messages_of_bulk_hold_whole_frames() -> None:
    """A short one at the end would cost the receiver as much as those before it."""
    (size,) = {*bulk_frames(2), *bulk_frames(3)}
    assert len(bulk_frames(2)) == len(bulk_frames(3)) == 4
    assert bulk_frames(1) == [4 * size]


@pytest.mark.parametrize("streams", [1, 2])
async def test_frames_of_bulk_leave_as_whole_packets(streams: int) -> None:
    """A remnant behind each would cost the kernel as much as the packet before it."""
    frames, size = bulk_frames(streams), bulk_frames(2)[0]
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    source, destination, segment = (APP[4], 40000), (FAR[4], 80), 1460
    flows: list[Flow] = []
    with near, trio.socket.from_stdlib_socket(far) as wire, trio.fail_after(60):
        async with open_stack(GivenTun(near.fileno(), 1500, "vnet")) as stack:
            stack.on_flow = flows.append
            options = mss(segment) + wscale(7)
            await wire.send(bytes(10) + tcp(source, destination, SYN, 1000, options=options))
            while not flows:
                await trio.testing.wait_all_tasks_blocked(0.01)
            handler = Recorder(flows[0])
            flows[0].accept()
            answer = await wire.recv(1 << 16)
            start = int.from_bytes(answer[34:38], "big") + 1
            await wire.send(bytes(10) + tcp(source, destination, ACK, 1001, start))
            while handler.log != ["established"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
            for frame in frames:
                flows[0].push(bytes(frame))
            for _ in range(4):
                packet = await wire.recv(1 << 17)
                _, kind, header, each, _, _ = HEADER.unpack_from(packet)
                assert (kind, each, len(packet) - 10 - header) == (TCPV4, segment, size)
