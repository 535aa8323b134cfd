"""DNS-over-HTTPS and DNS-over-TLS servers on loopback that misbehave as the query's name asks.

The first label of a name is what is done with the query ("ok.example" is answered). A fault that is
in :attr:`Server.once` happens the first time only, then the query is answered.
"""

from __future__ import annotations

import datetime
import logging
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
import trustme
from h2.exceptions import H2Error

from zks_lwip.dns.message.framing import Deframer, frame
from zks_lwip.dns.upstream.parse import parse_server
from zks_lwip.dns.upstream.server import Server as Address
from zks_lwip.net import tls

logger = logging.getLogger(__name__)

NAME = "dns.test"
AUTHORITY = trustme.CA()


def server_context(alpn: str, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (cert or AUTHORITY.issue_cert(NAME)).configure_cert(context)
    context.set_alpn_protocols([alpn])
    return context


def client_context(alpn: str = "h2") -> ssl.SSLContext:
    context = tls.client_context(alpn)
    AUTHORITY.configure_trust(context)
    return context


def answer_to(query: bytes, ttl: int = 300, text: str = "") -> bytes:
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked)
    name = asked.question[0].name
    if text:
        made.answer.append(dns.rrset.from_text(name, ttl, "IN", "TXT", text))
    else:
        made.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", "192.0.2.1"))
    return made.to_wire(max_size=65535)


def label_of(query: bytes) -> str:
    return query[13 : 13 + query[12]].decode()


@dataclass
class Server:
    """What the server has seen, and how it is to behave."""

    address: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    live: int = 0
    queries: list[bytes] = field(default_factory=list)
    requests: list[dict[bytes, bytes]] = field(default_factory=list)
    once: set[str] = field(default_factory=set)
    streams: int = 100
    window: int = 0
    most_in_flight: int = 0
    resets: int = 0
    goaways: int = 0
    accept: bool = True
    scopes: list[trio.CancelScope] = field(default_factory=list)

    def fault(self, query: bytes) -> str:
        label = label_of(query)
        if label in self.once:
            self.once.discard(label)
        elif label + "-done" in self.once:
            return "ok"
        else:
            return label
        self.once.add(label + "-done")
        return label

    def at(self, text: str = f"https://{NAME}:PORT/dns-query@127.0.0.1") -> Address:
        return parse_server(text.replace("PORT", str(self.port)))

    def disconnect(self) -> None:
        for scope in self.scopes:
            scope.cancel()
        self.scopes.clear()


@asynccontextmanager
async def listening(
    handler: Any, server: Server | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve on a loopback port until the block ends."""
    server = server or Server()
    listener = trio.socket.socket()
    if sys.platform != "win32":  # where it is for a port that another program has
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind((server.address, server.port))
    listener.listen(100)
    server.port = listener.getsockname()[1]

    async def serve_one(connection: Any) -> None:
        server.connections += 1
        server.live += 1
        stream: Any = trio.SocketStream(connection)
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        with trio.CancelScope() as scope:
            server.scopes.append(scope)
            try:
                await handler(server, stream, connection)
            except* (trio.BrokenResourceError, trio.ClosedResourceError, H2Error):
                logger.debug("a connection has ended")
            finally:
                server.live -= 1
                await trio.aclose_forcefully(stream)

    async def accept() -> None:
        while True:
            connection, _ = await listener.accept()
            nursery.start_soon(serve_one, connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        yield server
        nursery.cancel_scope.cancel()
    listener.close()


def reset(connection: Any) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class _Http2:
    """One connection of the HTTP/2 server."""

    def __init__(self, server: Server, stream: Any, connection: Any, nursery: trio.Nursery) -> None:
        self.server, self.stream, self.connection = server, stream, connection
        self.nursery = nursery
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: server.streams,
            },
        )
        self.bodies: dict[int, bytearray] = {}
        self.lock = trio.Lock()
        self.frozen = False
        self.window = trio.Event()

    async def flush(self) -> None:
        async with self.lock:
            data = self.h2.data_to_send()
            if data and not self.frozen:
                await self.stream.send_all(data)

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        while data := await self.stream.receive_some(65536):
            for event in self.h2.receive_data(bytes(data)):
                if isinstance(event, h2.events.RequestReceived):
                    self.server.requests.append(dict(event.headers))
                    self.bodies[event.stream_id] = bytearray()
                    self.server.most_in_flight = max(
                        self.server.most_in_flight, self.h2.open_inbound_streams
                    )
                elif isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    query = bytes(self.bodies.pop(event.stream_id))
                    self.nursery.start_soon(self.answer, event.stream_id, query)
                elif isinstance(event, h2.events.StreamReset):
                    self.server.resets += 1
                elif isinstance(event, h2.events.WindowUpdated):
                    self.window.set()
                    self.window = trio.Event()
            await self.flush()

    async def respond(
        self, number: int, body: bytes, status: int = 200, kind: str = "application/dns-message",
        age: int = 0,
    ) -> None:  # fmt: skip
        headers = [(":status", str(status)), ("content-type", kind)]
        if age:
            headers.append(("age", str(age)))
        self.h2.send_headers(number, headers)
        while body:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if not room:
                opened = self.window
                await self.flush()
                await opened.wait()
                continue
            self.h2.send_data(number, body[:room])
            body = body[room:]
        self.h2.end_stream(number)
        await self.flush()

    async def answer(self, number: int, query: bytes) -> None:
        if not query:
            import base64

            path = self.server.requests[-1][b":path"].decode()
            text = path.partition("dns=")[2]
            query = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        self.server.queries.append(query)
        fault = self.server.fault(query)
        good = answer_to(query)
        if len(self.server.queries) == 1 and self.server.window:
            self.h2.update_settings(
                {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.server.window}
            )
        if fault == "goaway":
            self.h2.close_connection(last_stream_id=number - 2)
            await self.flush()
            await self.stream.aclose()
        elif fault == "graceful":
            # Winds down, as servers do after many requests: what has come is still answered.
            frame = struct.pack("!HBBBIII", 0, 8, 7, 0, 0, number, 0)
            async with self.lock:
                await self.stream.send_all(frame[:5])
                await trio.sleep(0.02)
                await self.stream.send_all(frame[5:])
                self.server.goaways += 1
            await trio.sleep(0.4)
            await self.respond(number, good)
        elif fault == "winddown":
            # Winds down, and answers nothing of what it says it will.
            async with self.lock:
                await self.stream.send_all(struct.pack("!HBBBIII", 0, 8, 7, 0, 0, number, 0))
        elif fault == "rst":
            self.h2.reset_stream(number, 7)
            await self.flush()
        elif fault == "tcpreset":
            reset(self.connection)
        elif fault == "eof":
            await self.stream.aclose()
        elif fault == "blackhole":
            self.frozen = True
        elif fault == "silent":
            pass
        elif fault.startswith("http"):
            await self.respond(number, b"<html>", int(fault[4:]), "text/html")
        elif fault == "redirect":
            self.h2.send_headers(
                number, [(":status", "302"), ("location", "https://elsewhere.test/")], True
            )
            await self.flush()
        elif fault == "wrongtype":
            await self.respond(number, good, kind="text/html")
        elif fault == "oversized":
            await self.respond(number, good + bytes(70000))
        elif fault == "large":
            await self.respond(number, answer_to(query, text=" ".join(["x" * 250] * 260)))
        elif fault == "slowloris":
            self.h2.send_headers(
                number, [(":status", "200"), ("content-type", "application/dns-message")]
            )
            for octet in good:
                self.h2.send_data(number, bytes([octet]))
                await self.flush()
                await trio.sleep(0.3)
        elif fault == "closing":
            await self.respond(number, good)
            await self.stream.aclose()
        elif fault == "aged":
            await self.respond(number, good, age=100)
        elif fault == "other":
            await self.respond(number, good.replace(b"\x05other", b"\x05wrong"))
        elif fault == "wrongid":
            await self.respond(number, b"\x12\x34" + good[2:])
        elif fault == "loop":
            await self.respond(number, good[:12] + b"\xc0\x0c" + good[14:])
        elif fault == "garbage":
            async with self.lock:
                await self.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        elif fault == "slow":
            await trio.sleep(1.6)
            await self.respond(number, good)
        else:
            await trio.sleep(0.01)
            await self.respond(number, good)


async def http2(server: Server, stream: Any, connection: Any) -> None:
    """Serve DNS over HTTPS."""
    async with trio.open_nursery() as nursery:
        await _Http2(server, stream, connection, nursery).run()
        nursery.cancel_scope.cancel()


async def over_tls(server: Server, stream: Any, connection: Any) -> None:
    """Serve DNS over TLS; answers come in the opposite order where several queries come at once."""
    deframer = Deframer()
    while data := await stream.receive_some(65536):
        for query in reversed(deframer.feed(data)):
            server.queries.append(query)
            fault = server.fault(query)
            if fault == "eof":
                return
            if fault == "tcpreset":
                reset(connection)
                return
            if fault == "blackhole":
                await trio.sleep_forever()
            if fault == "slow":  # a full queue: what comes behind waits, too
                await trio.sleep(3.5)
            if fault == "silent":
                continue
            ident = bytes(2) if fault == "wrongid" else query[:2]
            await stream.send_all(frame(ident + answer_to(query)[2:]))


async def blackhole(server: Server, stream: Any, connection: Any) -> None:
    """Take the connection and say nothing."""
    await trio.sleep_forever()


def expired() -> trustme.LeafCert:
    """A certificate for the right name whose time was up yesterday."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return AUTHORITY.issue_cert(NAME, not_after=past)


async def _serve(address: str, folder: Path, port: int) -> None:
    """DNS over HTTPS on three ports: as it should be, for a wrong name, with an expired
    certificate.
    """
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    certs = {"port": None, "other": AUTHORITY.issue_cert("other.test"), "expired": expired()}
    async with AsyncExitStack() as stack:
        for name, cert in certs.items():
            server = Server(address=address, port=port if name == "port" else 0)
            context = server_context("h2", cert)
            await stack.enter_async_context(listening(http2, server, context))
            print(f"{name} {server.port}", flush=True)
        print("ready", flush=True)
        await trio.sleep_forever()


def main(address: str, folder: str, port: str = "0") -> None:
    """Serve on `address`. The authority is kept in `folder`: a second run has the same."""
    global AUTHORITY
    kept = Path(folder) / "authority.pem"
    if kept.exists():
        text = kept.read_bytes()
        AUTHORITY = trustme.CA.from_pem(text, text)
    else:
        kept.write_bytes(AUTHORITY.private_key_pem.bytes() + AUTHORITY.cert_pem.bytes())
    trio.run(_serve, address, Path(folder), int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
