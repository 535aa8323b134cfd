"""What the stack answers, packet by packet."""

from __future__ import annotations

import pytest
import trio

from zks_lwip.stack import Reject

from ...kits.packets import (
    ACK,
    APP,
    FAR,
    ICMP,
    ICMP6,
    RST,
    SYN,
    Connection,
    Recorder,
    checksum,
    connect,
    mss,
    probe,
    tcp,
    wscale,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])


# the held SYN


@FAMILIES
async def test_a_syn_is_held_and_retransmissions_join_it(family: int, autojump_clock) -> None:
    async with probe() as p:
        syn = tcp((APP[family], 40000), (FAR[family], 443), SYN, 7)
        await p.send(syn)
        await p.send(syn)
        await p.send(syn)
        await p.silence(1)
        assert len(p.flows) == 1
        assert p.flows[0].source == (APP[family], 40000)
        assert p.flows[0].destination == (FAR[family], 443)
        assert p.counter("syn_joined") == 2
        assert p.counter("flows_held") == 1
        p.flows[0].accept()
        answer = await p.receive()
        assert (answer.flags, answer.ack) == (SYN | ACK, 8)
        assert (answer.source, answer.destination) == (FAR[family], APP[family])
        assert answer.ports == (443, 40000)


async def test_another_syn_on_the_same_ports_replaces_the_held_one() -> None:
    async with probe() as p:
        await p.send(tcp((APP[4], 40000), (FAR[4], 80), SYN, 7))
        await p.send(tcp((APP[4], 40000), (FAR[4], 80), SYN, 5000))
        p.flows[0].accept()
        assert (await p.receive()).ack == 5001


@FAMILIES
async def test_a_syn_that_is_retransmitted_after_its_answer_is_answered_again(
    family: int, autojump_clock
) -> None:
    async with probe() as p:
        syn = tcp((APP[family], 1), (FAR[family], 80), SYN, 7, options=mss(1460))
        await p.send(syn)
        flow = p.flows.pop()
        handler = Recorder(flow)
        flow.accept()
        first = await p.receive()
        await p.send(syn)  # the answer was lost
        again = await p.receive()
        assert (again.flags, again.seq, again.ack) == (SYN | ACK, first.seq, 8)
        again = await p.receive(5)  # and by the stack's own clock
        assert (again.flags, again.seq, again.ack) == (SYN | ACK, first.seq, 8)
        assert not p.flows and handler.log == []
        await p.send(tcp((APP[family], 1), (FAR[family], 80), ACK, 8, first.seq + 1, b"data"))
        assert handler.log == ["established", "readable"]
        assert handler.read() == b"data"


@pytest.mark.parametrize("full", [False, True])
async def test_the_end_of_a_quiet_handshake_is_told_with_what_follows(full: bool) -> None:
    async with probe() as p:
        here, there = (APP[4], 1), (FAR[4], 80)
        await p.send(tcp(here, there, SYN, 7))
        flow = p.flows.pop()
        handler = Recorder(flow)
        flow.accept(quiet=True)
        answer = await p.receive()
        if full:  # a push that was cut short waits for it
            while flow.push(bytes(100_000)):
                pass
        await p.send(tcp(here, there, ACK, 8, answer.seq + 1))
        assert handler.log == (["established", "writable"] if full else [])
        await p.send(tcp(here, there, RST | ACK, 8, answer.seq + 1))
        assert handler.log == (
            ["established", "writable", "reset"] if full else ["established", "reset"]
        )


@FAMILIES
@pytest.mark.parametrize("size", [1, 100, 1400, 9000])
async def test_bytes_in_a_syn_are_cut_off_and_sent_again(family: int, size: int) -> None:
    """TCP Fast Open (RFC 7413): not acknowledged, they come again after the handshake."""
    async with probe(mtu=9100) as p:
        here, there, data = (APP[family], 1), (FAR[family], 80), bytes(range(250)) * (size // 250)
        data += bytes(size - len(data))
        syn = tcp(here, there, SYN, 7, data=data, options=mss(1460))
        await p.send(syn)
        flow = p.flows.pop()
        await p.send(syn)  # again, and joined
        assert p.counter("syn_joined") == 1 and not p.flows
        handler = Recorder(flow)
        flow.accept()
        answer = await p.receive()
        assert (answer.flags, answer.ack) == (SYN | ACK, 8)
        await p.send(tcp(here, there, ACK, 8, answer.seq + 1, data))
        assert handler.log == ["established", "readable"]
        assert handler.read() == data
        assert not [name for name, n in p.stack.stats().items() if name.startswith("drop") and n]


@FAMILIES
async def test_a_syn_with_bytes_is_refused_as_any_other(family: int) -> None:
    async with probe() as p:
        for how in (Reject.RST, Reject.HOST_UNREACHABLE):
            await p.send(tcp((APP[family], 1), (FAR[family], 80), SYN, 7, data=bytes(1200)))
            p.flows.pop().reject(how)
            answer = await p.receive()
            if how is Reject.RST:
                assert answer.flags == RST | ACK and answer.ack == 8
            else:
                assert answer.protocol == (ICMP if family == 4 else ICMP6)
                quoted, header = answer.payload[8:], 20 if family == 4 else 40
                assert len(quoted) == header + 20
                assert quoted[header + 4 : header + 8] == b"\0\0\0\x07"
                assert family == 6 or checksum(quoted[:20]) == 0
        assert p.counter("flows") == 0


@FAMILIES
async def test_a_reset_cancels_the_held_syn(family: int) -> None:
    async with probe() as p:
        await p.send(tcp((APP[family], 1), (FAR[family], 80), SYN, 7))
        handler = Recorder(p.flows[0])
        await p.send(tcp((APP[family], 1), (FAR[family], 80), RST, 8))
        assert handler.log == ["reset"]
        assert p.counter("flows") == 0
        p.flows[0].accept()
        await p.silence()


@FAMILIES
async def test_refused_by_reset(family: int) -> None:
    async with probe() as p:
        await p.send(tcp((APP[family], 1), (FAR[family], 80), SYN, 7))
        p.flows[0].reject(Reject.RST)
        answer = await p.receive()
        assert answer.flags == RST | ACK and answer.ack == 8
        assert p.counter("flows") == 0


@pytest.mark.parametrize(
    ("how", "family", "message"),
    [
        (Reject.NET_UNREACHABLE, 4, (3, 0)),
        (Reject.HOST_UNREACHABLE, 4, (3, 1)),
        (Reject.PROHIBITED, 4, (3, 13)),
        (Reject.NET_UNREACHABLE, 6, (1, 0)),
        (Reject.HOST_UNREACHABLE, 6, (1, 3)),
        (Reject.PROHIBITED, 6, (1, 1)),
    ],
)
async def test_refused_by_icmp(how: Reject, family: int, message: tuple[int, int]) -> None:
    async with probe() as p:
        syn = tcp((APP[family], 1), (FAR[family], 80), SYN, 7)
        await p.send(syn)
        p.flows[0].reject(how)
        answer = await p.receive()
        assert answer.protocol == (ICMP if family == 4 else ICMP6)
        assert answer.destination == APP[family]
        assert (answer.payload[0], answer.payload[1]) == message
        assert answer.payload[8:] == syn  # what it is about, so that the kernel finds the socket
        assert p.counter("flows") == 0


async def test_refused_by_silence() -> None:
    async with probe() as p:
        await p.send(tcp((APP[4], 1), (FAR[4], 80), SYN, 7))
        p.flows[0].reject(Reject.SILENT)
        await p.silence()
        assert p.counter("flows") == 0


async def test_held_syns_are_bounded_and_the_oldest_goes_first() -> None:
    """In silence: it is no far end that refuses, and the SYN comes again."""
    async with probe(max_held=3) as p:
        for port in range(1, 6):
            await p.send(tcp((APP[4], port), (FAR[4], 80), SYN, 7))
        handlers = [Recorder(flow) for flow in p.flows]
        await p.silence()
        assert p.counter("flows_held") == 3
        assert p.counter("flows_over_limit") == 2
        await p.send(tcp((APP[4], 1), (FAR[4], 80), SYN, 7))  # again, and new
        await p.silence()
        assert handlers[2].log == ["reset"]
        assert p.flows[-1].source == (APP[4], 1) and p.counter("flows_held") == 3


async def test_over_the_limit_of_flows_a_syn_is_dropped() -> None:
    async with probe(max_flows=2) as p:
        for port in (1, 2):
            await connect(p, port=port)
        await p.send(tcp((APP[4], 3), (FAR[4], 80), SYN, 7))
        await p.silence()
        assert p.flows == [] and p.counter("flows_over_limit") == 1


async def test_a_held_syn_does_not_stay_for_ever(autojump_clock) -> None:
    import trio

    async with probe() as p:
        handler = None
        while handler is None or not handler.log:  # a client that never gives up
            await p.send(tcp((APP[4], 1), (FAR[4], 80), SYN, 7))
            handler = handler or Recorder(p.flows[0])
            await trio.sleep(1.1)  # never at the moment of a tick
        assert handler.log == ["reset"]
        assert 149 <= trio.current_time() <= 152
        assert p.counter("flows") == 0


@pytest.mark.parametrize("times", [[0], [0, 1], [0, 1, 3, 7], [0, 1, 2, 3]])
async def test_a_connect_that_is_given_up_is_noticed(times: list[int], autojump_clock) -> None:
    """The kernel just stops to retransmit. A few lost ones are forgiven."""
    import trio

    async with probe() as p:
        start = trio.current_time()
        for moment in times:
            await trio.sleep_until(start + moment)
            await p.send(tcp((APP[4], 1), (FAR[4], 80), SYN, 7))
        handler = Recorder(p.flows[0])
        await trio.sleep(4 << (len(times) - 1))
        assert handler.log == []
        await trio.sleep(2)
        assert handler.log == ["reset"]


# segments that belong to nothing


@FAMILIES
async def test_a_stray_segment_is_reset(family: int) -> None:
    async with probe() as p:
        await p.send(tcp((APP[family], 1), (FAR[family], 80), ACK, 100, 200, b"abc"))
        answer = await p.receive()
        assert answer.flags & RST and answer.seq == 200
        await p.send(tcp((APP[family], 1), (FAR[family], 80), RST, 100))
        await p.silence()  # a reset is never answered
        assert p.counter("stray_segments") == 2


# the handshake and its options


@FAMILIES
@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000, 65535])
async def test_the_mss_that_is_announced(family: int, mtu: int) -> None:
    async with probe(mtu=mtu) as p:
        await p.send(tcp((APP[family], 1), (FAR[family], 80), SYN, 7, options=mss(1460)))
        p.flows[0].accept()
        options = (await p.receive()).options
        assert options[:4] == mss(mtu - (40 if family == 4 else 60))


@pytest.mark.parametrize("theirs", [536, 1220, 1460, 8960, 65495])
async def test_segments_fit_the_peers_mss(theirs: int) -> None:
    async with probe(mtu=65535) as p:
        c = await connect(p, options=mss(theirs))
        assert c.flow.push(bytes(60_000)) == 60_000
        got, largest = 0, 0
        while got < 20_000:
            segment = await p.receive()
            got += len(segment.data)
            largest = max(largest, len(segment.data))
            c.ack = segment.seq + len(segment.data)
            await p.send(c.segment())
        assert largest <= theirs
        assert largest >= min(theirs, 20_000)


@FAMILIES
@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000, 65535])
async def test_bytes_go_both_ways_in_packets_of_the_mtu(family: int, mtu: int) -> None:
    data = bytes(i * 7 & 255 for i in range(150_000))
    size = mtu - (40 if family == 4 else 60)
    async with probe(mtu=mtu) as p:
        c = await connect(p, family, options=mss(size) + wscale(4))
        received = b""
        for at in range(0, len(data), size):
            await c.send(data[at : at + size])
            while (await p.receive()).ack != c.seq:
                pass  # of an earlier segment, with the window that its reading has opened
            received += c.handler.read()
        assert received == data
        sent, largest = 0, 0
        received = b""
        while len(received) < len(data):
            sent += c.flow.push(data[sent:])
            segment = await p.receive()
            received += segment.data
            largest = max(largest, len(segment.raw))
            c.ack = segment.seq + len(segment.data)
            await p.send(c.segment())
        assert received == data
        assert largest == mtu


async def _grow_window(c: Connection) -> None:
    """Send whole windows, each read at a stroke, until the window is the largest there is."""
    assert c.handler.read() == b"x"
    window = 65_520 - 1
    for _ in range(8):
        while window >= 1000:
            await c.send(bytes(1000))
            window -= 1000
        c.handler.read()
        segment = await c.probe.drain()
        if segment is not None:
            window = segment.ack + (segment.window << 4) - c.seq
    assert 1_048_000 < window <= 1_048_560


async def test_an_ack_is_within_a_window_that_was_taken_back(autojump_clock) -> None:
    """A kernel without memory for what we sent takes its window back, and no ACK beyond it."""
    async with probe() as p:
        c = await connect(p, options=mss(1460))
        c.flow.push(bytes(2500))
        assert len((await p.receive()).data) + len((await p.receive()).data) == 2500
        await c.send(b"x")
        await p.receive()
        for window in (1000, 0):
            await p.send(c.segment(data=b"x", window=window))
            c.seq += 1
            answer = await p.receive()
            assert not answer.data
            assert (answer.seq, answer.ack) == (c.ack + window, c.seq)
        await p.send(c.segment(window=8000))
        await p.drain()  # it is sent again
        await p.send(c.segment(data=b"x", window=8000))
        c.seq += 1
        assert (await p.receive()).seq == c.ack + 2500  # all that was sent
        # Taken back by what was said before, and asked for an ACK by what has come before.
        await p.send(c.segment(window=8000), c.segment(window=0))
        await p.send(c.segment(data=b"x", seq=c.seq - 1, window=0))
        answer = await p.receive()
        assert (answer.seq, answer.ack) == (c.ack, c.seq)


@pytest.mark.parametrize("opened, fits", [(1000, 1000), (2000, 1460), (8000, 2500)])
async def test_what_was_sent_into_a_window_that_was_taken_back_is_sent_again(
    opened: int, fits: int, autojump_clock
) -> None:
    """A kernel without memory drops what comes, and says so by its window alone."""
    data = bytes(i * 7 & 255 for i in range(2500))
    async with probe() as p:
        c = await connect(p, options=mss(1460))
        c.flow.push(data)
        for size in (1460, 1040):
            assert len((await p.receive()).data) == size
        await p.send(c.segment(window=0))
        with trio.move_on_after(0.1):
            pytest.fail(f"sent into a closed window: {await p.receive()}")
        begun = trio.current_time()
        await p.send(c.segment(window=opened))
        again = b""
        while len(again) < fits:
            segment = await p.receive()
            assert segment.seq == c.ack + len(again)
            again += segment.data
        assert trio.current_time() - begun < 0.1  # not by a timer
        assert again == data[: len(again)]
        # A window that opens further has taken nothing back: it brings what is new alone.
        await p.send(c.segment(window=9000))
        with trio.move_on_after(0.1):
            while len(again) < 2500:
                segment = await p.receive()
                assert segment.seq == c.ack + len(again)
                again += segment.data
            pytest.fail(f"sent a third time: {await p.receive()}")
        assert again == data


async def test_window_scaling(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, options=mss(1460) + wscale(7))
        await c.send(b"x")
        # What the SYN's answer could say at most, at a scale of 4, less the byte that waits.
        assert (await p.receive()).window << 4 in range(65_500, 65_521)
        await _grow_window(c)
        # Their window counts at their scale: 100 << 7 bytes, and not one more.
        await p.send(c.segment(window=100))
        c.flow.push(bytes(100_000))
        got = 0
        for _ in range(8):
            got += len((await p.receive()).data)
        assert 100 << 7 >= got > (100 << 7) - 1460
        await p.silence(0.2)
