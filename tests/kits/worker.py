"""Real far ends on loopback for the worker's tests: name servers, TCP servers, listeners."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.rrset
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.kits.ports import on_one_port
from tests.kits.until import until
from zks_lwip.net.descriptors import Descriptors
from zks_lwip.net.readiness import Readiness
from zks_lwip.protocol import Ack, Connect, Connected, Data, Frame, Hello, Ping, Pong, Window, parse
from zks_lwip.worker import Worker, WorkerConfig, parse_network
from zks_lwip.worker.handover import Handover
from zks_lwip.worker.limits import QueryBudget
from zks_lwip.worker.nameservers import NameServer
from zks_lwip.worker.udp_sockets import DatagramSockets

F = TypeVar("F", bound=Frame)
Answerer = Callable[[dns.message.Message, bool], "bytes | list[bytes] | None"]


def answer(query: dns.message.Message, *records: str, ttl: int = 60, rcode: int = 0) -> bytes:
    """A response that gives the question's name these records."""
    response = dns.message.make_response(query)
    response.set_rcode(rcode)
    question = query.question[0]
    for record in records:  # each a set of its own: dnspython shuffles a set
        response.answer.append(
            dns.rrset.from_text(question.name, ttl, "IN", question.rdtype, record)
        )
    return response.to_wire()


def truncated(query: dns.message.Message) -> bytes:
    """An empty response with TC set."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


def zone(names: dict[str, list[str]]) -> Answerer:
    """A and AAAA records by name; NXDOMAIN for others."""

    def respond(query: dns.message.Message, tcp: bool) -> bytes:
        question = query.question[0]
        addresses = names.get(question.name.to_text(omit_final_dot=True).lower())
        if addresses is None:
            return answer(query, rcode=3)
        wants_v6 = question.rdtype == 28
        return answer(query, *(a for a in addresses if (":" in a) == wants_v6))

    return respond


class FakeNameServer:
    """A name server on loopback, UDP and TCP, that answers as ``respond`` says (None: silence)."""

    def __init__(self, respond: Answerer) -> None:
        self.respond = respond
        self.queries: list[tuple[bytes, bool]] = []
        self.sources: list[tuple[str, int]] = []
        self._sock: trio.socket.SocketType | None = None
        self.server = NameServer(ip_address("127.0.0.1"), 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeNameServer]:
        tcp, udp = map(
            trio.socket.from_stdlib_socket,
            on_one_port((socket.SOCK_STREAM, "127.0.0.1"), (socket.SOCK_DGRAM, "127.0.0.1")),
        )
        tcp.listen()
        port = tcp.getsockname()[1]
        self.server = NameServer(ip_address("127.0.0.1"), port)
        self._sock = udp
        with tcp, udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._udp, udp)
                nursery.start_soon(trio.serve_listeners, self._tcp, [trio.SocketListener(tcp)])
                yield self
                nursery.cancel_scope.cancel()

    async def say(self, message: bytes, target: tuple[str, int]) -> None:
        """Send a datagram of its own accord."""
        assert self._sock is not None
        await self._sock.sendto(message, target)

    def _answers(self, wire: bytes, tcp: bool) -> list[bytes]:
        self.queries.append((wire, tcp))
        answers = self.respond(dns.message.from_wire(wire), tcp)
        if answers is None:
            return []
        return answers if isinstance(answers, list) else [answers]

    async def _udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            wire, source = await sock.recvfrom(65535)
            self.sources.append(source)
            for reply in self._answers(wire, False):
                await sock.sendto(reply, source)

    async def _tcp(self, stream: trio.SocketStream) -> None:
        buffer = b""
        async for piece in stream:
            buffer += piece
            if len(buffer) >= 2 and len(buffer) >= 2 + int.from_bytes(buffer[:2], "big"):
                for reply in self._answers(buffer[2:], True):
                    await stream.send_all(struct.pack("!H", len(reply)) + reply)
                buffer = b""


@asynccontextmanager
async def tcp_server(
    handler: Callable[[trio.SocketStream], Awaitable[None]], host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """A TCP server on loopback; its port."""

    async def guarded(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # the worker reset it, as many tests want
                await handler(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, guarded, port, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


class RawClient:
    """A client that says whatever a test wants, over a real WebSocket of another make."""

    def __init__(self, websocket: WebSocketConnection, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.websocket = websocket
        self.frames: list[Frame] = []
        self.hello = Hello()
        self.credit: dict[int, int] = {}
        #: Counted frames (PROTOCOL.md §6) that :meth:`receive` has taken.
        self.taken = 0
        #: What the worker has acknowledged last.
        self.acknowledged = 0

    async def send(self, *frames: Frame | bytes) -> None:
        await self.websocket.send_message(
            b"".join(f if isinstance(f, bytes) else f.encode() for f in frames)
        )

    async def send_data(self, stream: int, size: int) -> None:
        """Send ``size`` zero bytes of DATA, a multiple of 250,000."""
        for _ in range(0, size, 250_000):
            await self.send(Data(stream, bytes(250_000)))

    async def receive(self) -> Frame:
        """The next frame; PING is answered, WINDOW is added up, ACK is noted."""
        while True:
            while not self.frames:
                message = await self.websocket.get_message()
                assert isinstance(message, bytes)
                self.frames = parse(message)
            frame = self.frames.pop(0)
            self.taken += frame.counted
            if isinstance(frame, Ping):
                await self.send(Pong())
            elif isinstance(frame, Window):
                self.credit[frame.stream] = self.credit.get(frame.stream, 0) + frame.credit
            elif isinstance(frame, Ack):
                self.acknowledged = frame.count
            else:
                return frame

    async def expect(self, kind: type[F], seconds: float = 60) -> F:
        """The next frame, which has to be of this kind."""
        with trio.fail_after(seconds):
            frame = await self.receive()
        assert isinstance(frame, kind), frame
        return frame

    async def silent(self, seconds: float = 0.15) -> None:
        """Nothing comes for a while."""
        with trio.move_on_after(seconds):
            raise AssertionError(f"unexpected: {await self.receive()}")

    async def open(self, stream: int, host: str, port: int) -> None:
        """CONNECT, and wait for CONNECTED."""
        await self.send(Connect(stream, host, port))
        assert (await self.expect(Connected)).stream == stream

    async def data(self, stream: int, size: int) -> bytes:
        """So many bytes of DATA of a stream; each byte is granted again."""
        received = bytearray()
        while len(received) < size:
            frame = await self.expect(Data)
            assert frame.stream == stream
            received += frame.payload
            await self.send(Window(stream, len(frame.payload)))
        assert len(received) == size
        return bytes(received)

    async def lose(self) -> None:
        """Lose the connection: no Close frame is sent."""
        await trio.aclose_forcefully(self.stream)

    def resumption(self, **changes: Any) -> Hello:
        """What a client says that comes back to the session of this one."""
        fields = {"session": self.hello.session, "received": self.taken}
        return Hello(window=1 << 20, max_data=1 << 18, **(fields | changes))

    async def closed(self, seconds: float = 60) -> tuple[int, str]:
        """Wait until the worker has closed; status and reason."""
        with trio.fail_after(seconds):
            try:
                while True:
                    await self.receive()
            except ConnectionClosed as error:
                assert error.reason is not None
                return error.reason.code, error.reason.reason or ""


@asynccontextmanager
async def raw_client(
    address: tuple[str, int],
    *,
    token: str | None = None,
    hello: Hello | None = None,
    context: ssl.SSLContext | None = None,
    greet: bool = True,
    subprotocols: Sequence[str] = ("zks-tunnel.v2",),
    resume: int | None = 0,
    host: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> AsyncIterator[RawClient]:
    """A client that is connected, and has exchanged HELLOs if it ``greet``s.

    It asks for ``host``, where that is not the address; and if ``hello`` asks for a session, the
    request does, too. Without a ``hello`` of the test's it says that it does not come back, since
    it acknowledges nothing by itself.
    """
    headers = list(headers)
    if token is not None:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    if hello is not None and hello.session is not None:
        headers.append((b"zks-session", hello.session.encode()))
    async with trio.open_nursery() as nursery:
        tcp = await trio.open_tcp_stream(*address)
        stream = (
            tcp
            if context is None
            else trio.SSLStream(tcp, context, server_hostname=address[0], https_compatible=True)
        )
        websocket = await wrap_client_stream(
            nursery,
            stream,
            host or f"{address[0]}:{address[1]}",
            "/tunnel",
            subprotocols=subprotocols,
            extra_headers=headers,
            message_queue_size=64,
            max_message_size=1 << 20,
            receive_buffer_size=1 << 18,
        )
        client = RawClient(websocket, stream)
        try:
            if greet:
                usual = Hello(window=1 << 20, max_data=1 << 18, resume=resume)
                await client.send(hello or usual)
                client.hello = await client.expect(Hello)
            yield client
        finally:
            with trio.move_on_after(10, shield=True):
                await websocket.aclose()
            # it leaves the socket open when the server was first to close
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


resuming_client = partial(raw_client, resume=None)
"""The same, but it may come back for as long as the worker says."""


@asynccontextmanager
async def running_worker(
    *,
    allow: Sequence[str] = ("127.0.0.0/8", "::1/128"),
    readiness: Callable[[], Readiness] | None = None,
    one_by_one: bool = False,
    clock: Callable[[], float] = time.monotonic,
    handover: Handover | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Worker, tuple[str, int]]]:
    """A worker in this process; nothing of it is left afterwards, descriptors included.

    ``one_by_one``: its UDP sockets do a system call for each datagram. ``handover``: it is one of
    several processes; its own socket is closed by it.
    """
    before = open_descriptors()
    worker = Worker(
        WorkerConfig(port=0, allow=tuple(parse_network(network) for network in allow), **options),
        clock=clock,
        handover=handover,
    )
    if readiness is not None:
        worker.readiness.close()
        worker.readiness = readiness()
    if one_by_one:
        worker.datagrams = DatagramSockets(worker.policy, one_by_one=True)
    total = worker.descriptors.total
    async with trio.open_nursery() as nursery:
        address = await nursery.start(worker.run)
        yield worker, address
        worker.stop()
        worker.stop()
        with trio.fail_after(30):
            await worker.ended.wait()
        nursery.cancel_scope.cancel()
    assert worker.descriptors.free == total
    for account in worker.accounts.values():
        assert (account.streams, account.sessions, account.held) == (0, 0, 0)
        assert (account.connecting, account.queries.in_flight) == (0, 0)
        assert (account.websockets, account.arriving, account.detached) == (0, 0, 0)
        assert not account.resuming and not account.kept.used
        assert not account.echoes and account.udp.free == account.udp.total
        assert account.queries.descriptors.free == account.queries.descriptors.total
        assert account.descriptors.free == account.descriptors.total
    # far ends of the test may still be closing theirs
    await until(lambda: open_descriptors() <= before)


def budget(questions: int = 100, sockets: int = 100) -> QueryBudget:
    """What a token may ask of name servers at a time."""
    return QueryBudget(questions, Descriptors(sockets))


def far_sockets(worker: Worker) -> int:
    """How many sockets towards far ends a worker has open."""
    websockets = sum(account.websockets for account in worker.accounts.values())
    return worker.descriptors.total - worker.descriptors.free - websockets


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/dev/fd"))


async def echo(stream: trio.SocketStream) -> None:
    """A far end that sends back what it gets, and ends when that ends."""
    async for piece in stream:
        await stream.send_all(piece)
    await stream.send_eof()


class LateReader:
    """A far end with little room, which reads once ``begin`` is set.

    ``came`` has the bytes of each connection that has ended, or None for one that was reset.
    """

    def __init__(self, *, ends: bool = False, pause: float = 0.0) -> None:
        """
        :param ends: whether it sends its EOF at once.
        :param pause: how long it waits after each read (s).
        """
        self.begin = trio.Event()
        self.came: list[int | None] = []
        self._ends = ends
        self._pause = pause

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection, for :func:`tcp_server`."""
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        if self._ends:
            await stream.send_eof()
        await self.begin.wait()
        total = 0
        try:
            while piece := await stream.receive_some(1 << 16):
                total += len(piece)
                await trio.sleep(self._pause)
            self.came.append(total)
        except trio.BrokenResourceError:
            self.came.append(None)
