"""A worker for the tests of the tunnel: real sockets, the real session, and no policy at all."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from zks_lwip.carrier.http import HttpRequest, HttpResponse
from zks_lwip.carrier.link import LinkEnd, SessionLink
from zks_lwip.carrier.sessions import selected, worker_session
from zks_lwip.carrier.upgrade import Accept, accept_websocket
from zks_lwip.carrier.versions import V1, V2
from zks_lwip.carrier.websocket import WebSocketClosed, WsConnection
from zks_lwip.protocol import (
    AnySession,
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsQueryReceived,
    EchoReceived,
    EofReceived,
    Event,
    Hello,
    Settings,
    StreamClosed,
    StreamOpened,
    StreamReset,
    datagrams_of,
    first_hello,
)
from zks_lwip.tunnel.options import TunnelConfig
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel

#: Tries follow each other quickly; what waits for one of them does so for long enough.
QUICK = {
    "connect_timeout": 20.0,
    "upgrade_timeout": 20.0,
    "hello_timeout": 20.0,
    "backoff": (0.02, 0.1),
    "grace": 20.0,
}


def quick(url: str, **changes: Any) -> TunnelConfig:
    return TunnelConfig(url=url, **(QUICK | changes))


class Handle:
    """The worker's end of a stream, for a StreamPeer."""

    def __init__(self, session: AnySession, stream: int) -> None:
        self.session = session
        self.stream = stream

    def mark_ready(self) -> None:
        self.session.mark_ready(self.stream)

    def consumed(self, n: int) -> None:
        self.session.consumed(self.stream, n)

    def close(self) -> None:
        self.session.close(self.stream)


class Served:
    """One session at the worker, on one WebSocket after another; what to do with CONNECT is the
    worker's ``on_connect``."""

    def __init__(
        self, worker: Worker, connection: WsConnection, first: bytes | None = None
    ) -> None:
        self.worker = worker
        self.session = worker_session(selected(connection), worker.settings)
        self.attach(connection, first)
        self.events: list[Event] = []
        self.peers: dict[int, TunnelTcpStream] = {}

    def attach(self, connection: WsConnection, first: bytes | None) -> None:
        """Go on over this WebSocket, from which a message has been taken."""
        if self.session.attached:
            self.link.take_away(4001, "taken over")
        self.connection = connection
        paced = self.session.flow_controlled
        self.link = SessionLink(connection, self.session, paced=paced, first=first)

    def on_event(self, event: Event) -> None:
        if isinstance(event, DatagramsReceived):
            for datagram, _ in datagrams_of(event.frames):
                self.on_event(datagram)
            return
        if not isinstance(event, DataReceived):
            self.events.append(event)
        match event:
            case StreamOpened():
                self.worker.on_connect(self, event)
            case DataReceived() if event.stream in self.peers:
                self.peers[event.stream].on_data(event.payload)
            case EofReceived() if event.stream in self.peers:
                self.peers[event.stream].on_eof()
            case StreamClosed() if event.stream in self.peers and self.worker.v1:
                self.peers.pop(event.stream).on_eof()
            case StreamReset() | StreamClosed() if event.stream in self.peers:
                self.peers.pop(event.stream).on_end(104, "")
            case DatagramReceived():
                self.session.send_udp(
                    event.association, event.host, event.port, bytes(event.payload)
                )
            case DnsQueryReceived():
                self.worker.queries += 1
                if self.worker.answers:
                    self.worker.nursery.start_soon(self.answer, event)
            case EchoReceived():
                if self.worker.answers:
                    self.session.echo_reply(event.request, event.payload)

    async def answer(self, event: DnsQueryReceived) -> None:
        await trio.sleep(0.01)
        self.session.dns_response(event.request, event.message[::-1])

    def connected(self, event: StreamOpened) -> TunnelTcpStream:
        """The far end of the stream, as a trio stream."""
        far = TunnelTcpStream(lambda handle: None)
        far.attach(Handle(self.session, event.stream))
        self.peers[event.stream] = far
        self.session.accept(event.stream, far)
        self.session.connected(event.stream)
        return far


class Worker:
    """Accepts WebSockets; by default every far end sends back what it gets."""

    def __init__(self, nursery: trio.Nursery, settings: Settings | None = None) -> None:
        self.nursery = nursery
        self.settings = settings or Settings(udp=True, icmp=True, dns=True)
        self.token: str | None = None
        self.max_sessions = 1 << 16
        self.sessions = 0
        self.answers = True
        self.mute = False  # it upgrades, and says nothing
        self.early = True  # HELLO of a request is taken, as by a worker of today
        self.queries = 0
        self.url = ""
        self.requests: list[HttpRequest] = []
        self.served: list[Served] = []
        self.v1 = False
        self.ends: list[LinkEnd] = []
        self.link_options: dict[str, float] = {}  # quiet, patience
        self.on_connect: Callable[[Any, StreamOpened], None] = self.echo

    def echo(self, served: Served, event: StreamOpened) -> None:
        far = served.connected(event)

        async def run() -> None:
            try:
                async for data in far:
                    await far.send_all(data)
                await far.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the client has gone, as many tests want it

        self.nursery.start_soon(run)

    def authorize(self, request: HttpRequest) -> Accept | HttpResponse:
        self.requests.append(request)
        if self.token is not None and request.header(b"authorization") != (
            b"Bearer " + self.token.encode()
        ):
            return HttpResponse(401)
        if request.path != "/tunnel":
            return HttpResponse(404)
        if self.sessions >= self.max_sessions:
            return HttpResponse(429)
        self.sessions += 1
        return Accept((V1 if self.v1 else V2).subprotocol)

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(nursery, stream, authorize=self.authorize)
            if connection is None:
                return
            if self.mute:
                await trio.sleep_forever()
            message, served = None, None
            if not self.v1:
                request = connection.request
                said = request.header(b"zks-hello") if self.early and request is not None else None
                early = None if said is None else Hello.decode(said)
                try:
                    message = early.encode() if early else await connection.receive_message()
                except WebSocketClosed:
                    await connection.aclose()
                    return
                wanted = first_hello(message).session
                known = (each for each in self.served if each.session.resumable)
                served = next((each for each in known if each.session.id == wanted), None)
            if served is None:
                served = Served(self, connection, message)
                self.served.append(served)
            else:
                served.attach(connection, message)
            if not self.v1 and early is not None:
                served.session.announced(early)
            run = served.link.run(served.on_event, **self.link_options)
            self.ends.append(await run)
            self.sessions -= 1

    def forget(self) -> None:
        """Lose all sessions, as a worker does that is started again; WebSockets are another
        matter."""
        for served in self.served:
            served.session.end()

    def limit(self, **changes: Any) -> None:
        """Say something else in the next HELLO."""
        self.settings = replace(self.settings, **changes)


@asynccontextmanager
async def listening(
    serve: Callable[[Any], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    sock: socket.socket | None = None,
) -> AsyncIterator[str]:
    """Serve on loopback, on ``sock`` if one is bound already; gives the tunnel's URL."""
    async with trio.open_nursery() as nursery:
        if sock is None:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        else:
            sock.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        bound = listener.socket.getsockname()[1]
        served: Any = listener if tls is None else trio.SSLListener(listener, tls)
        nursery.start_soon(trio.serve_listeners, serve, [served])
        yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{bound}/tunnel"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def working(
    settings: Settings | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    sock: socket.socket | None = None,
) -> AsyncIterator[Worker]:
    """A worker on loopback."""
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, settings)
        async with listening(worker.serve, tls=tls, sock=sock) as url:
            worker.url = url
            yield worker
        nursery.cancel_scope.cancel()


class Peer:
    """A local end of a stream, which sends ``data`` and notes what it is told."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.told: list[Any] = []

    def pull_into(self, view: memoryview) -> int:
        count = min(len(view), len(self.data))
        view[:count] = self.data[:count]
        del self.data[:count]
        return count

    def on_connected(self) -> None:
        self.told.append("connected")

    def on_data(self, payload: memoryview) -> None:
        self.told.append(bytes(payload))

    def on_eof(self) -> None:
        self.told.append("eof")

    def on_end(self, code: int, message: str) -> None:
        self.told.append(code)


class Datagrams:
    """A local end of an association, which notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        self.told.append((host, port, bytes(payload)))

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        self.told.append((code, host, port))

    def on_udp_close(self) -> None:
        self.told.append("close")


@asynccontextmanager
async def tunnelling(url: str, **changes: Any) -> AsyncIterator[Tunnel]:
    """A tunnel to a worker at ``url``, up."""
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(quick(url, **changes))
        with trio.fail_after(60):
            await nursery.start(tunnel.run)
        yield tunnel
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tunnel_and_worker(
    settings: Settings | None = None, **changes: Any
) -> AsyncIterator[tuple[Tunnel, Worker]]:
    """A worker on loopback, and a tunnel to it."""
    async with working(settings) as worker, tunnelling(worker.url, **changes) as tunnel:
        yield tunnel, worker


async def drop(served: Served) -> None:
    """Lose a WebSocket without a word."""
    await served.connection.abort()


async def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something has become true."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


def raw_server(
    *steps: bytes | float | None, then_hang: bool = False
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Serve a request with bytes: sends ``steps``, sleeps for numbers, reads a head for None."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                for step in steps:
                    if step is None:
                        await read_head(stream)
                    elif isinstance(step, bytes):
                        await stream.send_all(step)
                    else:
                        await trio.sleep(step)
                if then_hang:
                    await trio.sleep_forever()
            except trio.BrokenResourceError:
                return  # the client hung up first

    return serve


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(4096)
        if not data:
            break
        head += data
    return head
