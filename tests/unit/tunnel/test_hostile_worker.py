"""A worker that lies, floods or talks nonsense costs the client its WebSocket, and little else."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.hostile_worker import (
    CONNECT,
    HELLO,
    UDP,
    Conversation,
    HostileWorker,
    Script,
    ack,
    connected,
    data,
    goaway,
    head40,
    udp,
)
from ...kits.tunnel import Datagrams, Peer, eventually, quick, tunnelling, working


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged above debug level."""
    return [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG]


@contextlib.asynccontextmanager
async def tunnel_to(script: Script) -> AsyncIterator[tuple[Tunnel, HostileWorker]]:
    """A tunnel that is up, to a worker that ``script`` leads."""
    with HostileWorker(script) as worker:
        async with tunnelling(worker.url) as tunnel:
            yield tunnel, worker


async def tunnel_until(opened: int, script: Script, more: float = 0, **changes: Any) -> list[float]:
    """Run a tunnel to such a worker, whether it comes up or not.

    :param opened: until it has opened so many WebSockets, and ``more`` seconds.
    :returns: when it has opened each.
    """
    with HostileWorker(script) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Tunnel(quick(worker.url, **changes)).run)
            await eventually(lambda: len(worker.opened) >= opened, 60)
            await trio.sleep(more)
            nursery.cancel_scope.cancel()
    return worker.opened


async def test_what_a_peer_says_is_one_line_of_text(caplog: pytest.LogCaptureFixture) -> None:
    """No line can be forged, and no terminal be told to do a thing."""
    caplog.set_level(logging.INFO)

    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet()
        if talk.number == 0:
            talk.send(goaway(7, "bye\nzks-lwip: all is well\x1b[2J"))
        elif talk.number == 1:
            talk.close(1011, "oops\r\nzks-lwip: all is well \x1b]0;x\x07\u202e")
        talk.listen()

    async with tunnel_to(script) as (tunnel, _):
        await eventually(lambda: tunnel.stats()["channels_lost"] == 1)
    text = "".join(said(caplog))
    assert "bye" in text and "oops" in text
    assert all(character.isprintable() for character in text)


async def test_endless_goodbyes_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def script(talk: Conversation) -> None:
        talk.upgrade()
        for stream in talk.connects():
            talk.send(connected(stream), data(stream, b"x"))
            talk.send(goaway(1, "again") * 5000)

    async with tunnel_to(script) as (tunnel, _):
        peer = Peer()
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: b"x" in peer.told)
        await eventually(lambda: tunnel.stats()["channels"] == 2)
    assert sum("going away" in line for line in said(caplog)) == 1


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("reason", ["", "not needed"])
async def test_a_worker_that_closes_at_once_is_not_stormed(
    v1: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it says: after a Close of its own there is a pause, and it grows."""

    def script(talk: Conversation) -> None:
        if v1:
            talk.upgrade(None)
        else:
            talk.upgrade()
            talk.greet()
        time.sleep(0.01)
        talk.close(1000, reason)
        talk.listen()

    def losses() -> list[float]:
        return [each.created for each in caplog.records if "lost a channel" in each.getMessage()]

    protocol = "v1" if v1 else "v2"
    with HostileWorker(script) as worker:
        async with trio.open_nursery() as nursery:
            config = quick(worker.url, protocol=protocol, backoff=(0.1, 5.0))
            nursery.start_soon(Tunnel(config).run)
            await eventually(lambda: len(losses()) >= 6, 60)
            nursery.cancel_scope.cancel()
    # Each delay is at least half of what it would be without jitter. (Connections do not tell: one
    # that is taken late is tried again beside it.)
    for number, (before, after) in enumerate(itertools.pairwise(losses())):
        assert after - before > 0.045 * 2**number, (number, losses())


async def test_absurd_promises_cost_nothing() -> None:
    """The largest values that HELLO may hold, and the smallest."""
    most = 2**53 - 1
    async with working() as worker:
        worker.limit(
            window=2**31 - 1, max_data=most, max_message=most, streams=most, associations=most,
            requests=most, idle_udp=most,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            tunnel = Tunnel(quick(worker.url))
            await nursery.start(tunnel.run)
            assert await tunnel.dns_query(b"abc") == b"cba"
            await _echoes(tunnel, bytes(3_000_000))
            nursery.cancel_scope.cancel()
    async with working() as worker:
        worker.limit(
            window=1, max_data=1024, max_message=131072, streams=0, associations=0, requests=0,
            idle_udp=0,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            tunnel = Tunnel(quick(worker.url, grace=0.2))
            await nursery.start(tunnel.run)
            peer = Peer()
            tunnel.open_stream("far", 1, peer)
            await eventually(lambda: peer.told == [503])
            assert tunnel.stats()["channels"] == 1
            nursery.cancel_scope.cancel()


async def test_a_window_of_one_byte_still_carries() -> None:
    async with working() as worker:
        worker.limit(window=1)
        async with trio.open_nursery() as nursery:
            tunnel = Tunnel(quick(worker.url))
            await nursery.start(tunnel.run)
            await _echoes(tunnel, b"drop by drop")
            nursery.cancel_scope.cancel()


async def _echoes(tunnel: Tunnel, data: bytes) -> None:
    stream = await tunnel.connect_tcp("far", 1)
    received = bytearray()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            while len(received) < len(data):
                received += await stream.receive_some()
    assert received == data
    await stream.aclose()


@pytest.mark.parametrize("key", ["window", "streams", "session", "udp"])
async def test_a_long_lie_in_hello_is_a_short_line(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = '"' + "\\n\\u001b" + "x" * 7000 + '"'

    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.answer_hello(head40(HELLO, 0, f'{{"version":2,"{key}":{value}}}'.encode()))
        talk.listen()

    with HostileWorker(script) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Tunnel(quick(worker.url)).run)
            await eventually(lambda: said(caplog))
            nursery.cancel_scope.cancel()
    line = said(caplog)[0]
    assert key in line and len(line) < 400 and line.isprintable()


async def test_a_message_of_tiny_frames_lets_others_have_their_turns_and_loses_nothing() -> None:
    """Though the end of the WebSocket comes right behind it."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet()
        for payload in talk.messages():
            if payload[0] == UDP:
                association = int.from_bytes(payload[1:5])
                frames = [udp(association, "192.0.2.1", n, b"") for n in range(40_000)]
                talk.send(*frames)
                talk.send(frames[7] * 1000)
                talk.close(1000, "done")

    async with tunnel_to(script) as (tunnel, _):
        peer = Datagrams()
        association = tunnel.open_association(peer)
        assert association.send("192.0.2.1", 1, b"begin")
        turns = 0
        with trio.fail_after(60):
            while len(peer.told) < 41_000:
                await trio.sleep(0)
                turns += bool(peer.told)
        assert turns > 5
        assert [port for _, port, _ in peer.told] == [*range(40_000), *[7] * 1000]


async def test_a_breach_in_the_middle_of_many_frames() -> None:
    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet()
        if talk.number == 0:
            frames = udp(9, "192.0.2.1", 1, b"") * 20_000
            talk.send(frames, b"\x3f", frames)
        talk.listen()

    async with tunnel_to(script) as (tunnel, worker):
        await eventually(lambda: worker.closed)
        status, reason = worker.closed[0]
        assert status == 1002 and "0x3f" in reason
        await eventually(lambda: tunnel.up)


async def test_a_worker_that_always_goes_away_is_not_stormed() -> None:
    """GOAWAY right behind HELLO asks for another channel, again and again."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet()
        talk.send(goaway(1, ""))
        talk.listen()

    assert len(await tunnel_until(2, script, 1.2, backoff=(0.1, 5.0))) <= 8


@pytest.mark.parametrize("counts", [(1000,), (1, 0)])
async def test_an_ack_that_lies_ends_the_session(counts: tuple[int, ...]) -> None:
    """It is beyond what was sent, or it goes backwards: nothing is resumed, all is reset."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        talk.greet(resume=60)
        for message in talk.messages():
            if message[0] == CONNECT:
                talk.send(connected(1), *map(ack, counts))

    async with tunnel_to(script) as (tunnel, worker):
        peer = Peer()
        tunnel.open_stream("far", 1, peer)
        await eventually(lambda: worker.closed)
        status, reason = worker.closed[0]
        assert status == 1002 and reason.startswith(f"ACK: {counts[-1]} frames")
        await eventually(lambda: len(peer.told) > 1 and tunnel.up)
        assert peer.told == ["connected", 503]
        assert tunnel.stats()["sessions_resumed"] == 0


async def test_a_worker_that_upgrades_again_and_again_but_never_resumes() -> None:
    """A session waits for HELLO no longer than was agreed, over however many WebSockets."""

    def script(talk: Conversation) -> None:
        talk.upgrade()
        if not talk.number:
            talk.greet(resume=1)
            for message in talk.messages():
                if message[0] == CONNECT:
                    talk.send(connected(1))
                    talk.close(1001)
        talk.listen()

    with HostileWorker(script) as worker:
        async with tunnelling(worker.url, suspicious=0.2) as tunnel:
            peer = Peer()
            tunnel.open_stream("far", 1, peer)
            await eventually(lambda: 503 in peer.told, 15)
            assert peer.told == ["connected", 503]
            assert len(worker.opened) > 3
