"""What a worker pays for clients that are there and do nothing, in bytes."""

from __future__ import annotations

import gc
import os
import platform
import sys
import tracemalloc
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.kits.plain_websocket import V2, client_message, upgrade_request
from tests.kits.tunnel import tunnelling
from tests.kits.until import until
from tests.kits.worker import echo, running_worker, tcp_server
from zks_lwip.protocol import Connect, Data, Hello, Ping, Pong, Unknown, Window
from zks_lwip.worker import Limits

SESSIONS = 200
#: Most bytes of one session. Its client's end in this process, a socket, is among them.
MOST = {"v1": 14_000, "v2": 14_000}


#: Most bytes of one that has lost its WebSocket.
MOST_DETACHED = 9_500


async def idle_client(
    address: tuple[str, int], version: str, resume: int = 0
) -> trio.socket.SocketType:
    sock = trio.socket.socket()
    await sock.connect(address)
    await sock.send(upgrade_request(V2 if version == "v2" else None))
    assert (await sock.recv(65536)).startswith(b"HTTP/1.1 101")
    if version == "v2":
        hello = Hello(window=1 << 20, resume=resume)  # it acknowledges nothing
        await sock.send(client_message(hello.encode()))
        assert await sock.recv(65536)
    return sock


@pytest.mark.parametrize("version", MOST)
async def test_an_idle_session(version: str) -> None:
    limits = Limits(sessions=2 * SESSIONS)
    async with running_worker(limits=limits) as (_, address):
        clients = [await idle_client(address, version) for _ in range(10)]
        await trio.sleep(2)
        # The connection's, and its reader's
        most = trio.lowlevel.current_statistics().tasks_living + 2 * SESSIONS
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(SESSIONS):
                clients.append(await idle_client(address, version))
            await until(lambda: trio.lowlevel.current_statistics().tasks_living <= most)
            await trio.sleep(2.5)
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / SESSIONS
        finally:
            tracemalloc.stop()
        print(f"{each:,.0f} bytes for a session")
        with trio.fail_after(30):  # it is not too idle to answer
            await clients[-1].send(client_message(Ping().encode()))
            assert (await clients[-1].recv(65536)).endswith(Pong().encode())
        for client in clients:
            client.close()
    assert each < MOST[version]


async def test_a_session_without_a_connection() -> None:
    """What a connection took is freed at once: no cycle holds it until Python looks for cycles."""
    limits = Limits(sessions=2 * SESSIONS)
    async with running_worker(limits=limits) as (worker, address):

        async def lose(count: int) -> None:
            clients = [await idle_client(address, "v2", resume=60) for _ in range(count)]
            for client in clients:
                client.close()
            await until(lambda: not worker.sessions.attached)
            await trio.sleep(0.2)

        await lose(10)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            await lose(SESSIONS)
            each = tracemalloc.get_traced_memory()[0] / SESSIONS
        finally:
            tracemalloc.stop()
            gc.enable()
        print(f"{each:,.0f} bytes for a session")
        assert len(worker.sessions.detached) == SESSIONS + 10
    assert each < MOST_DETACHED


@pytest.fixture
def clock() -> MockClock:
    """Time passes when nothing else happens."""
    return MockClock(autojump_threshold=0.02)


@pytest.mark.skipif(
    sys.platform != "linux"
    or platform.libc_ver()[0] != "glibc"
    or "ZKS_LWIP_SANITIZE" in os.environ,  # sanitizers bring an allocator of their own
    reason="glibc's allocator",
)
async def test_what_a_websocket_took_goes_back_to_the_system(clock: MockClock) -> None:
    """Python frees it; one small block behind it keeps glibc from giving it back by itself."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async with running_worker(quiet=600) as (worker, address):
        client = await idle_client(address, "v2", resume=60)
        await trio.sleep(5)
        pieces = [bytearray(b"x" * 60_000) for _ in range(500)]
        last = bytearray(b"x" * 60_000)
        del pieces
        full = resident()
        client.close()
        await until(lambda: not worker.sessions.attached)
        await trio.sleep(40)
        await until(lambda: full - resident() > 20 << 20)
        assert len(worker.sessions.detached) == 1 and last


def held() -> int:
    """Bytes that were allocated by what a worker's connection is made of, and are in use."""
    names = ("*/zks_lwip/*", "*/trio_websocket/*", "*/wsproto/*")
    snapshot = tracemalloc.take_snapshot()
    mine = snapshot.filter_traces([tracemalloc.Filter(True, name) for name in names])
    return sum(trace.size for trace in mine.traces)


@pytest.mark.parametrize("version", MOST)
async def test_a_session_that_was_busy_once(version: str) -> None:
    """Buffers that grew with what came and went are not kept by each session."""
    count = 30
    limits = Limits(sessions=2 * SESSIONS)
    async with running_worker(limits=limits) as (worker, address), tcp_server(echo) as port:
        clients = [await idle_client(address, version) for _ in range(2 * count)]

        async def be_busy(client: trio.socket.SocketType) -> None:
            """Much comes that is for no stream, and then much of an echo goes."""
            stream = trio.SocketStream(client)
            nothing = Unknown(0x50, 0, bytes(800_000)).encode()
            if version == "v1":  # DATA for a stream that is not open
                nothing = Data(9, bytes(800_000)).encode()
            await stream.send_all(client_message(nothing) * 4)
            await stream.send_all(client_message(Connect(1, "127.0.0.1", port).encode()))
            received = len(await stream.receive_some())
            for _ in range(4):
                await stream.send_all(client_message(Data(1, bytes(60_000)).encode()))
            with trio.fail_after(60):
                while received < 240_000:
                    received += len(await stream.receive_some())
            if version == "v2":
                await stream.send_all(client_message(Window(1, 1).encode()))

        tracemalloc.start()
        try:
            for client in clients[:count]:
                await be_busy(client)
            gc.collect()
            shared = held()  # a few buffers, and a session each
            for client in clients[count:]:
                await be_busy(client)
            await until(lambda: not any(a.held for a in worker.accounts.values()))
            await trio.sleep(0.2)
            gc.collect()
            each = (held() - shared) / count
        finally:
            tracemalloc.stop()
        print(f"{each:,.0f} bytes more for a session")
        for client in clients:
            client.close()
    assert each < 100_000  # of what all share, too: it may still grow


async def test_a_session_that_has_ended() -> None:
    """No buffer is held, at either end, by what is freed when Python looks for cycles."""
    size, count = 4 << 20, 12
    async with running_worker() as (worker, address), tcp_server(echo) as port:

        async def come_and_go() -> None:
            async with (
                tunnelling(f"ws://{address[0]}:{address[1]}/tunnel") as tunnel,
                trio.open_nursery() as nursery,
            ):
                stream = await tunnel.connect_tcp("127.0.0.1", port)
                nursery.start_soon(stream.send_all, bytes(size))
                with trio.fail_after(60):
                    received = 0
                    while received < size:
                        received += len(await stream.receive_some())
            await until(lambda: not worker.sessions.attached)

        tracemalloc.start()
        try:
            await come_and_go()
            gc.collect()
            gc.disable()
            await come_and_go()
            shared = held()  # the buffers that all use in turn
            for _ in range(count):
                await come_and_go()
            each = (held() - shared) / count
        finally:
            tracemalloc.stop()
            gc.enable()
    print(f"{each:,.0f} bytes more for a session")
    assert each < 300_000  # a buffer that has grown has 500,000, and each end has one
