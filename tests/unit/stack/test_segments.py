"""Data, windows and ends, packet by packet."""

from __future__ import annotations

import pytest

from ...kits.packets import ACK, FIN, PSH, RST, SYN, connect, mss, probe, wscale

FAMILIES = pytest.mark.parametrize("family", [4, 6])


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
        assert 65_000 < sent <= 65_520  # of a flow that is not read, a SYN's worth
        # A probe of the closed window is answered, and not taken.
        await p.send(c.segment(data=b"!", seq=c.seq + sent))
        answer = await p.receive()
        assert (answer.ack, answer.window) == (c.seq + sent, 0)
        # So is an empty ACK, once, or not at all: an answer to each would be a storm. One that
        # follows the refused probe has its sequence number.
        for ahead in (0, 1):
            await p.send(c.segment(seq=c.seq + sent + ahead))
            await p.silence(0.2)
        # The reader takes what waits: the window opens.
        assert len(c.handler.read()) == min(sent, 1 << 20)
        assert (await p.receive()).window > 0


async def test_an_empty_ack_beyond_a_closed_window_counts(autojump_clock) -> None:
    """What it says of their window is believed, and none of its bytes are taken to be there."""
    async with probe() as p:
        c = await connect(p, window=0)
        assert c.flow.push(b"hello") == 5
        assert len((await p.receive(10)).data) <= 1
        sent, window = 0, 1
        while window:
            await p.send(c.segment(data=bytes(1460), seq=c.seq + sent, window=0))
            answer = await p.receive()
            sent, window = answer.ack - c.seq, answer.window
        await p.send(c.segment(seq=c.seq + sent + 1, window=1000))
        segment = await p.receive(0.05)
        assert segment.data and segment.ack == c.seq + sent and segment.window == 0
        await p.silence(0.05)


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
        c.flow.push(b"are you there?")
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
@pytest.mark.parametrize("ahead", [1, 100, 60_000])
async def test_a_reset_in_the_window_is_challenged(family: int, ahead: int) -> None:
    """Only at its very edge is it believed (RFC 5961 §3.2)."""
    async with probe() as p:
        c = await connect(p, family)
        await p.send(c.segment(RST, seq=c.seq + ahead))
        answer = await p.receive()
        assert (answer.flags, answer.seq, answer.ack) == (ACK, c.ack, c.seq)
        await c.send(b"alive")
        assert c.handler.read() == b"alive"
        assert (await p.receive()).ack == c.seq
        await p.send(c.segment(RST))
        assert c.handler.log[-1] == "reset"
        assert p.counter("flows") == 0
        await p.silence()


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
