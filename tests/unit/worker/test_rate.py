"""Limits of one token: bytes a second, sessions, streams, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.kits.plain_websocket import V2, upgrade_request
from tests.kits.session import feed, worker
from tests.kits.until import until
from tests.kits.worker import RawClient, echo, raw_client, running_worker, tcp_server
from zks_lwip.protocol import (
    Connect,
    Data,
    Error,
    Settings,
    Udp,
    Window,
    encode_udp,
    parse,
)
from zks_lwip.worker.rate import Bucket, RateLimit, datagram_passes, limit_session

ALICE = "alice-" + "a" * 30
BOB = "bob-" + "b" * 30
RATE = 1_000_000


@pytest.fixture
def clock() -> MockClock:
    """Time passes when nothing else happens."""
    return MockClock(autojump_threshold=0.01)


def test_a_bucket_fills_and_owes(clock: MockClock) -> None:
    now = 0.0
    bucket = Bucket(RATE, lambda: now)
    assert bucket.level() == bucket.burst == RATE / 4
    bucket.take(RATE)
    assert bucket.level() == -RATE * 3 / 4
    now = 0.5
    assert bucket.level() == pytest.approx(-RATE / 4)
    now = 100.0
    assert bucket.level() == bucket.burst
    assert datagram_passes(bucket, 10 * RATE) and not datagram_passes(bucket, 1)


async def test_those_that_wait_go_on_in_turn_at_the_rate(clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        limit = RateLimit(RATE, trio.current_time, nursery)
        done: list[int] = []
        began = trio.current_time()
        for number in range(8):
            limit.when_up(partial(done.append, number), 125_000)
        while len(done) < 8:
            await trio.sleep(0.01)
        assert done == list(range(8))
        assert trio.current_time() - began == pytest.approx(0.875 - 0.25, abs=0.1)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    return path


async def pour(stream: trio.SocketStream) -> None:
    """A far end that sends for ever."""
    while True:
        await stream.send_all(bytes(1 << 16))


async def download(client: RawClient, size: int) -> None:
    """Take so many bytes of stream 1, or some more."""
    while size > 0:
        frame = await client.expect(Data)
        size -= len(frame.payload)
        await client.send(Window(1, len(frame.payload)))


async def test_a_download_keeps_to_it_and_others_do_not_wait(tmp_path: Path) -> None:
    tokens = write(tmp_path, f"alice {ALICE} rate=1M\nbob {BOB}\n")
    async with running_worker(token_file=tokens) as (_, address), tcp_server(pour) as port:
        async with raw_client(address, token=ALICE) as slow, raw_client(address, token=BOB) as fast:
            began = time.monotonic()
            for client in (slow, fast):
                await client.open(1, "127.0.0.1", port)
            await download(slow, 1_250_000)
            # the first 250,000 come at once; a busy machine only makes it longer
            assert time.monotonic() - began > 0.9
            await download(fast, 5_000_000)


async def test_a_download_that_goes_on_keeps_to_a_rate_that_is_new(tmp_path: Path) -> None:
    tokens = write(tmp_path, f"alice {ALICE}\n")
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(pour) as port:
        async with raw_client(address, token=ALICE) as client:
            await client.open(1, "127.0.0.1", port)
            await download(client, 1_000_000)
            write(tmp_path, f"alice {ALICE} rate=2M\n")
            worker.reload()
            began = time.monotonic()
            # 500,000 of the limit's come at once, and what was on its way
            await download(client, 500_000 + (1 << 20) + 1_500_000)
            assert time.monotonic() - began > 0.5
            write(tmp_path, f"alice {ALICE}\n")
            worker.reload()
            await download(client, 5_000_000)


async def test_an_upload_keeps_to_it(tmp_path: Path) -> None:
    tokens = write(tmp_path, f"alice {ALICE} rate=500k\n")
    async with running_worker(token_file=tokens) as (_, address), tcp_server(echo) as port:
        async with raw_client(address, token=ALICE) as client:
            await client.open(1, "127.0.0.1", port)
            began = time.monotonic()
            credit, sent = client.hello.window, 0
            assert credit <= 125_000
            while sent < 1_000_000:
                size = min(50_000, credit + client.credit.get(1, 0) - sent)
                if size:
                    await client.send(Data(1, bytes(size)))
                    sent += size
                else:
                    frame = await client.expect(Data)
                    await client.send(Window(1, len(frame.payload)))
                    assert frame.stream == 1
            assert time.monotonic() - began > 0.4


async def ask(address: tuple[str, int]) -> bytes:
    """What Alice is answered when she asks for one more session."""
    head = upgrade_request(V2).decode()
    asked = head.replace("\r\n\r\n", f"\r\nAuthorization: Bearer {ALICE}\r\n\r\n")
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(asked.encode())
        return bytes(await stream.receive_some())


async def test_streams_and_sessions_of_its_own(tmp_path: Path) -> None:
    tokens = write(tmp_path, f"alice {ALICE} streams=1 sessions=1\n")
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        async with raw_client(address, token=ALICE) as client:
            assert client.hello.streams == 1
            await client.open(1, "127.0.0.1", port)
            await client.send(Connect(3, "127.0.0.1", port))
            assert (await client.expect(Error)).stream == 3
            assert b" 429 " in await ask(address)
            write(tmp_path, f"alice {ALICE} sessions=2\n")
            worker.reload()
            async with raw_client(address, token=ALICE) as second:
                assert second.hello.streams > 1


async def test_a_token_that_ends_takes_its_sessions_along(tmp_path: Path) -> None:
    tokens = write(tmp_path, f"alice {ALICE} expires=2100-01-01\nbob {BOB}\n")
    async with running_worker(token_file=tokens) as (worker, address):
        async with raw_client(address, token=ALICE) as client, raw_client(address, token=BOB):
            write(tmp_path, f"alice {ALICE} expires=2020-01-01\nbob {BOB}\n")
            worker.reload()
            assert await client.closed() == (1008, "the token has expired")
            await until(lambda: len(worker.sessions) == 1)
        answer = await ask(address)
        assert answer.startswith(b"HTTP/1.1 401") and b"this token has expired" in answer
        assert worker.refusals.counts == {"the token has expired": 1}


async def test_what_waits_does_not_grow_with_the_number_of_pieces(clock: MockClock) -> None:
    class Counting(RateLimit):
        entries = 0

        def when_up(self, act: Callable[[], None], size: int = 0) -> None:
            self.entries += 1
            super().when_up(act, size)

    inner = worker(settings=Settings(window=1 << 17))
    feed(inner, Connect(1, "192.0.2.1", 7))
    async with trio.open_nursery() as nursery:
        limit = Counting(RATE, trio.current_time, nursery)
        session = limit_session(inner, limit)
        limit.up.take(2 * RATE)  # paid for after 1.75 s
        for _ in range(1000):
            feed(inner, Data(1, bytes(100)))
            session.consumed(1, 100)
        assert limit.entries == 1
        await trio.sleep(1.8)
        assert limit.up.level() == pytest.approx(-50_000, abs=5_000)  # they are paid for, too
        with pytest.raises(ValueError):
            inner.consumed(1, 1)  # all of them were told
        session.consumed(1, 0)
        assert limit.entries == 2


def test_of_datagrams_that_come_together_some_pass() -> None:
    """As if they had come one by one: those over the limit are dropped, and counted."""
    inner = worker(settings=Settings(udp=True))
    assert feed(inner, Udp(1, "192.0.2.1", 7, b"x"))
    limit = RateLimit(1, lambda: 0.0)
    session = limit_session(inner, limit)
    many = [encode_udp(1, "192.0.2.1", n, bytes(1000)) for n in range(100)]
    assert session.send_udp_frames(b"".join(many), 100, 1)
    message = inner.next_message()
    assert message is not None
    passed = [frame.port for frame in parse(message) if isinstance(frame, Udp)]
    assert passed == list(range(len(passed))) and 3 * 16 <= len(passed) <= 3 * 17
    assert inner.stats.datagrams_dropped == 100 - len(passed)
    assert not session.send_udp_frames(many[0], 1, 1)
