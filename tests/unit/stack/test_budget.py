"""How much connections may hold, together and each."""

from __future__ import annotations

from ...kits.packets import (
    ACK,
    APP,
    FAR,
    SYN,
    Connection,
    Probe,
    Recorder,
    connect,
    mss,
    probe,
    tcp,
    wscale,
)

LEAST = 16 << 10  # bytes, of each direction
OPTIONS = mss(1460) + wscale(7)


async def test_windows_shrink_as_the_budget_fills_and_each_keeps_some() -> None:
    memory = 4 << 20
    async with probe(max_memory=memory, max_flows=3000) as p:
        told = []
        for port in range(2000):
            c = await _open(p, 10_000 + port, told)
            c.flow.push(bytes(1 << 20))  # none of it is acknowledged
            await p.drain()
        assert told[0] == LEAST  # of 4 MiB, a newcomer gets not more
        assert p.stack.memory == p.counter("memory")
        # The pieces that a push makes have a price, too.
        assert memory <= p.stack.memory <= memory + 2000 * (2 * LEAST + 4096)
        for flow in p.flows:
            flow.abort()
        assert p.stack.memory == 0


async def _open(p: Probe, port: int, told: list[int]) -> Connection:
    """As ``connect``; what the SYN's answer says of the window goes to ``told``."""
    source, destination = (APP[4], port), (FAR[4], 80)
    await p.send(tcp(source, destination, SYN, 1000, options=OPTIONS))
    flow = p.flows[-1]
    handler = Recorder(flow)
    flow.accept()
    answer = await p.receive()
    told.append(answer.window)
    connection = Connection(p, flow, handler, source, destination, 1001, answer.seq + 1)
    await p.send(connection.segment(ACK, window=0))
    return connection


async def test_a_newcomer_gets_more_where_much_is_left() -> None:
    async with probe(max_memory=128 << 20) as p:
        told: list[int] = []
        await _open(p, 10_000, told)
        assert told == [65_520]
    async with probe(max_memory=8 << 20) as p:
        told = []
        await _open(p, 10_000, told)
        assert told == [32 << 10]


async def test_what_one_holds_is_what_is_left_for_the_others() -> None:
    """A push takes less the more others hold, and never less than the least."""
    memory = 1 << 20
    async with probe(max_memory=memory) as p:
        taken = []
        for port in range(12):
            c = await _open(p, 10_000 + port, [])
            taken.append(c.flow.push(bytes(1 << 20)))
            await p.drain()
        assert taken == sorted(taken, reverse=True)
        assert taken[0] > memory // 3 and taken[-1] >= LEAST - 4096
        assert sum(taken) < memory + 12 * LEAST


async def test_many_small_pieces_cost_what_they_are() -> None:
    """Each piece has a buffer and a segment: single bytes count for 250 or so."""
    async with probe(max_memory=0) as p:
        c = await _open(p, 10_000, [])
        taken = sum(c.flow.push(b"x") for _ in range(10_000))
        assert 0 < taken <= LEAST // 256 + 1
        assert c.flow.push(b"x") == 0


async def test_a_flow_goes_on_when_the_budget_is_used_up() -> None:
    """Both ways, in small steps, and the window that was closed opens again by itself."""
    async with probe(max_memory=0) as p:
        c = await connect(p, options=OPTIONS)
        for _ in range(3):
            sent = 0
            while sent < LEAST - 1400:
                await c.send(bytes(1400))
                sent += 1400
            await p.drain()
            assert len(c.handler.read()) == sent
            assert (await p.receive()).window << 4 >= LEAST // 2
        total, got = 100_000, 0
        left = total
        while got < total:
            if not got or "writable" in c.handler.log:
                c.handler.log.clear()
                left -= c.flow.push(bytes(left))
            segment = await p.receive()
            got += len(segment.data)
            c.ack = segment.seq + len(segment.data)
            await p.send(c.segment())
        assert left == 0
