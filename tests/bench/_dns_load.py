"""What ``tests.bench dns`` compares with: a plain HTTP/2 script, and closed loops of queries."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator

import dns.message
import h2.config
import h2.connection
import h2.events
import trio

from tests.kits.dns_daemons import NAME, PATH, Daemons

_serial = itertools.count()


def names() -> Iterator[str]:
    """Names that have never been asked before and all exist."""
    while True:
        yield f"n{next(_serial)}.wild.zks.test"


def query(name: str) -> bytes:
    return dns.message.make_query(name, "A", use_edns=0).to_wire()


async def closed_loop(
    ask: Callable[[bytes], Awaitable[bytes]], queries: list[bytes], in_flight: int
) -> tuple[float, list[float]]:
    """Queries a second with `in_flight` at a time, and the seconds that each took."""
    left = iter(queries)
    times: list[float] = []

    async def one() -> None:
        for message in left:
            started = time.perf_counter()
            answer = await ask(message)
            times.append(time.perf_counter() - started)
            if answer[3] & 15 or not answer[7]:
                raise RuntimeError(f"a wrong answer: {answer.hex()}")

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(one)
    return len(times) / (time.perf_counter() - started), times


class PlainH2:
    """DNS over HTTPS with h2 and trio and nothing else: the script that we are measured against."""

    def __init__(self, running: Daemons, port: int) -> None:
        self._context = ssl.create_default_context(cafile=str(running.ca_file))
        self._context.set_alpn_protocols(["h2"])
        self._running, self._port = running, port
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._waiting: dict[int, tuple[trio.Event, bytearray]] = {}
        self._news = trio.Event()
        self._head = [
            (":method", "POST"), (":scheme", "https"), (":authority", f"{NAME}:{port}"),
            (":path", PATH), ("content-type", "application/dns-message"),
        ]  # fmt: skip

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        transport = await trio.open_tcp_stream(self._running.address, self._port)
        stream = trio.SSLStream(transport, self._context, server_hostname=NAME)
        self._h2.initiate_connection()
        await stream.send_all(self._h2.data_to_send())
        async with transport, trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            task_status.started()
            while data := await stream.receive_some(65536):
                for event in self._h2.receive_data(bytes(data)):
                    if isinstance(event, h2.events.DataReceived):
                        self._waiting[event.stream_id][1].extend(event.data)
                        self._h2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    elif isinstance(event, h2.events.StreamEnded):
                        self._waiting[event.stream_id][0].set()
                self._news.set()

    async def _write(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            if data := self._h2.data_to_send():
                await stream.send_all(data)

    async def ask(self, message: bytes) -> bytes:
        number = self._h2.get_next_available_stream_id()
        waiting = self._waiting[number] = (trio.Event(), bytearray())
        length = ("content-length", str(len(message)))
        self._h2.send_headers(number, [*self._head, length])
        self._h2.send_data(number, message, end_stream=True)
        self._news.set()
        await waiting[0].wait()
        del self._waiting[number]
        return bytes(waiting[1])


def over_udp(
    address: str, port: int, queries: list[bytes], in_flight: int
) -> tuple[float, list[float]]:
    """The same closed loop over plain UDP, without trio. Lost datagrams are sent again."""
    times: list[float] = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect((address, port))
        sock.settimeout(1)
        left = iter(enumerate(queries))
        waiting: dict[int, tuple[float, bytes]] = {}

        def send_next() -> None:
            for number, message in left:
                ident = number & 0xFFFF
                waiting[ident] = (time.perf_counter(), struct.pack("!H", ident) + message[2:])
                sock.send(waiting[ident][1])
                return

        started = time.perf_counter()
        for _ in range(in_flight):
            send_next()
        while waiting:
            try:
                answer = sock.recv(65535)
            except TimeoutError:
                for _, message in waiting.values():
                    sock.send(message)
                continue
            sent = waiting.pop(int.from_bytes(answer[:2], "big"), None)
            if sent is not None:
                times.append(time.perf_counter() - sent[0])
                send_next()
    return len(queries) / (time.perf_counter() - started), times
