"""What fuzzing and the sanitizers have found, each as the shortest sequence that showed it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from zks_lwip.stack import Datagram, Reject

from ...kits.packets import (
    ACK,
    APP,
    FAR,
    FIN,
    PSH,
    RST,
    SYN,
    Connection,
    Recorder,
    Seen,
    connect,
    fragments,
    probe,
    tcp,
    udp,
)
from ...kits.wires import PUMPS, busy_probe

MSS = b"\x02\x04\x05\x00"  # 1280
FAMILIES = pytest.mark.parametrize("family", [4, 6])


async def collect(c: Connection, window: int = 65535) -> tuple[bytes, list[Seen]]:
    """Acknowledge what comes until FIN has; the bytes before it, and the segments."""
    received, segments = b"", []
    with trio.fail_after(60):
        while True:
            segment = await c.probe.receive(60)
            segments.append(segment)
            known = c.ack - segment.seq  # a probe of the window may have brought the first byte
            if 0 <= known <= len(segment.data):
                received += segment.data[known:]
                c.ack = segment.seq + len(segment.data)
                if segment.flags & FIN:
                    return received, segments
            await c.probe.send(c.segment(window=window))


async def shrink(c: Connection, window: int) -> None:
    """A smaller window is believed with newer bytes only (RFC 9293 §3.10.7.4)."""
    for _ in range(2):
        await c.probe.send(c.segment(ACK, b"x", window=window))
        c.seq += 1
        assert not (await c.probe.receive()).data


@FAMILIES
async def test_fin_stays_at_the_end_of_a_segment_that_is_cut(family: int) -> None:
    """lwIP's tcp_split_unsent_seg leaves FIN on the first part, too."""
    async with probe() as p:
        c = await connect(p, family, window=0, options=MSS)
        content = bytes(range(200)) * 6
        assert c.flow.push(content) == len(content)
        c.flow.send_eof()
        await p.silence()
        await p.send(c.segment(window=700))
        received, segments = await collect(c, window=700)
        assert received == content
        assert [bool(x.flags & FIN) for x in segments] == [False] * (len(segments) - 1) + [True]


async def test_fin_stays_at_the_end_when_a_timer_cuts(autojump_clock: object) -> None:
    """A segment that was lost is cut when the window has become smaller than it."""
    async with probe() as p:
        c = await connect(p, options=MSS)
        await shrink(c, 0)
        content = bytes(range(200)) * 6
        assert c.flow.push(content) == len(content)
        c.flow.send_eof()
        await p.send(c.segment())
        first = await p.receive()
        assert first.data == content and first.flags & FIN  # and never arrives
        await shrink(c, 700)
        received, segments = await collect(c, window=700)
        assert received == content
        assert not segments[0].flags & FIN


@FAMILIES
@pytest.mark.parametrize("taken,window", [(1, 700), (300, 300), (700, 100), (1199, 100)])
async def test_a_segment_of_which_the_peer_took_a_part_goes_on_behind_it(
    family: int, taken: int, window: int, autojump_clock: object
) -> None:
    """It was cut at the window, counted from its own start: its first part had been taken already.

    lwIP never sent that, nor what follows it.
    """
    async with probe() as p:
        c = await connect(p, family, options=MSS)
        content = bytes(range(200)) * 6
        assert c.flow.push(content) == len(content)
        assert (await p.receive()).data == content
        c.ack += taken
        await p.send(c.segment(window=0))
        await trio.sleep(4)  # until the timer has taken it back
        await p.drain()
        c.flow.send_eof()
        await p.send(c.segment(window=window))
        received, segments = await collect(c, window=window)
        assert received == content[taken:]
        assert [bool(x.flags & FIN) for x in segments] == [False] * (len(segments) - 1) + [True]


@pytest.mark.parametrize("later", [b"", b"and more"])
async def test_the_end_stays_behind_what_a_closed_window_keeps_from_being_repeated(
    autojump_clock: object, later: bytes
) -> None:
    """lwIP kept the first segment behind the last one, and gave it later bytes and FIN."""
    async with probe() as p:
        c = await connect(p, options=MSS)
        content = bytes(range(200)) * 20
        assert c.flow.push(content) == len(content)
        sent = [await p.receive() for _ in range(4)]
        assert b"".join(x.data for x in sent) == content  # and the first one is lost
        await shrink(c, 0)
        for _ in range(4):
            await p.send(c.segment(window=0))
        assert c.flow.push(later) == len(later)
        await trio.sleep(2)  # for the timer
        c.flow.send_eof()
        await p.silence(0.1)
        await p.send(c.segment())
        received, _ = await collect(c)
        assert received == content + later


@FAMILIES
@pytest.mark.parametrize("window", [0, 1])
async def test_a_small_window_after_none(family: int, window: int) -> None:
    """Segments that were made before the peer had any window are longer than half of its largest.

    lwIP asserts that there are none, and ended the process.
    """
    async with probe() as p:
        await p.send(tcp((APP[family], 1), (FAR[family], 80), SYN, 7, window=window))
        flow = p.flows.pop()
        flow.accept()
        answer = await p.receive()
        content = bytes(range(250)) * 8
        assert flow.push(content[:1000]) == 1000
        c = Connection(
            p, flow, Recorder(flow), (APP[family], 1), (FAR[family], 80), 8, answer.seq + 1
        )
        await p.send(c.segment(window=100))
        assert flow.push(content[1000:]) == 1000
        flow.send_eof()
        received, _ = await collect(c)
        assert received == content


async def test_the_last_byte_may_go_as_a_probe(autojump_clock: object) -> None:
    """When a peer took it, lwIP's timer asserted that there was another one to probe with."""
    async with probe() as p:
        c = await connect(p)
        await shrink(c, 0)
        assert c.flow.push(b"a") == 1
        assert (await p.receive(5)).data == b"a"
        c.ack += 1
        await p.send(c.segment(window=0))
        await p.silence(10)
        assert c.flow.push(b"b") == 1
        assert (await p.receive(5)).data == b"b"
        c.ack += 1
        await p.send(c.segment())
        await p.silence(10)
        assert c.flow.push(b"c") == 1
        assert (await p.receive(1)).data == b"c"


async def test_the_mss_does_not_change_in_a_connection() -> None:
    """lwIP believed the option in any segment: then segments were too long for the device, or its
    assertion failed, since longer ones than the new MSS were queued.
    """
    async with probe() as p:
        c = await connect(p, options=MSS)
        await shrink(c, 0)
        assert c.flow.push(bytes(1000)) == 1000
        await p.send(c.segment(window=0, options=b"\x02\x04\x00\x64"))
        assert c.flow.push(bytes(1000)) == 1000
        await p.send(c.segment(window=0, options=b"\x02\x04\xff\xd7"))
        assert c.flow.push(bytes(3000)) == 3000
        c.flow.send_eof()
        received, segments = await collect(c)
        assert len(received) == 5000
        assert max(len(segment.data) for segment in segments) == 1280


@pytest.mark.parametrize("scaled", [False, True])
async def test_what_comes_early_is_cut_to_the_window(scaled: bool) -> None:
    """lwIP cut only what came in order, and asserted when the rest had its turn."""
    async with probe() as p:
        c = await connect(p, options=MSS + b"\x03\x03\x00\x01" if scaled else MSS)
        window = 65520
        if scaled:  # it has doubled once it has been drained at a stroke
            for _ in range(window // 840):
                await c.send(bytes(840))
            assert len(c.handler.read()) == window
            window *= 2
            answer = await p.drain()
            assert answer is not None and answer.window == window >> 4
        early = c.segment(FIN | ACK, bytes(20), seq=c.seq + window - 10)
        await p.send(early)
        for _ in range(window // 840):
            await c.send(bytes(840))
        answer = await p.drain()
        assert answer is not None and answer.window == 0
        got = len(c.handler.read())
        while got < window:
            got += len(c.handler.read())
        assert got == window
        assert c.flow.pull_into(bytearray(1)) == 0  # FIN was beyond the window


async def test_all_arrives_at_a_peer_that_said_fin_first_and_reads_late(
    autojump_clock: object,
) -> None:
    """lwIP forgot such a connection after two seconds of silence."""
    async with probe() as p:
        c = await connect(p)
        await shrink(c, 0)
        assert c.handler.read() == b"xx"
        await p.send(c.segment(FIN | ACK, window=0))
        c.seq += 1
        await p.receive()
        assert c.flow.push(b"a late answer") == 13
        c.flow.send_eof()
        with trio.move_on_after(100):
            while True:
                assert len((await p.receive(70)).data) <= 1
                await p.send(c.segment(window=0))
        await p.send(c.segment())
        received, _ = await collect(c)
        assert received == b"a late answer"


async def test_waiting_for_the_first_byte_is_not_the_round_trip(autojump_clock: object) -> None:
    """A connection of ours that had been silent at first took as long to repeat a lost segment."""
    async with probe() as p:
        flow = p.stack.connect((FAR[4], 80), (APP[4], 40000))
        syn = await p.receive()
        await p.receive(5)  # the SYN again, as if the first one had been lost
        c = Connection(p, flow, Recorder(flow), (APP[4], 40000), (FAR[4], 80), 501, syn.seq + 1)
        await p.send(tcp(c.source, c.destination, SYN | ACK, 500, syn.seq + 1))
        await p.receive()
        await trio.sleep(60)
        flow.push(b"a")
        c.ack = (await p.receive()).seq + 1
        await p.send(c.segment())
        flow.push(b"b")
        assert (await p.receive()).data == b"b"
        assert (await p.receive(5)).data == b"b"


@pytest.mark.parametrize("announced", [1, 47])
async def test_no_peer_gets_a_packet_for_every_byte(announced: int) -> None:
    async with probe() as p:
        c = await connect(p, options=b"\x02\x04" + announced.to_bytes(2, "big"))
        c.flow.push(bytes(4800))
        assert len((await p.receive()).data) == 48


async def test_nothing_is_sent_before_our_syn_is_answered(autojump_clock: object) -> None:
    """lwIP sent bytes in segments without any flag when it repeated the SYN, and lost FIN."""
    async with probe() as p:
        flow = p.stack.connect((FAR[4], 80), (APP[4], 40000))
        handler = Recorder(flow)
        assert flow.push(b"early") == 0
        flow.send_eof()
        syn = await p.receive()
        assert syn.flags == SYN
        again = await p.receive(5)
        assert (again.flags, again.seq) == (SYN, syn.seq)
        await p.silence(0.3)
        c = Connection(p, flow, handler, (APP[4], 40000), (FAR[4], 80), 501, syn.seq + 1)
        await p.send(tcp(c.source, c.destination, SYN | ACK, 500, syn.seq + 1))
        assert handler.log == ["established", "writable"]
        flags = [(await p.receive()).flags for _ in range(2)]
        assert flags == [ACK, FIN | ACK] or flags[-1] & FIN


async def test_bytes_wait_for_the_handshake_of_a_connection_of_ours() -> None:
    async with probe() as p:
        flow = p.stack.connect((FAR[4], 80), (APP[4], 40000))
        handler = Recorder(flow)
        assert flow.push(b"early") == 0
        syn = await p.receive()
        await p.send(tcp((APP[4], 40000), (FAR[4], 80), SYN | ACK, 500, syn.seq + 1))
        assert handler.log == ["established", "writable"]
        assert flow.push(b"early") == 5
        segment = await p.receive()
        while not segment.data:
            segment = await p.receive()
        assert segment.data == b"early" and segment.flags & (ACK | PSH) == ACK | PSH


async def test_what_was_closed_does_not_wait_for_a_vanished_peer(autojump_clock: object) -> None:
    async with probe(keepalive=0) as p:
        c = await connect(p)
        await trio.sleep(1000)
        c.flow.push(b"never acknowledged")
        c.flow.close()
        await trio.sleep(250)
        assert p.counter("flows") == 1
        await trio.sleep(60)
        assert p.counter("flows") == 0


async def test_what_was_closed_waits_for_a_peer_that_does_not_read(autojump_clock: object) -> None:
    async with probe() as p:
        c = await connect(p, options=MSS)
        await shrink(c, 0)
        assert c.handler.read() == b"xx"  # closing would reset otherwise
        c.flow.push(b"read in half an hour")
        c.flow.close()
        with trio.move_on_after(1800):
            while True:  # its kernel answers each probe of the window
                assert len((await p.receive(70)).data) <= 1
                await p.send(c.segment(window=0))
        await p.send(c.segment(window=1000))
        received, _ = await collect(c)
        assert received == b"read in half an hour"


@pytest.mark.skipif("thread" not in PUMPS, reason="no C pump here")
async def test_syns_that_give_way_unreported_leave_nothing_behind() -> None:
    """While Python is busy a flood comes: what gives way is forgotten, not kept to be reported."""
    async with busy_probe(max_held=10) as p:

        def come() -> int:
            return p.counter("flows") + p.counter("flows_refused")

        for port in range(1, 2001):  # no checkpoint in between: no event is taken
            syn = tcp((APP[4], port), (FAR[4], 80), SYN, 7)
            p.send(syn, until=lambda port=port: come() == port)  # type: ignore[misc]
        assert p.counter("flows") == 10
        assert p.counter("flows_refused") == 1990
        with trio.fail_after(60):
            while len(p.flows) < 10:
                await trio.sleep(0.001)
        assert [flow.source[1] for flow in p.flows] == list(range(1991, 2001))


@FAMILIES
async def test_fragments_do_not_outlive_the_last_stack(family: int) -> None:
    source, destination = (APP[family], 1), (FAR[family], 2)
    first, second = (fragments(udp(source, destination, bytes([x]) * 800), 400) for x in (1, 2))
    async with probe() as p:
        await p.send(first[0])
    async with probe() as p:
        taken: list[Datagram] = []
        p.stack.on_datagrams = taken.extend
        await p.send(*second[1:])
        await p.silence()
        assert not taken and p.counter("drop_checksum") == 0


@pytest.mark.parametrize("way", ["close", "abort", "reject", "reset"])
async def test_a_flow_may_outlive_its_stack(way: str) -> None:
    """One that was let go before still used the core after it had been freed."""
    async with probe() as p:
        if way == "reject":
            await p.send(tcp((APP[4], 1), (FAR[4], 80), SYN, 7))
            flow = p.flows.pop()
            flow.reject(Reject.RST)
        else:
            c = await connect(p)
            flow = c.flow
            if way == "reset":
                await p.send(c.segment(RST))
                assert c.handler.log == ["reset"]
            else:
                getattr(flow, way)()
    assert flow.push(b"x") == 0
    assert flow.pull_into(bytearray(1)) == 0
    flow.accept()
    flow.close()
