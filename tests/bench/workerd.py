"""Bulk through the Cloudflare Worker under workerd, against a bare WebSocket of the same worker.

The bare WebSocket's object reads the same socket in the same way and sends what it reads, without
frames, numbers or credit: what is left of that is the protocol's price in JavaScript. Client and
far end are plain sockets in other processes. "Our carrier" is the bare WebSocket by the code that
the real client has under its session, and the last row is that client's tunnel: both in Python, and
compared with each other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.bench import _measure as measure
from tests.kits.plain_websocket import client_message, receive_exactly, upgrade_request
from tests.kits.workerd import TOKEN, Workerd, running_workerd
from zks_lwip.carrier.upgrade import upgrade_websocket
from zks_lwip.protocol import Ack, Connect, Data, Eof, Hello, Ping, Pong, Window, parse
from zks_lwip.tunnel import Tunnel, TunnelConfig

MAIN = """
import { connect } from "cloudflare:sockets";
import front, { Tunnel as Original } from "./index.js";

const AHEAD = 12 << 20;

export class Tunnel extends Original {
  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname !== "/bare") return super.fetch(request);
    const { 0: theirs, 1: ours } = new WebSocketPair();
    this.ctx.acceptWebSocket(ours);
    this.bare = connect({ hostname: "127.0.0.1", port: Number(url.searchParams.get("port")) }, {});
    this.ahead = 0;
    this.room = null;
    if (url.searchParams.has("down")) this.down(ours);
    else this.writer = this.bare.writable.getWriter();
    return new Response(null, { status: 101, webSocket: theirs });
  }
  async down(socket) {
    const reader = this.bare.readable.getReader({ mode: "byob" });
    for (;;) {
      while (this.ahead > AHEAD) await new Promise((resolve) => (this.room = resolve));
      const { value, done } = await reader.read(new Uint8Array(262144));
      if (done) break;
      this.ahead += value.length;
      socket.send(value);
    }
    socket.close(1000, "");
  }
  webSocketMessage(socket, message) {
    if (!this.bare) return super.webSocketMessage(socket, message);
    if (!this.writer) {
      this.ahead -= new DataView(message).getUint32(0);
      this.room?.();
    } else {
      this.writer.write(message);
    }
  }
  webSocketClose(socket, ...rest) {
    if (this.writer) this.writer.close();
    return super.webSocketClose(socket, ...rest);
  }
}

export default {
  fetch(request, env) {
    if (new URL(request.url).pathname !== "/bare") return front.fetch(request, env);
    return env.TUNNELS.get(env.TUNNELS.newUniqueId()).fetch(request);
  },
};
"""
WINDOW = 4 << 20
PIECE = 250_000


def upgrade(cloud: Workerd, path: str) -> socket.socket:
    sock = socket.create_connection(cloud.address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    offer = None if path.startswith("/bare") else "zks-tunnel.v2"
    head = upgrade_request(offer).decode().replace("/tunnel", path, 1)
    sock.sendall(head.replace("\r\n", f"\r\nAuthorization: Bearer {TOKEN}\r\n", 1).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += receive_exactly(sock, 1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return sock


class Frames:
    """Reads a server's frames of RFC 6455 without a copy."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(1 << 21))

    def read(self) -> tuple[int, memoryview]:
        """Return opcode and payload of the next, which is valid until the one after."""
        first, second = receive_exactly(self._sock, 2)
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", receive_exactly(self._sock, 2))
        elif second == 127:
            (size,) = struct.unpack("!Q", receive_exactly(self._sock, 8))
        done = 0
        while done < size:
            done += self._sock.recv_into(self._buffer[done:size])
        return first & 15, self._buffer[:size]


def bare_down(cloud: Workerd, port: int, size: int) -> None:
    with upgrade(cloud, f"/bare?down&port={port}") as sock:
        frames = Frames(sock)
        got = told = 0
        while got < size:
            _, payload = frames.read()
            got += len(payload)
            if 1 << 20 <= got - told and got < size:
                sock.sendall(client_message((got - told).to_bytes(4)))
                told = got


def bare_up(cloud: Workerd, port: int, size: int) -> None:
    with upgrade(cloud, f"/bare?port={port}") as sock:
        piece = client_message(bytes(PIECE))
        for _ in range(size // PIECE):
            sock.sendall(piece)
        sock.sendall(client_message(bytes(size % PIECE)))
        sock.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        Frames(sock).read()


def greet(sock: socket.socket, frames: Frames, port: int, resume: int) -> None:
    hello = Hello(window=WINDOW, max_data=1 << 18, resume=resume)
    sock.sendall(client_message(hello.encode()))
    assert frames.read()[1][0] == Hello.command
    sock.sendall(client_message(Connect(1, "127.0.0.1", port).encode()))


def tunnel_down(resume: int, cloud: Workerd, port: int, size: int) -> None:
    with upgrade(cloud, "/tunnel") as sock:
        frames = Frames(sock)
        greet(sock, frames, port, resume)
        got = granted = taken = acknowledged = 0
        while got < size:
            _, payload = frames.read()
            if payload[0] == Data.command:
                got += len(payload) - 9
                taken += 1
            else:
                for frame in parse(payload):
                    taken += frame.counted
                    if isinstance(frame, Ping):
                        sock.sendall(client_message(Pong().encode()))
            answer = b""
            if resume and got - acknowledged >= 1 << 19:
                answer += Ack(taken).encode()
                acknowledged = got
            if got - granted >= WINDOW // 2:
                answer += Window(1, got - granted).encode()
                granted = got
            if answer:
                sock.sendall(client_message(answer))


def tunnel_up(resume: int, cloud: Workerd, port: int, size: int) -> None:
    with upgrade(cloud, "/tunnel") as sock:
        frames = Frames(sock)
        greet(sock, frames, port, resume)
        credit, sent, ended = 65536, 0, False
        while not ended:
            if credit and sent < size:
                piece = min(credit, PIECE, size - sent)
                sock.sendall(client_message(Data(1, bytes(piece)).encode()))
                sent += piece
                credit -= piece
                if sent == size:
                    sock.sendall(client_message(Eof(1).encode()))
                continue
            for frame in parse(bytes(frames.read()[1])):
                if isinstance(frame, Window):
                    credit += frame.credit
                elif isinstance(frame, Ping):
                    sock.sendall(client_message(Pong().encode()))
                elif isinstance(frame, Eof):
                    ended = True


def bare_by_our_carrier(up: bool, cloud: Workerd, port: int, size: int) -> None:
    """A bare WebSocket, but by the code that the real client carries its session over."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            tcp = await trio.open_tcp_stream(*cloud.address)
            path = f"/bare?{'up' if up else 'down'}&port={port}"
            connection = await upgrade_websocket(nursery, tcp, host="worker", path=path)
            done = told = 0
            while up and done < size:
                await connection.send_message(bytearray(PIECE))
                done += PIECE
            while done < size:
                done += len(await connection.receive_message())
                if 1 << 20 <= done - told and done < size:
                    await connection.send_message((done - told).to_bytes(4))
                    told = done
            await connection.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


def real(up: bool, cloud: Workerd, port: int, size: int) -> None:
    async def main() -> None:
        tunnel = Tunnel(TunnelConfig(url=cloud.url, token=TOKEN))
        async with trio.open_nursery() as nursery:
            await nursery.start(tunnel.run)
            stream = await tunnel.connect_tcp("127.0.0.1", port)
            if up:
                for _ in range(size // PIECE):
                    await stream.send_all(bytes(PIECE))
                await stream.send_all(bytes(size % PIECE))
                await stream.send_eof()
                await stream.receive_some()
            else:
                got = 0
                while got < size:
                    got += len(await stream.receive_some(1 << 20))
            nursery.cancel_scope.cancel()

    trio.run(main)


def source(listener: socket.socket, size: int) -> None:
    piece = bytes(1 << 20)
    while True:
        sock, _ = listener.accept()
        with sock:
            for _ in range(size >> 20):
                sock.sendall(piece)


def sink(listener: socket.socket, size: int) -> None:
    buffer = bytearray(1 << 20)
    while True:
        sock, _ = listener.accept()
        with sock:
            while sock.recv_into(buffer):
                pass


@contextmanager
def far_end(serve: Callable[[socket.socket, int], None], size: int) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.Process(target=serve, args=(listener, size), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.kill()
            process.join()


WAYS: dict[str, list[tuple[str, Callable[..., None]]]] = {
    "down": [
        ("bare WebSocket", bare_down),
        ("bare, our carrier", lambda *a: bare_by_our_carrier(False, *a)),
        ("tunnel, not resumed", lambda *a: tunnel_down(0, *a)),
        ("tunnel, resumable", lambda *a: tunnel_down(60, *a)),
        ("the real client", lambda *a: real(False, *a)),
    ],
    "up": [
        ("bare WebSocket", bare_up),
        ("bare, our carrier", lambda *a: bare_by_our_carrier(True, *a)),
        ("tunnel, not resumed", lambda *a: tunnel_up(0, *a)),
        ("tunnel, resumable", lambda *a: tunnel_up(60, *a)),
        ("the real client", lambda *a: real(True, *a)),
    ],
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench workerd", description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="MiB of each transfer (256)")
    parser.add_argument("--rounds", type=int, default=3, help="of each; the median counts (3)")
    arguments = parser.parse_args(argv)
    size = arguments.size << 20
    print(measure.machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"modules": {"main.js": MAIN}, "main": "main.js"}
        for direction, ways in WAYS.items():
            rates: dict[str, list[float]] = {name: [] for name, _ in ways}
            costs: dict[str, list[float]] = {name: [] for name, _ in ways}
            serve = source if direction == "down" else sink
            with running_workerd(Path(folder), **options) as cloud, far_end(serve, size) as port:
                for _ in range(arguments.rounds):
                    for name, transfer in ways:
                        cpu, began = cloud.cpu, time.perf_counter()
                        transfer(cloud, port, size)
                        rates[name].append(size / (time.perf_counter() - began))
                        costs[name].append((cloud.cpu - cpu) / size)
            bare = statistics.median(rates["bare WebSocket"])
            for name, _ in ways:
                rate = statistics.median(rates[name])
                cost = statistics.median(costs[name])
                rows.append(
                    [
                        f"{direction}, {name}",
                        f"{rate / 1e6:.0f}",
                        f"{rate / bare:.0%}",
                        f"{cost * 1e9:.2f}",
                    ]
                )
    measure.table(["", "MB/s", "of bare", "workerd CPU ms/MB"], rows)
    return 0
