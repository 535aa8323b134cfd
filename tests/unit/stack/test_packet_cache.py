"""DNS answers that the pump repeats by itself, packet by packet."""

from __future__ import annotations

import random
import time

import pytest
import trio

from zks_lwip.stack import Datagram, PacketCache

from ...kits.packets import APP, FAR, fragments, probe, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])
KEY, ANSWER = b"the query after its id", b"the answer after its id"


@FAMILIES
async def test_repeated_with_the_id_and_the_address_asked(family: int) -> None:
    async with probe() as p:
        taken: list[list[Datagram]] = []
        p.stack.on_datagrams = taken.append
        cache = PacketCache(p.stack)
        cache.put(KEY, ANSWER, [], 0, 60)
        for ident in (b"\x00\x01", b"\xff\xfe"):
            await p.send(udp((APP[family], 5000), (FAR[family], 53), ident + KEY))
            seen = await p.receive()
            assert (seen.source, seen.destination) == (FAR[family], APP[family])
            assert seen.ports == (53, 5000) and seen.payload[8:] == ident + ANSWER
        assert cache.hits == 2 and not taken


@FAMILIES
async def test_everything_else_goes_the_usual_way(family: int) -> None:
    async with probe() as p:
        taken: list[Datagram] = []
        p.stack.on_datagrams = taken.extend
        cache = PacketCache(p.stack)
        cache.put(KEY, ANSWER, [], 0, 60)
        for port, payload in (
            (5353, b"id" + KEY),
            (53, b"id" + KEY[:-1]),
            (53, b"id" + KEY + b"x"),
            (53, b"id"),
            (53, b"i"),
            (53, b""),
            (53, b"id" + bytes(600)),
        ):
            await p.send(udp((APP[family], 5000), (FAR[family], port), payload))
            assert bytes(taken.pop().payload) == payload
        assert cache.hits == 0


async def test_forgotten_in_time_and_when_told() -> None:
    async with probe() as p:
        taken: list[Datagram] = []
        p.stack.on_datagrams = taken.extend
        cache = PacketCache(p.stack)
        packet = udp((APP[4], 5000), (FAR[4], 53), b"id" + KEY)
        cache.put(KEY, ANSWER, [], 0, 0.02)
        await trio.sleep(0.03)
        await p.send(packet)
        cache.put(KEY, ANSWER, [], 0, 0)
        await p.send(packet)
        cache.put(KEY, ANSWER, [], 0, 60)
        cache.clear()
        await p.send(packet)
        assert len(taken) == 3 and cache.hits == 0
        cache.put(KEY, ANSWER, [], 0, 60)
        cache.put(KEY, b"newer", [], 0, 60)
        await p.send(packet)
        assert (await p.receive()).payload[8:] == b"idnewer"


async def test_ttls_are_counted_down() -> None:
    async with probe() as p:
        cache = PacketCache(p.stack)
        answer = b"xx" + (300).to_bytes(4, "big") + b"yy" + (2).to_bytes(4, "big") + b"z"
        before = time.monotonic()
        cache.put(KEY, answer, [2, 8], 0.9, 60)
        put = time.monotonic()
        packet = udp((APP[4], 5000), (FAR[4], 53), b"id" + KEY)
        for wait in (0, 0.15, 1, 1):
            await trio.sleep(wait)
            least = int(0.9 + time.monotonic() - put - 0.002)
            await p.send(packet)
            seen = (await p.receive()).payload[10:]
            most = int(0.9 + time.monotonic() - before + 0.002)
            assert seen[:2] + seen[6:8] + seen[12:] == b"xxyyz"
            first, second = (int.from_bytes(seen[at : at + 4], "big") for at in (2, 8))
            assert least <= 300 - first <= most
            assert second == max(2 - (300 - first), 0)
        hits = cache.hits
        cache.put(b"over", answer, [len(answer) - 3], 0, 10)
        cache.put(b"many", bytes(400), [0] * 65, 0, 10)
        p.stack.on_datagrams = lambda batch: None
        for key in (b"over", b"many"):
            await p.send(udp((APP[4], 5000), (FAR[4], 53), b"id" + key))
        assert cache.hits == hits


async def test_bounded() -> None:
    async with probe() as p:
        p.stack.on_datagrams = lambda batch: None
        cache = PacketCache(p.stack)
        for number in range(20_000):
            cache.put(b"%d" % number, b"x" * 1230, [], 0, 60)
        cache.put(bytes(513), b"x", [], 0, 60)
        cache.put(b"large", bytes(1231), [], 0, 60)
        for key in (b"19999", bytes(513), b"large"):
            await p.send(udp((APP[4], 5000), (FAR[4], 53), b"id" + key))
        assert cache.hits == 1
    cache.put(KEY, ANSWER, [], 0, 60)  # closed: harmless
    cache.clear()
    assert cache.hits == 0


async def test_fragments_and_random_bytes_do_no_harm() -> None:
    async with probe() as p:
        taken: list[Datagram] = []
        p.stack.on_datagrams = taken.extend
        cache = PacketCache(p.stack)
        cache.put(KEY, ANSWER, [], 0, 60)
        whole = udp((APP[4], 5000), (FAR[4], 53), b"id" + KEY)
        await p.send(*fragments(whole, 16))
        assert (await p.receive()).payload[8:] == b"id" + ANSWER
        source = random.Random(1)
        for _ in range(300):
            payload = source.randbytes(source.randrange(64))
            cache.put(payload[2:], payload, [], 0, 60)
            await p.device.send([udp((APP[4], 5000), (FAR[4], 53), payload)])
        with trio.fail_after(60):
            while cache.hits <= 200:
                await trio.sleep(0.01)
