"""What the stack answers, packet by packet."""

from __future__ import annotations

import struct

import pytest

from zks_lwip.stack import Reject

from .packets import (
    ACK,
    APP,
    FAR,
    FIN,
    ICMP,
    ICMP6,
    PSH,
    RST,
    SYN,
    Recorder,
    connect,
    probe,
    tcp,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


def wscale(shift: int) -> bytes:
    return bytes([3, 3, shift, 1])


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
    async with probe(max_held=3) as p:
        for port in range(1, 6):
            await p.send(tcp((APP[4], port), (FAR[4], 80), SYN, 7))
        handlers = [Recorder(flow) for flow in p.flows]
        assert [(await p.receive()).ports[1] for _ in range(2)] == [1, 2]
        assert p.counter("flows_held") == 3
        assert p.counter("flows_over_limit") == 2
        await p.send(tcp((APP[4], 6), (FAR[4], 80), SYN, 7))
        assert (await p.receive()).ports[1] == 3
        assert handlers[2].log == ["reset"]


async def test_over_the_limit_of_flows_a_syn_is_reset() -> None:
    async with probe(max_flows=2) as p:
        for port in (1, 2):
            await connect(p, port=port)
        await p.send(tcp((APP[4], 3), (FAR[4], 80), SYN, 7))
        answer = await p.receive()
        assert answer.flags == RST | ACK and answer.ports == (80, 3)
        assert p.flows == []


async def test_a_held_syn_does_not_stay_for_ever(autojump_clock) -> None:
    import trio

    async with probe() as p:
        handler = None
        while handler is None or not handler.log:  # somebody who never gives up
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


async def test_window_scaling(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, options=mss(1460) + wscale(7))
        await c.send(b"x")
        # 1,048,560 bytes at a scale of 4, less the byte that waits.
        assert (await p.receive()).window << 4 in range(1_048_500, 1_048_561)
        # Their window counts at their scale: 100 << 7 bytes, and not one more.
        await p.send(c.segment(window=100))
        c.flow.push(bytes(100_000))
        got = 0
        for _ in range(8):
            got += len((await p.receive()).data)
        assert 100 << 7 >= got > (100 << 7) - 1460
        await p.silence(0.2)


# data


@FAMILIES
async def test_data_is_acknowledged_at_once(family: int, autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, family)
        await c.send(b"a")
        answer = await p.receive(0.01)
        assert (answer.flags, answer.ack, answer.data) == (ACK, c.seq, b"")
        assert c.handler.log == ["readable"]
        assert c.handler.read() == b"a"


async def test_reordered_segments_come_in_order() -> None:
    async with probe() as p:
        c = await connect(p)
        data = bytes(range(256)) * 20
        pieces = [(i, data[i : i + 512]) for i in range(0, len(data), 512)]
        for at, piece in pieces[1::2] + pieces[::2]:
            await p.send(c.segment(data=piece, seq=c.seq + at))
        assert c.handler.read() == data


async def test_overlapping_segments_give_each_byte_once() -> None:
    async with probe() as p:
        c = await connect(p)
        data = bytes(i & 0xFF for i in range(3000))
        for start, end in [(1000, 2000), (500, 1500), (1900, 3000), (0, 700), (0, 3000)]:
            await p.send(c.segment(data=data[start:end], seq=c.seq + start))
        assert c.handler.read() == data


async def test_a_window_that_closes_and_opens(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, options=mss(1460) + wscale(2))
        sent = 0
        window = 1 << 30
        while window:
            await p.send(c.segment(data=bytes(1460), seq=c.seq + sent))
            answer = await p.receive()
            sent = answer.ack - c.seq
            window = answer.window
        assert 1_040_000 < sent <= 1_048_560
        # A probe of the closed window is answered, and not taken.
        await p.send(c.segment(data=b"!", seq=c.seq + sent))
        answer = await p.receive()
        assert (answer.ack, answer.window) == (c.seq + sent, 0)
        # So is an empty ACK, once, or not at all: an answer to each would be a storm.
        await p.send(c.segment(seq=c.seq + sent))
        await p.silence(0.2)
        # The reader takes what waits: the window opens.
        assert len(c.handler.read()) == min(sent, 1 << 20)
        assert (await p.receive()).window > 0


async def test_a_closed_window_of_theirs_is_probed(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p, window=0)
        assert c.flow.push(b"hello") == 5
        first = await p.receive(10)
        assert len(first.data) <= 1
        await p.send(c.segment(window=0))
        assert len((await p.receive(20)).data) <= 1
        await p.send(c.segment(window=1000))
        got = b""
        while got != b"hello":
            segment = await p.receive(20)
            at = segment.seq - c.ack
            got = got[:at] + segment.data


async def test_a_small_window_is_filled_at_once(autojump_clock) -> None:
    """lwIP alone waits for its persist timer when a whole segment does not fit."""
    async with probe() as p:
        c = await connect(p, options=mss(1460), window=100)
        assert c.flow.push(bytes(1000)) == 1000
        got = 0
        while got < 1000:
            segment = await p.receive(0.01)
            assert 0 < len(segment.data) <= 100
            got += len(segment.data)
            c.ack = segment.seq + len(segment.data)
            await p.send(c.segment(window=100))


async def test_what_is_lost_is_sent_again(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.push(b"lost")
        first = await p.receive()
        again = await p.receive(5)
        assert (again.seq, again.data) == (first.seq, b"lost")


async def test_bytes_are_not_sent_for_ever_to_a_dead_peer(autojump_clock) -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.push(b"anybody there?")
        import trio

        with trio.fail_after(2000):
            while c.handler.log != ["reset"]:
                await trio.sleep(10)
        assert p.counter("flows") == 0


# the end


@FAMILIES
async def test_their_fin_first(family: int) -> None:
    async with probe() as p:
        c = await connect(p, family)
        await c.send(b"last", FIN | ACK)
        assert (await p.receive()).ack == c.seq
        assert c.handler.read() == b"last"
        assert c.flow.pull_into(bytearray(10)) is None
        c.flow.push(b"answer")
        assert (await p.receive()).data == b"answer"
        c.flow.send_eof()
        fin = await p.receive()
        assert fin.flags & FIN
        c.ack = fin.seq + 1
        await p.send(c.segment())
        assert c.handler.log[-1] == "closed"
        assert p.counter("flows") == 0


@FAMILIES
async def test_our_fin_first(family: int, autojump_clock) -> None:
    import trio

    async with probe() as p:
        c = await connect(p, family)
        c.flow.send_eof()
        c.ack = (await p.receive()).seq + 1
        await p.send(c.segment())
        # Half closed: they may go on for as long as they like.
        await trio.sleep(120)
        await c.send(b"still here")
        assert c.handler.read() == b"still here"
        await c.send(b"", FIN | ACK)
        assert c.handler.log[-1] == "closed"
        assert c.flow.pull_into(bytearray(10)) is None
        assert p.counter("flows_time_wait") == 1
        await trio.sleep(4)
        assert p.counter("flows") == 0


async def test_simultaneous_close(autojump_clock) -> None:
    import trio

    async with probe() as p:
        c = await connect(p)
        c.flow.send_eof()
        fin = await p.receive()
        await c.send(b"", FIN | ACK)  # has not seen our FIN yet
        c.ack = fin.seq + 1
        await p.send(c.segment())
        assert c.handler.log[-1] == "closed"
        assert c.flow.pull_into(bytearray(10)) is None
        await trio.sleep(4)
        assert p.counter("flows") == 0


async def test_a_new_connection_on_the_ports_of_one_in_time_wait() -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.send_eof()
        c.ack = (await p.receive()).seq + 1
        await c.send(b"", FIN | ACK)
        assert c.flow.pull_into(bytearray(1)) is None
        assert p.counter("flows_time_wait") == 1
        p.seen.clear()
        await p.receive()  # the ACK of their FIN
        await connect(p)
        assert p.counter("flows_time_wait") == 0
        assert p.counter("flows") == 1


@FAMILIES
async def test_their_reset(family: int) -> None:
    async with probe() as p:
        c = await connect(p, family)
        await p.send(c.segment(RST))
        assert c.handler.log == ["reset"]
        assert p.counter("flows") == 0
        await p.silence()


async def test_a_reset_out_of_the_window_is_ignored() -> None:
    async with probe() as p:
        c = await connect(p)
        await p.send(c.segment(RST, seq=c.seq - 100))
        await p.send(c.segment(RST, seq=c.seq + (1 << 24)))
        assert "reset" not in c.handler.log
        await c.send(b"alive")
        assert c.handler.read() == b"alive"


@FAMILIES
async def test_our_reset(family: int) -> None:
    async with probe() as p:
        c = await connect(p, family)
        c.flow.abort()
        assert (await p.receive()).flags & RST
        assert p.counter("flows") == 0


async def test_data_after_close_is_reset() -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.close()
        fin = await p.receive()
        assert fin.flags & FIN
        c.ack = fin.seq + 1
        await c.send(b"too late")
        flags = [(await p.receive()).flags]
        while p.seen:
            flags.append((await p.receive()).flags)
        assert any(f & RST for f in flags)
        assert p.counter("flows") == 0


async def test_data_after_fin_is_not_taken() -> None:
    async with probe() as p:
        c = await connect(p)
        await c.send(b"end", FIN | ACK)
        await c.send(b"more")
        assert c.handler.read() == b"end"
        assert c.flow.pull_into(bytearray(10)) is None


async def test_closing_the_stack_sends_resets() -> None:
    async with probe() as p:
        c = await connect(p)
        c.flow.push(b"x")
        await p.receive()
    assert c.handler.log[-1] == "reset"


async def test_a_syn_inside_a_connection_is_challenged() -> None:
    async with probe() as p:
        c = await connect(p)
        await p.send(c.segment(SYN, seq=c.seq + 77))
        answer = await p.receive()
        assert answer.flags == ACK and answer.ack == c.seq
        await c.send(b"alive", PSH | ACK)
        assert c.handler.read() == b"alive"
