"""Clients with a token, and far ends, that mean harm to the Cloudflare Worker: memory, connects."""

from __future__ import annotations

import http.client
import select
import socket
from contextlib import suppress
from pathlib import Path

import dns.message
import trio

from tests.kits.doh_server import doh_server
from tests.kits.plain_websocket import (
    BINARY,
    CLOSE,
    client_message,
    close_reason,
    read_frame,
    read_head,
    upgrade_request,
)
from tests.kits.until import until
from tests.kits.worker import echo, raw_client, resuming_client, tcp_server, zone
from tests.kits.workerd import EXAMPLE, TOKEN, Workerd, running_workerd
from tests.workerd.test_limits import PLATFORM, ROOM, SILENT, plain_client
from zks_lwip.protocol import (
    Ack,
    Close,
    Connect,
    Data,
    DnsQuery,
    Eof,
    Error,
    Frame,
    Hello,
    Ping,
    Pong,
    parse,
)

STALL = 2.0
"""Seconds without room to send, after which a client has to read."""


def v1_socket(cloud: Workerd) -> socket.socket:
    """A client of v1 by hand, with little room for what it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.connect(cloud.address)
    token = f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
    sock.sendall(upgrade_request(None)[:-2] + token)
    assert read_head(sock).startswith("HTTP/1.1 101")
    sock.settimeout(60)
    return sock


def messages(*frames: Frame) -> bytes:
    """Each in a message of its own, as v1 has them."""
    return b"".join(client_message(frame.encode()) for frame in frames)


async def hangs(stream: trio.SocketStream) -> None:
    """A far end that takes nothing."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    await trio.sleep_forever()


async def send(sock: socket.socket, data: bytes) -> None:
    await trio.to_thread.run_sync(sock.sendall, data)


async def is_unharmed(cloud: Workerd) -> None:
    """Others are served."""
    async with raw_client(cloud.address, token=TOKEN) as client:
        await client.send(Ping())
        await client.expect(Pong)


def test_a_header_that_takes_long_to_read(cloud: Workerd) -> None:
    """The front has 10 ms of CPU; any client may send it a header."""
    connection = http.client.HTTPConnection(*cloud.address, timeout=60)

    def ask(token: str) -> None:
        headers = {"Upgrade": "websocket", "Authorization": f"Bearer {token}"}
        connection.request("GET", "/tunnel", headers=headers)
        response = connection.getresponse()
        assert response.status == 401
        response.read()

    ask("x")  # what the first request costs does not count
    before = cloud.cpu
    for _ in range(10):
        ask(f"x{' ' * 30_000}y")
    connection.close()
    assert cloud.cpu - before < 1.5


async def test_single_bytes_for_far_ends_that_take_nothing(tmp_path: Path) -> None:
    """What waits costs about what it is, however small the pieces are in which it came."""
    with running_workerd(tmp_path) as cloud:
        async with tcp_server(hangs) as port:
            with plain_client(cloud, Hello(window=1 << 20, max_data=1 << 18, resume=0)) as sock:
                sock.settimeout(60)
                sock.sendall(client_message(Connect(1, "127.0.0.1", port).encode()))
                hello = parse(read_frame(sock)[1])[0]
                assert isinstance(hello, Hello)
                for stream in range(2, 51):
                    sock.sendall(client_message(Connect(stream, "127.0.0.1", port).encode()))
                # what kernels have room for
                filling = [Data(n, bytes(hello.window - 40_000)) for n in range(1, 51)]
                for each in filling:
                    await send(sock, client_message(each.encode()))
                await trio.sleep(1)
                before = cloud.memory
                for stream in range(1, 51):
                    single = Data(stream, b"x").encode() * 40_000
                    await send(sock, client_message(single))
                await send(sock, client_message(Ping().encode()))
                while Pong() not in parse((await trio.to_thread.run_sync(read_frame, sock))[1]):
                    pass
                assert cloud.memory - before < ROOM
        await is_unharmed(cloud)


async def test_single_bytes_for_a_client_that_acknowledges_nothing(tmp_path: Path) -> None:
    """What is kept to be sent again costs about what it is counted as."""
    units = """
import { Kept } from "./kept.js";
import { Buffers } from "./buffers.js";
export default {
  fetch() {
    const kept = new Kept(12 << 20, new Buffers(1 << 18));
    let count = 0;
    while (kept.room > 0 && count < 1e7) {
      kept.add(new Uint8Array(10), 1, 0);
      count++;
    }
    return new Response(String(count));
  },
};
export class Tunnel {}
"""
    with running_workerd(tmp_path, modules={"units.js": units}, main="units.js") as running:
        connection = http.client.HTTPConnection(*running.address, timeout=60)
        connection.request("GET", "/")
        count = int(connection.getresponse().read())
        connection.close()
    assert 1000 < count < 10_000  # of 1 MiB


async def test_v1_many_far_ends_that_take_nothing(tmp_path: Path) -> None:
    """What a client of v1 may leave to be delivered is bounded for all its streams together."""
    with running_workerd(tmp_path) as cloud:
        async with tcp_server(hangs) as port:
            with v1_socket(cloud) as sock:
                sock.sendall(messages(*(Connect(n, "127.0.0.1", port) for n in range(1, 61))))
                piece = bytes(1 << 16)

                async def send_to(streams: range) -> None:
                    for _ in range(7 << 4):  # 7 MiB for each
                        await send(sock, messages(*(Data(n, piece) for n in streams)))

                await send_to(range(101, 161))  # which are not there: V8's garbage is the same
                before = cloud.memory
                await send_to(range(1, 61))
                assert cloud.memory - before < ROOM
        await is_unharmed(cloud)


async def test_v1_a_client_that_answers_no_ping_and_does_not_read(tmp_path: Path) -> None:
    """What waits for it is bounded; when it reads, all comes."""
    sent = 0
    size = 300 << 20

    async def source(stream: trio.SocketStream) -> None:
        nonlocal sent
        for _ in range(size >> 18):
            await stream.send_all(bytes(1 << 18))
            sent += 1 << 18

    # (it is known after a while only that it answers none)
    quick = {
        "session_v1.js": source_of("session_v1.js").replace("PONG_MS = 10000", "PONG_MS = 100")
    }
    with running_workerd(tmp_path, modules=quick) as cloud:
        async with tcp_server(source) as port:
            with v1_socket(cloud) as sock:
                before = cloud.memory
                sock.sendall(messages(Connect(1, "127.0.0.1", port)))
                last = -1
                while sent != last:
                    last = sent
                    await trio.sleep(1)
                assert sent < 64 << 20 and cloud.memory - before < ROOM
                got = 0

                def read() -> None:
                    nonlocal got
                    while got < size:
                        (frame,) = parse(read_frame(sock)[1])
                        got += len(frame.payload) if isinstance(frame, Data) else 0

                with trio.fail_after(240):
                    await trio.to_thread.run_sync(read)


def flood_and_be_closed(sock: socket.socket, flood: bytes) -> bytes:
    """Send without reading, then read up to the Close frame; return its payload.

    Linux drops what comes for a receive buffer that is full, acknowledgements among it; then
    nothing goes out either, for a minute and more, until some is read.
    """
    left = memoryview(flood)
    opcode, payload = BINARY, b""
    with suppress(ConnectionError):  # (it may be thrown out already)
        while left and opcode != CLOSE:
            if select.select([], [sock], [], STALL)[1]:
                left = left[sock.send(left) :]
                continue
            for _ in range(1000):
                if opcode == CLOSE or not select.select([sock], [], [], 0)[0]:
                    break
                opcode, payload = read_frame(sock)
    while opcode != CLOSE:
        opcode, payload = read_frame(sock)
    return payload


async def test_v1_a_client_that_asks_and_does_not_read(tmp_path: Path) -> None:
    """It is thrown out, although it answers no PING."""
    name = ".".join(["a" * 63] * 3)
    query = dns.message.make_query(name, "AXFR").to_wire()  # answered here
    with running_workerd(tmp_path) as cloud:
        with v1_socket(cloud) as sock:
            before = cloud.memory
            flood = messages(DnsQuery(1, query)) * 50_000
            payload = await trio.to_thread.run_sync(flood_and_be_closed, sock, flood)
            assert close_reason(payload)[0] == 1002
            assert cloud.memory - before < 2 * ROOM
        await is_unharmed(cloud)


async def test_acknowledgements_of_what_was_not_read(tmp_path: Path) -> None:
    """They must not have the worker send more than a WebSocket can take."""
    for turn in range(5):
        folder = tmp_path / str(turn)
        folder.mkdir()
        if await acknowledge_without_reading(folder) > 12 << 20:
            return
    raise AssertionError("the worker has never sent much")


async def acknowledge_without_reading(folder: Path) -> int:
    """Return how many bytes the far end could send.

    They are few where the worker reads them in small parts: it then waits for acknowledgements of
    more frames than are known here.
    """
    chunk, piece = 800_000, 16_384
    sent = 0
    more = trio.Event()

    async def source(stream: trio.SocketStream) -> None:
        nonlocal sent, more
        while True:
            await stream.send_all(bytes(chunk))
            sent += chunk
            await more.wait()
            more = trio.Event()

    with running_workerd(folder) as cloud:
        async with tcp_server(source) as port:
            with plain_client(cloud, Hello(window=1 << 30, max_data=piece)) as sock:
                sock.sendall(client_message(Connect(1, "127.0.0.1", port).encode()))
                before = cloud.memory
                with trio.move_on_after(20):
                    turns = 0
                    while turns < 300 or sent <= 12 << 20:
                        turns += 1
                        await trio.sleep(0.01)  # all is read, in frames that are not larger
                        await send(sock, client_message(Ack(sent // piece).encode()))
                        more.set()
                assert cloud.memory - before < ROOM
        await is_unharmed(cloud)
    return sent


async def test_names_of_streams_that_were_aborted_are_not_looked_up(tmp_path: Path) -> None:
    """They stand in no client's way."""
    names = zone({"good.example": ["127.0.0.1"]})
    async with doh_server(names) as server, tcp_server(echo) as port:
        with running_workerd(tmp_path, RESOLVER=server.url) as cloud:
            async with raw_client(cloud.address, token=TOKEN) as client:
                flood = b""
                for stream in range(1, 4001):
                    flood += Connect(stream, f"n{stream}.example", port).encode()
                    flood += Close(stream).encode()
                await client.send(flood)
                await client.open(5000, "good.example", port)
                assert len(server.queries) < 20


async def test_streams_that_are_aborted_at_once_cost_nothing(tmp_path: Path) -> None:
    with running_workerd(tmp_path) as cloud:
        async with raw_client(cloud.address, token=TOKEN) as client:
            before = 0
            for turn in range(25):  # the first of them warm it up
                before = before if turn > 4 else cloud.memory
                flood = (
                    Connect(stream, "127.0.0.1", 9).encode() + Close(stream).encode()
                    for stream in range(1 + 4000 * turn, 1 + 4000 * (turn + 1))
                )
                await client.send(b"".join(flood), Ping())
                await client.expect(Pong)
            assert cloud.memory - before < 32 << 20  # 1 KB each would be 80 MB


async def test_a_stream_that_is_aborted_while_it_connects_leaves_no_connection(
    tmp_path: Path,
) -> None:
    """Aborted while its name was looked up: nothing is connected to, or it is closed again."""
    open_now = 0
    go = trio.Event()
    names = zone({"slow.example": ["127.0.0.1"]})

    async def far(stream: trio.SocketStream) -> None:
        nonlocal open_now
        open_now += 1
        async for _ in stream:
            pass
        open_now -= 1

    async with doh_server(names) as server:
        ask = server.answer_to

        async def slowly(query):  # type: ignore[no-untyped-def]
            await go.wait()
            return await ask(query)

        server.answer_to = slowly  # type: ignore[method-assign]
        with running_workerd(tmp_path, RESOLVER=server.url) as cloud:
            async with tcp_server(far) as port, raw_client(cloud.address, token=TOKEN) as client:
                await client.send(Connect(1, "slow.example", port))
                await until(lambda: server.queries)
                await client.send(Close(1), Ping())
                await client.expect(Pong)
                go.set()
                await client.silent(0.5)
                assert not open_now


async def test_an_aborted_connect_says_nothing_of_the_platform(tmp_path: Path) -> None:
    """A silent far end whose stream was given up must not be taken for a connect held up."""
    modules = {
        "sockets.js": PLATFORM,
        "connects.js": source_of("connects.js").replace("HELD_UP_MS = 5000", "HELD_UP_MS = 3000"),
    }
    with running_workerd(tmp_path, modules=modules) as cloud:
        async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
            for stream in range(1, 7):
                await client.open(stream, "127.0.0.1", port)
            await client.send(Connect(7, "127.0.0.1", SILENT))
            await client.silent(0.2)
            await client.send(Close(7))
            await client.silent(3.2)
            await client.open(8, "127.0.0.1", port)


async def test_no_message_is_larger_than_the_client_takes(cloud: Workerd) -> None:
    async def source(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(4 << 20))
        await trio.sleep_forever()

    hello = Hello(window=8 << 20, max_data=1 << 20, max_message=131072, resume=0)
    async with tcp_server(source) as port:
        with plain_client(cloud, hello) as sock:
            sock.settimeout(60)
            sock.sendall(client_message(Connect(1, "127.0.0.1", port).encode()))
            got = 0
            while got < 4 << 20:
                message = (await trio.to_thread.run_sync(read_frame, sock))[1]
                assert len(message) <= 131072
                for frame in parse(message):
                    got += len(frame.payload) if isinstance(frame, Data) else 0
                    if isinstance(frame, Ping):
                        sock.sendall(client_message(Pong().encode()))


async def test_too_many_lookups_say_nothing_of_the_far_end(tmp_path: Path) -> None:
    """They are answered 429: another object has room."""
    async with doh_server(lambda query, tcp: None) as server:
        with running_workerd(tmp_path, RESOLVER=server.url) as cloud:
            async with raw_client(cloud.address, token=TOKEN) as client:
                names = [Connect(n, f"n{n}.example", 80) for n in range(1, 41)]
                await client.send(*names)
                codes = set()
                for _ in names:
                    frame = await client.expect(Error)
                    codes.add(frame.code)
                assert codes <= {110, 429} and 429 in codes


async def test_a_client_that_acknowledges_nothing_keeps_no_object(tmp_path: Path) -> None:
    """Its streams have ended, but what was said of them waits for an ACK."""
    text = source_of("tunnel.js").replace("LOOK_MS = 30000", "LOOK_MS = 200")
    modules = {"tunnel.js": text.replace("MISSED = 3;", "MISSED = 0.1;")}
    with running_workerd(tmp_path, modules=modules) as cloud:
        async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Eof(1))
            await client.expect(Eof)
            assert (await client.closed())[0] == 1001


def source_of(module: str) -> str:
    """The text of a module of the example."""
    return (EXAMPLE / "src" / module).read_text()
