"""How long a worker takes to end, whatever its clients owe it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.kits.plain_websocket import V2, client_message, upgrade_request
from tests.kits.until import until
from tests.kits.worker import echo, running_worker, tcp_server
from zks_lwip.carrier.link_writer import LAST_MESSAGE
from zks_lwip.carrier.websocket import CLOSE_TIMEOUT
from zks_lwip.protocol import HELLO_TIMEOUT, Close, Connect, Data, Eof, Frame, Hello
from zks_lwip.worker import Worker
from zks_lwip.worker.shutdown import shutdown_stages


@pytest.fixture
def clock() -> MockClock:
    """Seconds pass only when nothing has happened for a moment: a busy machine adds none."""
    return MockClock(autojump_threshold=0.01)


@pytest.mark.parametrize("drain", [0.0, 0.5, 3.0, 6.0, 10.0, 60.0])
def test_the_stages_take_no_longer_than_promised(drain: float) -> None:
    going_on, closing = shutdown_stages(drain)
    assert going_on >= 0 and closing >= 0
    assert going_on + closing <= drain
    if drain >= 6:  # then there is time for the last message and for the client's Close
        assert closing >= LAST_MESSAGE + CLOSE_TIMEOUT
        assert going_on >= drain / 2


async def silent_client(address: tuple[str, int], *frames: Frame, v1: bool = False) -> trio.Stream:
    """A client that says this, and then neither reads nor answers."""
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all(upgrade_request(None if v1 else V2))
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    if not v1:
        await stream.send_all(client_message(Hello(window=2**31 - 1, resume=60).encode()))
        assert await stream.receive_some()
    for frame in frames:
        await stream.send_all(client_message(frame.encode()))
    return stream


async def pour(stream: trio.SocketStream) -> None:
    """A far end that sends for ever."""
    while True:
        await stream.send_all(bytes(1 << 16))


async def take_nothing(stream: trio.SocketStream) -> None:
    """A far end that never reads, and never ends."""
    await trio.sleep_forever()


@asynccontextmanager
async def with_bad_clients() -> AsyncIterator[tuple[Worker, tuple[str, int]]]:
    """A worker, with clients and far ends that make every stage of its end take long."""
    async with (
        running_worker() as (worker, address),
        tcp_server(echo) as quiet,
        tcp_server(pour) as pouring,
        tcp_server(take_nothing) as stuck,
    ):
        host = "127.0.0.1"
        full = [Data(1, bytes(60_000))] * 4
        streams = [
            await silent_client(address),
            await silent_client(address, v1=True),
            await silent_client(address, Connect(1, host, quiet)),
            await silent_client(address, Connect(1, host, quiet), v1=True),
            await silent_client(address, Connect(1, host, pouring)),
            await silent_client(address, Connect(1, host, pouring), v1=True),
            await silent_client(address, Connect(1, host, stuck), *full, Eof(1)),
            await silent_client(address, Connect(1, host, stuck), *full * 20, Close(1), v1=True),
            await trio.open_tcp_stream(*address),
        ]
        await streams[-1].send_all(b"GET /tunnel HTTP/1.1\r\n")
        await until(lambda: sum(a.sessions for a in worker.accounts.values()) == 8)
        await trio.sleep(1)  # what pours has filled everything
        try:
            yield worker, address
        finally:
            for stream in streams:
                await trio.aclose_forcefully(stream)


async def test_it_ends_in_time_whatever_clients_do(clock: MockClock) -> None:
    async with with_bad_clients() as (worker, _):
        began = trio.current_time()
        worker.stop()
        await worker.ended.wait()
        elapsed = trio.current_time() - began
        print(f"{elapsed:.3f} s")
        assert elapsed <= worker.config.drain + 0.1


async def test_one_that_is_refused_at_the_last_moment_holds_nothing_up(clock: MockClock) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as quiet:
        late = await trio.open_tcp_stream(*address)  # says no HELLO, and answers no Close
        await late.send_all(upgrade_request(V2))
        assert (await late.receive_some()).startswith(b"HTTP/1.1 101")
        other = await silent_client(address, Connect(1, "127.0.0.1", quiet))  # takes all the time
        await trio.sleep(HELLO_TIMEOUT - worker.config.drain + 1.3)
        began = trio.current_time()
        worker.stop()
        await worker.ended.wait()
        elapsed = trio.current_time() - began
        for stream in (late, other):
            await trio.aclose_forcefully(stream)
        assert elapsed <= worker.config.drain + 0.1


async def test_a_second_word_ends_it_at_once(clock: MockClock) -> None:
    async with with_bad_clients() as (worker, _):
        worker.stop()
        await trio.sleep(1)
        began = trio.current_time()
        worker.stop()
        await worker.ended.wait()
        elapsed = trio.current_time() - began
        print(f"{elapsed:.3f} s")
        assert elapsed <= 0.1


async def test_a_second_word_while_sessions_close(clock: MockClock) -> None:
    async with with_bad_clients() as (worker, _):
        worker.stop()
        await trio.sleep(shutdown_stages(worker.config.drain)[0] + 0.5)
        began = trio.current_time()
        worker.stop()
        await worker.ended.wait()
        assert trio.current_time() - began <= 0.1
