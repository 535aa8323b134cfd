"""A worker for the tests of the tunnel: real sockets, the real session, and no policy at all."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from zks_lwip.tunnel.channel import (
    Accept,
    HttpRequest,
    HttpResponse,
    LinkEnd,
    SessionLink,
    WsConnection,
    accept_websocket,
)
from zks_lwip.tunnel.frames import (
    Close,
    Connect,
    Data,
    DnsQuery,
    Echo,
    Eof,
    Frame,
    Udp,
)
from zks_lwip.tunnel.link_v1 import LinkV1
from zks_lwip.tunnel.options import TunnelConfig
from zks_lwip.tunnel.session import Role, Session, Settings
from zks_lwip.tunnel.session_v1 import WorkerV1
from zks_lwip.tunnel.tcpstream import TcpStream

V2 = "zks-tunnel.v2"

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

    def __init__(self, session: Session, stream: int) -> None:
        self.session = session
        self.stream = stream

    def mark_ready(self) -> None:
        self.session.mark_ready(self.stream)

    def consumed(self, n: int) -> None:
        self.session.consumed(self.stream, n)

    def close(self) -> None:
        self.session.close(self.stream)


class Served:
    """One session at the worker; what to do with CONNECT is the worker's ``on_connect``."""

    def __init__(self, worker: Worker, connection: WsConnection) -> None:
        self.worker = worker
        self.connection = connection
        self.link = SessionLink(connection)
        self.session = Session(Role.WORKER, worker.settings, wake=self.link.wake)
        self.frames: list[Frame] = []
        self.peers: dict[int, TcpStream] = {}

    def on_frame(self, frame: Frame) -> None:
        if not isinstance(frame, Data):
            self.frames.append(frame)
        match frame:
            case Connect():
                self.worker.on_connect(self, frame)
            case Data() if frame.stream in self.peers:
                self.peers[frame.stream].on_data(memoryview(frame.payload))
            case Eof() if frame.stream in self.peers:
                self.peers[frame.stream].on_eof()
            case Close() if frame.stream in self.peers:
                self.peers.pop(frame.stream).on_end(104, "")
            case Udp():
                self.session.send_udp(
                    frame.association, frame.host, frame.port, bytes(frame.payload)
                )
            case DnsQuery():
                self.worker.queries += 1
                if self.worker.answers:
                    self.worker.nursery.start_soon(self.answer, frame)
            case Echo():
                if self.worker.answers:
                    self.session.echo_reply(frame.request, bytes(frame.payload))

    async def answer(self, frame: DnsQuery) -> None:
        message = bytes(frame.message)[::-1]
        await trio.sleep(0.01)
        self.session.dns_response(frame.request, message)

    def connected(self, frame: Connect) -> TcpStream:
        """The far end of the stream, as a trio stream."""
        far = TcpStream(lambda handle: None)
        far.attach(Handle(self.session, frame.stream))
        self.peers[frame.stream] = far
        self.session.accept(frame.stream, far)
        self.session.connected(frame.stream)
        return far


class Worker:
    """Accepts WebSockets; by default every far end sends back what it gets."""

    def __init__(self, nursery: trio.Nursery, settings: Settings | None = None) -> None:
        self.nursery = nursery
        self.settings = settings or Settings(udp=True, icmp=True, dns=True)
        self.token: str | None = None
        self.answers = True
        self.queries = 0
        self.url = ""
        self.requests: list[HttpRequest] = []
        self.served: list[Any] = []  # of Served, or of ServedV1
        self.v1 = False
        self.ends: list[LinkEnd] = []
        self.link_options: dict[str, float] = {}  # quiet, patience
        self.on_connect: Callable[[Any, Connect], None] = self.echo

    def echo(self, served: Any, frame: Connect) -> None:
        far = served.connected(frame)

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
        return Accept(None if self.v1 else V2)

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(nursery, stream, authorize=self.authorize)
            if connection is None:
                return
            served = (ServedV1 if self.v1 else Served)(self, connection)
            self.served.append(served)
            run = served.link.run(served.session, served.on_frame, **self.link_options)
            self.ends.append(await run)

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


async def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
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


class ServedV1:
    """A v1 session at the worker, each on a WebSocket of its own."""

    def __init__(self, worker: Worker, connection: WsConnection) -> None:
        self.worker = worker
        self.connection = connection
        self.link = LinkV1(connection)
        self.session = WorkerV1(
            worker.settings,
            clock=trio.current_time,
            wake=self.link.wake,
            unblock=self.link.unblock,
        )
        self.frames: list[Frame] = []
        self.peers: dict[int, TcpStream] = {}

    def on_frame(self, frame: Frame) -> None:
        if not isinstance(frame, Data):
            self.frames.append(frame)
        match frame:
            case Connect():
                self.worker.on_connect(self, frame)
            case Data() if frame.stream in self.peers:
                self.peers[frame.stream].on_data(memoryview(frame.payload))
            case Close() if frame.stream in self.peers:
                self.peers.pop(frame.stream).on_eof()
            case DnsQuery() if self.worker.answers:
                self.session.dns_response(frame.request, bytes(frame.message)[::-1])

    connected = Served.connected
