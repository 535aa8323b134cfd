"""Sessions in which nothing has gone on for a while: what ends their rest, each time."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from tests.kits.until import until
from tests.kits.worker import (
    RawClient,
    echo,
    raw_client,
    resuming_client,
    running_worker,
    tcp_server,
)
from zks_lwip.protocol import Ack, Close, Data, Eof, GoAway, Hello, Ping, Pong
from zks_lwip.worker import Worker

HOST = "127.0.0.1"
TOTAL = 6_000_000


@pytest.fixture
def clock() -> MockClock:
    """Time passes when nothing else happens."""
    return MockClock(autojump_threshold=0.02)


def nurseries() -> int:
    """How many nurseries the tasks have that serve connections."""
    tasks = [trio.lowlevel.current_root_task()]
    count = 0
    while tasks:
        task = tasks.pop()
        if task is not None:
            count += len(task.child_nurseries) if "_run_handler" in task.name else 0
            tasks += [each for nursery in task.child_nurseries for each in nursery.child_tasks]
    return count


async def rest(worker: Worker) -> None:
    """Wait until every session is idle: there is no nursery for it then."""
    await trio.sleep(14)
    assert worker.sessions.attached and not nurseries()


async def test_the_client_says_something(clock: MockClock) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            assert nurseries() == 1
            for _ in range(2):
                await rest(worker)
                await client.send(Data(1, b"hello"))
                assert await client.data(1, 5) == b"hello"


async def test_a_far_end_says_something(clock: MockClock) -> None:
    """Little leaves without anything being waken; of much, what is left does."""
    say = [trio.Event(), trio.Event()]

    async def far(stream: trio.SocketStream) -> None:
        await say[0].wait()
        await stream.send_all(b"little")
        await say[1].wait()
        await stream.send_all(bytes(TOTAL))

    async with running_worker() as (worker, address), tcp_server(far) as port:
        hello = Hello(window=2**31 - 1)
        async with resuming_client(address, hello=hello) as client:
            await client.open(1, HOST, port)
            await rest(worker)
            say[0].set()
            assert await client.data(1, 6) == b"little"
            await rest(worker)
            say[1].set()
            await trio.sleep(3)  # the client reads nothing
            received = 0
            while received < TOTAL:
                received += len((await client.expect(Data)).payload)
                await client.send(Ack(client.taken))
            assert received == TOTAL
            await client.expect(Eof)


async def test_the_worker_stops(clock: MockClock) -> None:
    async with running_worker() as (worker, address), resuming_client(address) as client:
        await rest(worker)
        worker.stop()
        await client.expect(GoAway)
        assert (await client.closed())[0] == 1000


async def test_another_connection_takes_the_session(clock: MockClock) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await rest(worker)
            async with resuming_client(address, hello=client.resumption()) as again:
                again.taken = client.taken
                assert await client.closed() == (
                    4001,
                    "another connection has taken the session over",
                )
                await again.send(Data(1, b"x"))
                assert await again.data(1, 1) == b"x"


async def test_the_client_leaves(clock: MockClock) -> None:
    async with running_worker(resume=600, quiet=600) as (worker, address):
        async with resuming_client(address) as client:
            await rest(worker)
            begin = trio.current_time()
            await client.lose()
            await until(lambda: len(worker.sessions.detached) == 1)
            assert trio.current_time() - begin < 10
        async with resuming_client(address) as client:
            await rest(worker)
            await client.websocket.aclose(1000)
            await until(lambda: not worker.sessions.attached)
            assert len(worker.sessions.detached) == 1


async def test_the_worker_looks_whether_its_client_is_alive(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_worker(quiet=15, patience=10, resume=600) as (worker, address):
        async with resuming_client(address) as client:
            await trio.sleep(100)  # it answers pings
            assert len(worker.sessions.attached) == 1
            await fall_silent(client)
            await trio.sleep(8)
            assert len(worker.sessions.attached) == 1
            await trio.sleep(52)
            assert len(worker.sessions.detached) == 1
    assert "nothing was heard from it for" in caplog.text


async def fall_silent(client: RawClient) -> None:
    """Have a client answer no ping any more: its reader waits for who takes messages."""

    async def nothing(*_: object) -> None:
        await trio.sleep_forever()

    client.stream.receive_some = nothing  # type: ignore[method-assign]
    await client.send(Ping())  # what is read now is the last
    with pytest.raises(trio.TooSlowError), trio.fail_after(1):
        while True:
            await client.expect(Pong, 1000)


async def test_a_far_end_of_v1_ends(clock: MockClock) -> None:
    """And with it the session's only stream."""
    end = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await end.wait()

    async with running_worker(quiet=600) as (worker, address), tcp_server(far) as port:
        async with raw_client(address, greet=False, subprotocols=()) as client:
            await client.open(1, HOST, port)
            await rest(worker)
            end.set()
            assert (await client.expect(Close)).stream == 1
            await trio.sleep(4)
            await client.websocket.aclose(1000)
            await until(lambda: not worker.sessions.attached)
