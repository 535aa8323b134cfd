"""What a worker pays for clients that are there and do nothing, in bytes."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import trio

from tests.unit.test_hostile_client import UPGRADE, message
from tests.unit.worker_kit import echo, running_worker, tcp_server, until
from zks_lwip.tunnel.frames import Connect, Data, Hello, Unknown, Window
from zks_lwip.worker import Limits

SESSIONS = 200
#: Most bytes of one session. Its client's end in this process, a socket, is among them.
MOST = {"v1": 45_000, "v2": 50_000}


async def idle_client(address: tuple[str, int], version: str) -> trio.socket.SocketType:
    sock = trio.socket.socket()
    await sock.connect(address)
    offer = "Sec-WebSocket-Protocol: zks-tunnel.v2\r\n" if version == "v2" else ""
    await sock.send(f"{UPGRADE}{offer}\r\n".encode())
    assert (await sock.recv(65536)).startswith(b"HTTP/1.1 101")
    if version == "v2":
        await sock.send(message(Hello(window=1 << 20).encode()))
        assert await sock.recv(65536)
    return sock


@pytest.mark.parametrize("version", MOST)
async def test_an_idle_session(version: str) -> None:
    limits = Limits(sessions=2 * SESSIONS)
    async with running_worker(limits=limits) as (_, address):
        clients = [await idle_client(address, version) for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(SESSIONS):
                clients.append(await idle_client(address, version))
            await trio.sleep(0.2)
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / SESSIONS
        finally:
            tracemalloc.stop()
        print(f"{each:,.0f} bytes for a session")
        for client in clients:
            client.close()
    assert each < MOST[version]


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
            """Much comes that is for nobody, and then much of an echo goes."""
            stream = trio.SocketStream(client)
            nothing = Unknown(0x50, 0, bytes(800_000)).encode()
            if version == "v1":  # DATA for a stream that is not open
                nothing = Data(9, bytes(800_000)).encode()
            await stream.send_all(message(nothing) * 4)
            await stream.send_all(message(Connect(1, "127.0.0.1", port).encode()))
            received = len(await stream.receive_some())
            for _ in range(4):
                await stream.send_all(message(Data(1, bytes(60_000)).encode()))
            with trio.fail_after(60):
                while received < 240_000:
                    received += len(await stream.receive_some())
            if version == "v2":
                await stream.send_all(message(Window(1, 1).encode()))

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
