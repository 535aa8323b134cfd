"""Very many sessions at one worker: what each takes, and how they come back when all are lost.

The worker is a process of its own, on loopback, whose resident memory is read; clients are plain
sockets. First sessions without a stream, with a WebSocket and without; then some streams in each,
all of which are lost at once and come back, and each of which then has to carry bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import trio

from tests.bench import _measure as measure
from tests.kits import plain_websocket as websocket
from tests.kits.plain_websocket import client_message, frame, upgrade_request
from zks_lwip.net.descriptors import raise_descriptor_limit
from zks_lwip.protocol import Connect, Connected, Data, Frame, Hello, Window, parse

HOST = "127.0.0.1"
AT_ONCE = 50
"""Clients that open their connections at the same time."""


class Worker:
    """The worker's process, and what it has said last."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.address = HOST, port
        self.said: dict[str, float] = {}

    async def listen(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self.said = json.loads(line)

    async def settled(self, attached: int, detached: int) -> dict[str, float]:
        """What it says once it holds so many, and has rested."""
        with trio.fail_after(120):
            while (self.said.get("attached"), self.said.get("detached")) != (attached, detached):
                await trio.sleep(0.05)
        await trio.sleep(2)
        return self.said


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    buffer = b""
    async for piece in stream:
        *whole, buffer = (buffer + piece).split(b"\n")
        for line in whole:
            yield line


class Client:
    """One client, with a connection or without."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sock = trio.socket.socket()
        self._buffer = b""
        self.session: str | None = None
        self.taken = 0
        self.streams: dict[int, int] = {}

    async def come(self) -> None:
        """Open a connection, for the session that it had before if it had one."""
        self._sock = trio.socket.socket()
        self._buffer = b""
        await self._sock.connect(self._worker.address)
        await self._sock.send(upgrade_request())
        head = await self._sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 101"), head
        await self.send(Hello(session=self.session, received=self.taken))
        hello = await self.receive()
        assert isinstance(hello, Hello)
        assert self.session in (None, hello.session), "another session"
        self.session = hello.session

    def go(self) -> None:
        """Lose the connection."""
        self._sock.close()

    async def send(self, *frames: Frame) -> None:
        await self._sock.send(client_message(b"".join(each.encode() for each in frames)))

    async def receive(self) -> Frame:
        """The next frame but WINDOW and ACK; there is never more than one."""
        while True:
            for opcode, payload in self._messages():
                if opcode == websocket.PING:
                    await self._sock.send(frame(payload, websocket.PONG, masked=True))
                    continue
                frames = parse(payload)
                self.taken += sum(each.counted for each in frames)
                answers = [each for each in frames if isinstance(each, (Hello, Connected, Data))]
                if answers:
                    (answer,) = answers
                    return answer
            piece = await self._sock.recv(65536)
            assert piece, "the worker hung up"
            self._buffer += piece

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """The messages that have come whole: what they are, and their payload."""
        while len(self._buffer) >= 2:
            size, head = self._buffer[1], 2
            if size == 126:
                size, head = int.from_bytes(self._buffer[2:4], "big"), 4
            end = head + size
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[:end], self._buffer[end:]
            yield message[0] & 15, message[head:]

    async def open(self, count: int, port: int) -> None:
        """Open streams, one after the other."""
        for stream in range(1, count + 1):
            await self.send(Connect(stream, HOST, port))
            assert isinstance(await self.receive(), Connected)
            self.streams[stream] = 0

    async def talk(self) -> None:
        """Have each stream carry a line and its echo."""
        for stream in self.streams:
            line = f"{self.session} {stream} {self.streams[stream]}".encode()
            self.streams[stream] += 1
            await self.send(Data(stream, line))
            answer = await self.receive()
            assert isinstance(answer, Data)
            assert (answer.stream, bytes(answer.payload)) == (stream, line), "another's bytes"
            await self.send(Window(stream, len(line)))


async def _each(
    clients: list[Client], work: Callable[[Client], Coroutine[Any, Any, None]]
) -> float:
    """Do something with every client, some at a time; seconds."""
    room = trio.CapacityLimiter(AT_ONCE)
    began = time.perf_counter()

    async def one(client: Client) -> None:
        async with room:
            await work(client)

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(one, client)
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def _far_end() -> AsyncIterator[int]:
    """An echo server: one task for all connections would be no slower, but this is simpler."""

    async def echo(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for piece in stream:
                await stream.send_all(piece)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(
                echo, 0, host=HOST, backlog=4096, task_status=task_status
            )
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _measure(count: int, streams: int) -> None:
    command = [sys.executable, "-m", "tests.bench._session_worker", str(count + AT_ONCE)]
    async with trio.open_nursery() as nursery, _far_end() as port:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                command, check=False, stdout=subprocess.PIPE, task_status=task_status
            )
        )
        try:
            lines = _lines(process.stdout)
            worker = Worker(process, json.loads(await anext(lines))["port"])
            nursery.start_soon(worker.listen, lines)
            await _run(worker, count, streams, port)
        finally:
            process.kill()
        nursery.cancel_scope.cancel()


async def _run(worker: Worker, count: int, streams: int, port: int) -> None:
    rows: list[list[str]] = []
    warm = [Client(worker) for _ in range(20)]
    await _each(warm, Client.come)
    for client in warm:
        client.go()
    base = (await worker.settled(0, 20))["resident"]

    async def note(what: str, seconds: float, attached: int, detached: int) -> None:
        said = await worker.settled(attached, detached + 20)
        each = (said["resident"] - base) / count
        rows.append([what, f"{seconds:.1f}", f"{each:,.0f}", f"{said['cpu']:.1f}"])

    clients = [Client(worker) for _ in range(count)]
    await note("without a stream", await _each(clients, Client.come), count, 0)
    for client in clients:
        client.go()
    await note("lost", 0.0, 0, count)
    await note("back", await _each(clients, Client.come), count, 0)
    took = await _each(clients, lambda client: client.open(streams, port))
    await note(f"with {streams} streams", took, count, 0)
    await note("that have carried bytes", await _each(clients, Client.talk), count, 0)
    for client in clients:
        client.go()
    await note("lost", 0.0, 0, count)
    await note("back", await _each(clients, Client.come), count, 0)
    await note("each has carried bytes", await _each(clients, Client.talk), count, 0)
    measure.table(
        [f"{count:,} sessions", "took s", "bytes a session", "CPU s of the worker so far"], rows
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench sessions", description=__doc__)
    parser.add_argument("--sessions", type=int, default=2000, help="(2000)")
    parser.add_argument("--streams", type=int, default=5, help="in each (5)")
    arguments = parser.parse_args(argv)
    raise_descriptor_limit()
    print(measure.machine())
    trio.run(_measure, arguments.sessions, arguments.streams)
    return 0
