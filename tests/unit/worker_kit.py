"""Real far ends on loopback for the worker's tests: name servers, TCP servers, listeners."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rrset
import trio

from zks_lwip.worker.nameservers import NameServer

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
        self.server = NameServer(ip_address("127.0.0.1"), 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeNameServer]:
        tcp = trio.socket.socket()
        await tcp.bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        tcp.listen()
        udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", port))
        self.server = NameServer(ip_address("127.0.0.1"), port)
        with tcp, udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._udp, udp)
                nursery.start_soon(trio.serve_listeners, self._tcp, [trio.SocketListener(tcp)])
                yield self
                nursery.cancel_scope.cancel()

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


async def refused_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
