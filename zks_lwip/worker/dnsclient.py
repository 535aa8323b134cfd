"""Asking name servers: one DNS message in, the verified answer out (RFC 1035, 5452, 7766).

Every question has a random id and a socket of its own, so a random port; the socket is connected,
so the kernel passes on what comes from that server only; an answer counts only if its id and its
question are ours. A truncated answer is asked for again over TCP.
"""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections.abc import Callable, Sequence

import trio

from ..errors import DnsError
from .nameservers import NameServer
from .sockets import connect, open_socket

__all__ = ["SERVFAIL", "DnsClient", "error_response", "forward", "question_of", "rcode_of"]

log = logging.getLogger(__name__)

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
_HEADER = 12
_QR, _TC = 0x80, 0x02
_UDP_LIMIT = 1232  # a question over this goes by TCP at once: it would be fragmented
_SECONDS = 5.0  # for a whole answer, PROTOCOL.md §5
_NEXT_SERVER = 0.8  # seconds until the next server is asked too
_system_random = random.SystemRandom()


def question_of(message: bytes) -> bytes:
    """The question section of a query: one question, uncompressed. Raises ValueError otherwise."""
    if len(message) < _HEADER or message[4:6] != b"\0\1":
        raise ValueError("not a DNS message with one question")
    at = _HEADER
    while True:
        if at >= len(message):
            raise ValueError("a question that runs past the message")
        length = message[at]
        at += 1
        if length == 0:
            break
        if length > 63:
            raise ValueError("a compressed or malformed name in the question")
        at += length
    end = at + 4
    if end > len(message) or at - _HEADER > 255:
        raise ValueError("a question that runs past the message")
    return message[_HEADER:end]


def rcode_of(message: bytes) -> int:
    """The response code of the header (extended codes aside)."""
    return message[3] & 0x0F


def error_response(query: bytes, rcode: int) -> bytes:
    """An answer to any bytes at all: the query's id, opcode, RD and question where it has them."""
    head = query[:_HEADER].ljust(_HEADER, b"\0")
    try:
        question = question_of(query)
    except ValueError:
        question = b""
    flags = bytes((_QR | head[2] & 0x79, 0x80 | rcode))
    return head[:2] + flags + struct.pack("!4H", 1 if question else 0, 0, 0, 0) + question


def _same_question(asked: bytes, answer: bytes) -> bool:
    """Whether the answer repeats the question; the name in any case, as servers may write it."""
    if len(answer) < _HEADER:
        return False
    if answer[4:6] == b"\0\0":  # some servers leave the question out of an error
        return rcode_of(answer) not in (NOERROR, NXDOMAIN)
    try:
        question = question_of(answer)
    except ValueError:
        return False
    return question[-4:] == asked[-4:] and question[:-4].lower() == asked[:-4].lower()


class DnsClient:
    """Asks a changing list of name servers, the one that answered last first.

    :param servers: the name servers of now, best first.
    :param mark: SO_MARK for every socket.
    :param in_flight: most questions at a time; more fail at once.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[NameServer]],
        *,
        mark: int | None = None,
        in_flight: int = 1024,
    ) -> None:
        self._servers = servers
        self._mark = mark
        self._free = in_flight
        self._preferred: NameServer | None = None
        #: datagrams that were no answer of ours: other id, other question, garbage
        self.bogus = 0
        self.asked = 0
        self.failed = 0

    @property
    def usable(self) -> bool:
        """Whether there is any name server."""
        return bool(self._servers())

    async def ask(self, query: bytes, *, seconds: float = _SECONDS) -> bytes:
        """The answer to a query (of one question), which gets an id of ours on the way.

        Raises ValueError for a malformed question and :class:`~zks_lwip.errors.DnsError` when no
        server answers in time.
        """
        question = question_of(query)
        servers = list(self._servers())
        if not servers:
            raise DnsError("no name server is known; give one with --resolver")
        if self._free <= 0:
            raise DnsError("too many DNS questions are in flight")
        if self._preferred in servers:
            servers.sort(key=lambda server: server != self._preferred)
        self._free -= 1
        self.asked += 1
        try:
            answer = await self._ask_each(servers, query, question, seconds)
        finally:
            self._free += 1
        if answer is None:
            self.failed += 1
            raise DnsError("no name server answered in time")
        return query[:2] + answer[2:]

    async def _ask_each(
        self, servers: list[NameServer], query: bytes, question: bytes, seconds: float
    ) -> bytes | None:
        """Ask one after the other, none given up before the end; the first good answer counts."""
        rounds = servers * 2 if len(servers) > 1 else servers * 3
        fallback: bytes | None = None
        send, receive = trio.open_memory_channel[tuple[NameServer, bytes | None]](len(rounds))
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                waiting = 0
                for index, server in enumerate(rounds):
                    nursery.start_soon(self._attempt, server, query, question, send)
                    waiting += 1
                    patience = _NEXT_SERVER * (1 + index // len(servers))
                    if index == len(rounds) - 1:
                        patience = seconds
                    with trio.move_on_after(patience):
                        while waiting:
                            who, answer = await receive.receive()
                            waiting -= 1
                            if answer is None:
                                continue
                            if rcode_of(answer) in (NOERROR, NXDOMAIN):
                                self._preferred = who
                                nursery.cancel_scope.cancel()
                                return answer
                            fallback = answer
                    if fallback is not None and index >= len(servers) - 1:
                        break  # everyone was asked, and one at least has said something
                nursery.cancel_scope.cancel()
        return fallback

    async def _attempt(
        self,
        server: NameServer,
        query: bytes,
        question: bytes,
        result: trio.MemorySendChannel[tuple[NameServer, bytes | None]],
    ) -> None:
        wire = _system_random.randbytes(2) + query[2:]
        answer: bytes | None = None
        try:
            if len(wire) <= _UDP_LIMIT:
                answer = await self._udp(server, wire, question)
            if answer is None or answer[2] & _TC:
                answer = await self._tcp(server, wire, question)
        except OSError as error:
            log.debug("name server %s: %s", server, error)
            answer = None
        result.send_nowait((server, answer))

    def _verified(self, wire: bytes, question: bytes, answer: bytes) -> bool:
        if (
            len(answer) >= _HEADER
            and answer[:2] == wire[:2]
            and answer[2] & _QR
            and _same_question(question, answer)
        ):
            return True
        self.bogus += 1
        return False

    async def _udp(self, server: NameServer, wire: bytes, question: bytes) -> bytes:
        with open_socket(server.family, socket.SOCK_DGRAM, self._mark) as sock:
            sock.connect(server.sockaddr)
            sock.send(wire)
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    answer = sock.recv(65535)
                except BlockingIOError:  # a datagram with a bad checksum wakes, but is not there
                    continue
                if self._verified(wire, question, answer):
                    return answer

    async def _tcp(self, server: NameServer, wire: bytes, question: bytes) -> bytes:
        with open_socket(server.family, socket.SOCK_STREAM, self._mark) as sock:
            await connect(sock, server.sockaddr)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            rest = memoryview(struct.pack("!H", len(wire)) + wire)
            while rest:
                try:
                    rest = rest[sock.send(rest) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(sock)
            buffer = bytearray()
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                await trio.lowlevel.wait_readable(sock)
                try:
                    piece = sock.recv(65537)
                except BlockingIOError:
                    continue
                if not piece:
                    raise ConnectionError("the name server closed the connection")
                buffer += piece
            answer = bytes(buffer[2 : 2 + int.from_bytes(buffer[:2], "big")])
            if not self._verified(wire, question, answer):
                raise ConnectionError("the name server answered something else")
            return answer


async def forward(client: DnsClient, query: bytes) -> bytes:
    """DNS_QUERY (PROTOCOL.md §5): the message as it is to a name server, its answer back.

    Never raises, never silent: FORMERR for what is no query, NOTIMP for other operations (a
    dynamic update must not reach the worker's own name servers), SERVFAIL after 5 seconds.
    """
    if len(query) < _HEADER or query[2] & _QR:
        return error_response(query, FORMERR)
    if query[2] & 0x78:
        return error_response(query, NOTIMP)
    try:
        return await client.ask(query)
    except ValueError:
        return error_response(query, FORMERR)
    except DnsError as error:
        log.debug("DNS query: %s", error)
        return error_response(query, SERVFAIL)
