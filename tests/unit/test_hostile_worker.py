"""A worker that lies, floods or talks nonsense costs the client its WebSocket, and little else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from zks_lwip.tunnel.frames import GoAway, Udp
from zks_lwip.tunnel.pool import Tunnel

from .test_pool import Datagrams, Peer, tunnel_and_worker
from .tunnel_kit import Worker, eventually, quick, working


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged above debug level."""
    return [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG]


async def test_what_a_peer_says_is_one_line_of_text(caplog: pytest.LogCaptureFixture) -> None:
    """No line can be forged, and no terminal be told to do a thing."""
    caplog.set_level(logging.INFO)
    async with tunnel_and_worker() as (tunnel, worker):
        first = worker.served[0]
        first.session.goaway(7, "bye\nzks-lwip: all is well\x1b[2J")
        await eventually(lambda: tunnel.stats()["channels"] == 1 and len(worker.served) == 2)
        worker.served[1].link.close(1011, "oops\r\nzks-lwip: all is well \x1b]0;x\x07\u202e")
        await eventually(lambda: tunnel.stats()["channels_lost"] == 1)
    text = "".join(said(caplog))
    assert "bye" in text and "oops" in text
    assert all(character.isprintable() for character in text)


async def test_endless_goodbyes_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with tunnel_and_worker() as (tunnel, worker):
        carrier = Peer(b"x")
        tunnel.open_stream("far", 1, carrier)
        await eventually(lambda: b"x" in carrier.told)
        await worker.served[0].connection.send_message(GoAway(1, "again").encode() * 5000)
        await eventually(lambda: tunnel.stats()["channels"] == 2)
    assert sum("going away" in line for line in said(caplog)) == 1


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("reason", ["", "not needed"])
async def test_a_worker_that_closes_at_once_is_not_stormed(v1: bool, reason: str) -> None:
    """Whatever it says: after a Close of its own there is a pause, and it grows."""
    async with working() as worker:
        worker.v1 = v1
        opened: list[float] = []

        async def shut(served: Any) -> None:
            await trio.sleep(0.01)
            served.link.close(1000, reason)

        class Closing(list[Any]):
            def append(self, served: Any) -> None:
                opened.append(trio.current_time())
                worker.nursery.start_soon(shut, served)

        worker.served = Closing()
        async with trio.open_nursery() as nursery:
            config = quick(worker.url, protocol="v1" if v1 else "v2", backoff=(0.1, 5.0))
            tunnel = Tunnel(config)
            await nursery.start(tunnel.run)
            await trio.sleep(2.5)
            nursery.cancel_scope.cancel()
        assert 4 <= len(opened) <= 8
        assert opened[-1] - opened[-2] > opened[1] - opened[0]


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
    body = f'{{"version":2,"{key}":{value}}}'.encode()

    async def lie(served: Any) -> None:
        await served.connection.send_message(b"\x40" + bytes(4) + len(body).to_bytes(4) + body)

    async with working() as worker:
        await _first_message(worker, lie)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Tunnel(quick(worker.url)).run)
            await eventually(lambda: said(caplog))
            nursery.cancel_scope.cancel()
    line = said(caplog)[0]
    assert key in line and len(line) < 400 and line.isprintable()


async def _first_message(worker: Worker, act: Any) -> None:
    """Have ``act(served)`` done in place of the worker's HELLO."""

    class Lying(list[Any]):
        def append(self, served: Any) -> None:
            served.session.next_message = lambda limit=0: None
            worker.nursery.start_soon(act, served)

    worker.served = Lying()


async def test_a_message_of_tiny_frames_lets_others_have_their_turns_and_loses_nothing() -> None:
    """Though the end of the WebSocket comes right behind it."""
    async with tunnel_and_worker() as (tunnel, worker):
        peer = Datagrams()
        association = tunnel.open_association(peer)
        frames = [Udp(association.identifier, "192.0.2.1", n, b"").encode() for n in range(40_000)]
        await worker.served[0].connection.send_message(b"".join(frames))
        await worker.served[0].connection.send_message(frames[7] * 1000)
        worker.served[0].link.close(1000, "done")
        turns = 0
        with trio.fail_after(60):
            while len(peer.told) < 41_000:
                await trio.sleep(0)
                turns += bool(peer.told)
        assert turns > 5
        assert [port for _, port, _ in peer.told] == [*range(40_000), *[7] * 1000]


async def test_a_breach_in_the_middle_of_many_frames() -> None:
    async with tunnel_and_worker() as (tunnel, worker):
        frames = Udp(9, "192.0.2.1", 1, b"").encode() * 20_000
        await worker.served[0].connection.send_message(frames + b"\x3f" + frames)
        await eventually(lambda: worker.ends)
        assert worker.ends[0].status == 1002 and "0x3f" in worker.ends[0].reason
        await eventually(lambda: tunnel.up)


async def test_a_worker_that_always_goes_away_is_not_stormed() -> None:
    """GOAWAY right behind HELLO asks for another channel, again and again."""
    async with working() as worker:
        opened: list[float] = []

        async def leave(served: Any) -> None:
            while not served.session.ready:
                await trio.sleep(0.001)
            served.session.goaway(1, "")

        class Leaving(list[Any]):
            def append(self, served: Any) -> None:
                opened.append(trio.current_time())
                worker.nursery.start_soon(leave, served)

        worker.served = Leaving()
        async with trio.open_nursery() as nursery:
            tunnel = Tunnel(quick(worker.url, backoff=(0.1, 5.0)))
            await nursery.start(tunnel.run)
            await trio.sleep(1.2)
            nursery.cancel_scope.cancel()
        assert 2 <= len(opened) <= 8
