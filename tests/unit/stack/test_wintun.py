"""The C pump on the rings of Wintun, whose driver is played."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

if sys.platform == "win32" or shutil.which("gcc") is None:
    pytest.skip("the rings are played by C for gcc and POSIX", allow_module_level=True)

from zks_lwip.device import WintunRing
from zks_lwip.errors import DeviceError
from zks_lwip.stack import Datagram, Flow, Stack, open_stack

from ...kits.packets import ACK, APP, FAR, PSH, RST, SYN, Recorder, Seen, parse, tcp, udp
from ...kits.wintun import FakeWintun

T = TypeVar("T")
FAMILIES = pytest.mark.parametrize("family", [4, 6])


async def in_thread(function: Callable[[], T]) -> T:
    with trio.fail_after(90):
        return await trio.to_thread.run_sync(function)


async def receive(wintun: FakeWintun) -> Seen:
    return parse(await in_thread(wintun.take))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.001)


async def connect(wintun: FakeWintun, flows: list[Flow], family: int = 4) -> tuple[Recorder, int]:
    """A connection of an application's; what its flow is told, and the stack's first number."""
    source, destination = (APP[family], 40000), (FAR[family], 80)
    assert wintun.put(tcp(source, destination, SYN, 1000))
    await until(lambda: bool(flows))
    handler = Recorder(flows[0])
    flows[0].accept()
    answer = await receive(wintun)
    assert (answer.flags, answer.ack, answer.ports) == (SYN | ACK, 1001, (80, 40000))
    assert wintun.put(tcp(source, destination, ACK, 1001, answer.seq + 1))
    await until(lambda: "established" in handler.log)
    return handler, answer.seq + 1


@FAMILIES
async def test_a_connection_goes_round_the_rings(family: int) -> None:
    """300 KB each way: both rings, of 128 KiB, wrap; no packet stays held."""
    with FakeWintun() as wintun:
        async with open_stack(wintun) as stack:
            flows: list[Flow] = []
            stack.on_flow = flows.append
            handler, theirs = await connect(wintun, flows, family)
            source, destination = (APP[family], 40000), (FAR[family], 80)
            data = os.urandom(300_000)
            got, sent = b"", 0
            while sent < len(data):
                part = data[sent : sent + 1000]
                assert wintun.put(tcp(source, destination, ACK | PSH, 1001 + sent, theirs, part))
                sent += len(part)
                if sent % 20_000 == 0 or sent == len(data):
                    with trio.fail_after(60):
                        while len(got) < sent:
                            got += handler.read()
                            await trio.sleep(0)
            assert got == data

            back, pushed = bytearray(), 0
            while len(back) < len(data):
                pushed += flows[0].push(data[pushed : pushed + 4000])
                seen = await receive(wintun)
                at = (seen.seq - theirs) & 0xFFFFFFFF
                if seen.data and at == len(back):
                    back += seen.data
                    acked = theirs + len(back) & 0xFFFFFFFF
                    assert wintun.put(tcp(source, destination, ACK, 1001 + sent, acked))
            assert bytes(back) == data
        assert wintun.held == 0


async def test_datagrams() -> None:
    with FakeWintun() as wintun:
        async with open_stack(wintun) as stack:
            seen: list[Datagram] = []
            stack.on_datagrams = seen.extend
            assert wintun.put(udp((APP[4], 5000), (FAR[4], 53), b"question"))
            await until(lambda: bool(seen))
            assert (seen[0].source, seen[0].payload) == ((APP[4], 5000), b"question")
            stack.send_datagram((FAR[4], 53), (APP[4], 5000), b"answer" * 400)
            first, second = await receive(wintun), await receive(wintun)
            assert len(first.raw) <= 1500 and b"answer" in first.payload and second.payload


async def test_a_full_ring_loses_packets() -> None:
    with FakeWintun() as wintun:
        async with open_stack(wintun) as stack:
            for _ in range(200):
                stack.send_datagram((FAR[4], 53), (APP[4], 5000), bytes(1000))
            lost = stack.stats()["output_dropped"]
            assert 0 < lost < 200
            for _ in range(200 - lost):
                assert len(wintun.take()) == 1028
        assert wintun.held == 0


async def test_the_pump_sleeps_until_a_timer_is_wanted() -> None:
    """Nothing to do: no wake-up at all. A flow that is opened from here: its timers run."""
    with FakeWintun() as wintun:
        async with open_stack(wintun) as stack:
            assert await in_thread(wintun.waits)
            flow = stack.connect((FAR[4], 443), (APP[4], 9000))
            Recorder(flow)
            assert await in_thread(lambda: wintun.waits(250))
            syn = await receive(wintun)
            assert syn.flags == SYN
            again = await receive(wintun)
            assert (again.flags, again.seq) == (SYN, syn.seq)


async def fails(stack: Stack, device: FakeWintun, message: str, then: Callable[[], None]) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(stack.run)
            assert await in_thread(device.waits)
            then()
            with trio.fail_after(60):
                await trio.sleep_forever()
    assert caught.group_contains(DeviceError, match=message)


async def test_an_adapter_that_goes() -> None:
    with FakeWintun() as wintun:
        await fails(Stack(wintun), wintun, "device has failed: No such device", wintun.remove)


async def test_a_ring_that_makes_no_sense() -> None:
    with FakeWintun() as wintun:
        await fails(Stack(wintun), wintun, "device has failed: Input/output", wintun.corrupt)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(WintunRing)])
def test_a_session_that_is_not_whole(name: str) -> None:
    with FakeWintun() as wintun:
        wintun.ring = dataclasses.replace(wintun.ring, **{name: 0})
        with pytest.raises(DeviceError, match="session of Wintun is not open"):
            Stack(wintun)


async def test_what_is_left_is_reset_by_the_rings() -> None:
    with FakeWintun() as wintun:
        async with open_stack(wintun) as stack:
            flows: list[Flow] = []
            stack.on_flow = flows.append
            await connect(wintun, flows)
        assert parse(wintun.take()).flags & RST
