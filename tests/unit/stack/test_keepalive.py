"""Quiet connections: whether the application still has them is asked of its kernel (RFC 9293
§3.8.4).
"""

from __future__ import annotations

import pytest
import trio

from zks_lwip.errors import StackError
from zks_lwip.stack import TcpListener, TcpStream

from ...kits.packets import ACK, FIN, PSH, RST, Connection, Probe, Seen, connect, probe
from ...kits.wires import PUMPS, wire

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PERIOD = 70.0  # seconds: the default
RETRY = 15.0
TIMES = 20  # probes in vain


def is_probe(c: Connection, segment: Seen) -> bool:
    """An empty segment from just before the window, which a kernel answers."""
    return (segment.flags, segment.seq, segment.data) == (ACK, c.ack - 1, b"")


async def time_of_probe(p: Probe, c: Connection, seconds: float = 2 * PERIOD) -> float:
    """Seconds until the next probe, and nothing before it."""
    start = trio.current_time()
    assert is_probe(c, await p.receive(seconds))
    return trio.current_time() - start


async def reset(c: Connection) -> None:
    """As a kernel answers a segment whose connection it does not know."""
    await c.probe.send(c.segment(RST, ack=0))


@FAMILIES
async def test_a_quiet_application_is_asked_and_stays(family: int, autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, family)
        for _ in range(3):
            assert PERIOD * 15 / 16 <= await time_of_probe(p, c) <= PERIOD + 1
            await p.send(c.segment())
        assert c.handler.log == []
        assert (p.counter("flows"), p.counter("keepalive_probes")) == (1, 3)


@FAMILIES
async def test_a_kernel_that_has_forgotten_it_ends_it(family: int, autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, family)
        await time_of_probe(p, c)
        await reset(c)
        assert c.handler.log == ["reset"]
        assert p.counter("flows") == 0


async def test_a_half_closed_one_that_is_forgotten_ends_in_order(autojump_clock) -> None:
    """Its last bytes, which have not been taken yet, are not lost."""
    async with probe() as p:
        c = await connect(p)
        await c.send(b"last", FIN | PSH | ACK)
        assert (await p.receive()).ack == c.seq
        # Linux forgets it after 60 s, and up to 4 more.
        assert 64.5 <= await time_of_probe(p, c) <= PERIOD + 1
        await reset(c)
        assert c.handler.log == ["readable", "closed"]
        assert c.handler.read() == b"last"
        assert c.flow.pull_into(bytearray(10)) is None
        await trio.sleep(1)
        assert p.counter("flows") == 0


async def test_a_stream_whose_other_end_is_gone_can_be_read_to_its_end(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        stream = TcpStream(c.flow)
        await c.send(b"last", FIN | PSH | ACK)
        await p.receive()
        await time_of_probe(p, c)
        await reset(c)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
            await stream.send_all(b"never taken")
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""


async def test_one_that_is_half_closed_and_waits_stays(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        await c.send(b"question", FIN | PSH | ACK)
        await p.receive()
        for _ in range(10):
            await time_of_probe(p, c)
            await p.send(c.segment())
        c.flow.push(b"answer")
        assert (await p.receive()).data == b"answer"


async def test_one_that_has_not_closed_its_side_is_asked(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.send_eof()
        assert (await p.receive()).flags & FIN
        c.ack += 1
        await p.send(c.segment())
        await time_of_probe(p, c)
        await p.send(c.segment())
        await time_of_probe(p, c)
        await reset(c)
        assert c.handler.log == ["reset"]


async def test_silence_is_asked_again_and_again_before_it_is_the_end(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        await time_of_probe(p, c)
        for _ in range(TIMES - 1):
            assert RETRY <= await time_of_probe(p, c) <= RETRY + 1
            assert c.handler.log == []
        last = await p.receive(RETRY + 1)
        assert last.flags & RST and last.seq == c.ack
        assert c.handler.log == ["reset"]
        assert (p.counter("flows"), p.counter("keepalive_ended")) == (0, 1)


@pytest.mark.parametrize("window", [65535, 0])
async def test_who_does_not_even_acknowledge_is_gone_as_soon(window: int, autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        await p.send(c.segment(window=window))
        assert c.flow.push(b"are you there?") == 14
        await trio.sleep(285)
        assert c.handler.log == []
        # Its kernel says that it is there, but takes nothing: that is no end.
        await p.send(c.segment(window=window))
        await trio.sleep(285)
        assert c.handler.log == []
        with trio.fail_after(120):
            while c.handler.log != ["reset"]:
                await trio.sleep(1)
        assert p.counter("flows") == 0


async def test_one_answer_in_twenty_is_enough(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        for _ in range(3):
            for _ in range(TIMES):
                await time_of_probe(p, c)
            await p.send(c.segment())
        assert await time_of_probe(p, c) >= PERIOD * 15 / 16
        assert c.handler.log == []


async def test_a_reset_out_of_order_is_no_answer(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        for _ in range(TIMES):
            await time_of_probe(p, c)
            await p.send(c.segment(RST, seq=c.seq - 5))
        assert (await p.receive(RETRY + 1)).flags & RST
        assert c.handler.log == ["reset"]


async def test_who_speaks_is_not_asked(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        for _ in range(10):
            await trio.sleep(PERIOD * 0.9)
            await c.send(b"a")
            assert (await p.receive()).ack == c.seq
        assert p.counter("keepalive_probes") == 0
        assert await time_of_probe(p, c) >= PERIOD * 15 / 16


async def test_what_we_do_is_no_sign_of_the_applications_life(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        for _ in range(8):
            await c.send(bytes(1000))
            await p.receive()
        for _ in range(7):
            await trio.sleep(9)
            assert c.flow.pull_into(bytearray(1000)) == 1000
        assert await time_of_probe(p, c, 10) <= 8


async def test_nothing_is_asked_when_it_is_off(autojump_clock) -> None:
    async with probe(keepalive=0) as p:
        c = await connect(p)
        await p.silence(5_000)
        assert c.handler.log == []


async def test_probes_of_many_are_spread_and_bounded(autojump_clock) -> None:
    """Never more at a time than a device's queue takes answers."""
    count = 1000
    async with probe() as p:
        flows = [await connect(p, port=10_000 + i) for i in range(count)]
        await trio.sleep(PERIOD - 1)
        asked = [0]
        while asked[-1] < count:
            await trio.sleep(0.25)
            asked.append(p.counter("keepalive_probes"))
            assert len(asked) < 4 * PERIOD
        assert max(b - a for a, b in zip(asked, asked[1:], strict=False)) <= 2 * 128
        for c in flows:
            await p.send(c.segment(RST, ack=0))
        assert p.counter("flows") == 0


@pytest.mark.parametrize("pump", PUMPS)
async def test_two_stacks_keep_each_other(pump: str) -> None:
    """lwIP's own answer, with real time and the shortest period."""
    async with wire(pump, keepalive=1) as w:
        client, server = await w.connect(TcpListener(w.b))
        with trio.fail_after(60):
            while min(s.stats()["keepalive_probes"] for s in (w.a, w.b)) < 3:
                await trio.sleep(0.1)
        await client.send_all(b"still there")
        assert await server.receive_some() == b"still there"


@pytest.mark.parametrize("seconds", [-1, 0.5, 86401, float("nan"), float("inf")])
async def test_periods_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(StackError, match="keepalive"):
        async with probe(keepalive=seconds):
            pass


@pytest.mark.parametrize("seconds", [1, 86400])
async def test_the_ends_of_the_range(seconds: float, autojump_clock) -> None:
    async with probe(keepalive=seconds) as p:
        await connect(p)
        start = trio.current_time()
        with trio.move_on_after(500):
            await p.receive(500)
        assert trio.current_time() - start >= min(seconds * 15 / 16, 500)
