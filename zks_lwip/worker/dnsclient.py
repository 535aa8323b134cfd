"""Asking name servers: one DNS message in, the verified answer out (RFC 1035, 5452, 7766).

Every question has, for each server that it is sent to, a random id and a socket of its own, so a
random port; the socket is connected, so the kernel passes on what comes from that server only; an
answer counts only if its id and its question are ours. A truncated answer is asked for again over
TCP. Who asks has a budget of questions and of sockets, so that names which nobody answers for cost
him alone.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
import struct
from collections.abc import Callable, Sequence

import trio

from ..errors import DnsError
from ..tunnel._refusal import (
    FORMERR,
    NO_REACHABLE_AUTHORITY,
    NOT_READY,
    NOT_SUPPORTED,
    NOTIMP,
    OTHER,
    PROHIBITED,
    REFUSED,
    error_response,
    servfail,
)
from .limits import QueryBudget
from .nameservers import NameServer
from .sockets import connect, open_socket

__all__ = ["DnsClient", "Unanswered", "forward", "question_of", "rcode_of"]

log = logging.getLogger(__name__)

NOERROR, NXDOMAIN = 0, 3
_HEADER = 12
_QR, _TC = 0x80, 0x02
_UDP_LIMIT = 1232  # a question over this goes by TCP at once: it would be fragmented
#: For a whole answer, or SERVFAIL with the reason: clients give up after 5 s (PROTOCOL.md §5), and
#: that has to be there before.
_SECONDS = 4.5
_NEXT_SERVER = 0.8  # seconds until the next server is asked too
_system_random = random.SystemRandom()

_CLASS_IN = 1
_OPT, _IXFR, _AXFR, _ANY = 41, 251, 252, 255
_META = range(128, 256)  # QTYPEs and meta-types: they ask for no record, RFC 6895 §3.1
#: The answer to ANY, RFC 8482 §4.2: HINFO "RFC8482" "", for an hour
_HINFO = struct.pack("!HHHIH", 0xC00C, 13, _CLASS_IN, 3600, 9) + b"\7RFC8482\0"
_STARVED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Unanswered(DnsError):
    """There is no answer. ``ede`` is the Extended DNS Error that says why (RFC 8914); ``overload``:
    because of a limit of the worker's; ``late``: because no server has answered yet."""

    def __init__(
        self, message: str, ede: int = OTHER, *, overload: bool = False, late: bool = False
    ) -> None:
        super().__init__(message)
        self.ede = ede
        self.overload = overload
        self.late = late


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


class _Asked:
    """One server that a question goes to."""

    __slots__ = ("running", "server", "sock", "wire")

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.running = False
        #: while it waits for an answer by UDP
        self.sock: socket.socket | None = None
        self.wire = b""

    def send_again(self) -> None:
        """Send the same question by the same socket, if it waits for an answer by UDP."""
        if self.sock is not None:
            try:
                self.sock.send(self.wire)
            except OSError as error:  # lost, as any datagram may be
                log.debug("name server %s: %s", self.server, error)


class DnsClient:
    """Asks a changing list of name servers, the one that answered last first.

    :param servers: the name servers of now, best first.
    :param mark: SO_MARK for every socket.
    """

    def __init__(
        self, servers: Callable[[], Sequence[NameServer]], *, mark: int | None = None
    ) -> None:
        self._servers = servers
        self._mark = mark
        self._preferred: NameServer | None = None
        #: datagrams that were no answer of ours: other id, other question, garbage
        self.bogus = 0
        self.asked = 0
        self.failed = 0

    @property
    def usable(self) -> bool:
        """Whether there is any name server."""
        return bool(self._servers())

    async def ask(self, query: bytes, budget: QueryBudget, *, seconds: float = _SECONDS) -> bytes:
        """The answer to a query (of one question), which gets an id of ours on the way.

        Raises ValueError for a malformed question and :class:`Unanswered` when no server answers in
        time, or ``budget`` has no room for one more.
        """
        question = question_of(query)
        servers = list(self._servers())
        if not servers:
            raise Unanswered("no name server is known; give one with --resolver", NOT_READY)
        if self._preferred in servers:
            servers.sort(key=lambda server: server != self._preferred)
        if not budget.begin():
            raise Unanswered(
                f"{budget.limit} DNS queries are in flight for this token", overload=True
            )
        self.asked += 1
        problems: list[OSError] = []
        try:
            answer = await self._ask_each(servers, query, question, budget, seconds, problems)
        finally:
            budget.end()
        if answer is None:
            self.failed += 1
            raise _why(problems)
        return query[:2] + answer[2:]

    async def _ask_each(
        self,
        servers: list[NameServer],
        query: bytes,
        question: bytes,
        budget: QueryBudget,
        seconds: float,
        problems: list[OSError],
    ) -> bytes | None:
        """Ask one after the other, none given up before the end; the first good answer counts."""
        asked = [_Asked(server) for server in servers]
        turns = asked * (2 if len(asked) > 1 else 3)
        fallback: bytes | None = None
        send, receive = trio.open_memory_channel[tuple[_Asked, bytes | None]](len(turns))

        async def attempt(one: _Asked) -> None:
            answer: bytes | None = None
            try:
                answer = await self._attempt(one, query, question, budget)
            except OSError as error:
                log.debug("name server %s: %s", one.server, error)
                # Without its traceback, whose frames hold the query, and this list: all of it would
                # stay until the garbage collector comes by.
                problems.append(error.with_traceback(None))
            one.running = False
            send.send_nowait((one, answer))

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                waiting = 0
                for index, one in enumerate(turns):
                    if one.running:
                        one.send_again()
                    else:
                        one.running = True
                        waiting += 1
                        nursery.start_soon(attempt, one)
                    patience = _NEXT_SERVER * (1 + index // len(servers))
                    if index == len(turns) - 1:
                        patience = seconds
                    with trio.move_on_after(patience):
                        while waiting:
                            who, answer = await receive.receive()
                            waiting -= 1
                            if answer is None:
                                continue
                            if rcode_of(answer) in (NOERROR, NXDOMAIN):
                                self._preferred = who.server
                                nursery.cancel_scope.cancel()
                                return answer
                            fallback = answer
                    if fallback is not None and index >= len(servers) - 1:
                        break  # everyone was asked, and one at least has said something
                nursery.cancel_scope.cancel()
        if any(one.running for one in asked):
            problems.clear()  # one may only be late
        return fallback

    async def _attempt(
        self, one: _Asked, query: bytes, question: bytes, budget: QueryBudget
    ) -> bytes:
        wire = _system_random.randbytes(2) + query[2:]
        answer: bytes | None = None
        if len(wire) <= _UDP_LIMIT:
            answer = await self._udp(one, wire, question, budget)
        if answer is None or answer[2] & _TC:
            answer = await self._tcp(one.server, wire, question, budget)
        return answer

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

    async def _udp(self, one: _Asked, wire: bytes, question: bytes, budget: QueryBudget) -> bytes:
        server = one.server
        with (
            budget.descriptors.taken(),
            open_socket(server.family, socket.SOCK_DGRAM, self._mark) as sock,
        ):
            sock.connect(server.sockaddr)
            sock.send(wire)
            one.sock, one.wire = sock, wire
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    try:
                        answer = sock.recv(65535)
                    except BlockingIOError:  # one with a bad checksum wakes, but is not there
                        continue
                    if self._verified(wire, question, answer):
                        return answer
            finally:
                one.sock = None

    async def _tcp(
        self, server: NameServer, wire: bytes, question: bytes, budget: QueryBudget
    ) -> bytes:
        with (
            budget.descriptors.taken(),
            open_socket(server.family, socket.SOCK_STREAM, self._mark) as sock,
        ):
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


def _why(problems: list[OSError]) -> Unanswered:
    """What to say when there is no answer; no problem: nobody has answered in time."""
    if not problems:
        return Unanswered("no name server answered in time", NO_REACHABLE_AUTHORITY, late=True)
    if all(error.errno in _STARVED for error in problems):
        return Unanswered("no descriptor is left for a DNS query", overload=True)
    last = problems[-1]
    return Unanswered(
        f"no name server can be asked: {last.strerror or last}", NO_REACHABLE_AUTHORITY
    )


def _refused(query: bytes, question: bytes) -> bytes | None:
    """The answer to what is no plain question for records; None: it is one.

    The name servers may be the operator's own: they are asked what a stub resolver asks, not for
    their zones, their version or a change.
    """
    kind, group = struct.unpack_from("!HH", question, len(question) - 4)
    if query[6:10] != bytes(4):  # records in a question: IXFR has them, or an update
        return error_response(query, FORMERR)
    if group != _CLASS_IN:
        return error_response(query, REFUSED, NOT_SUPPORTED, "the class is not IN")
    if kind == _ANY:
        head = error_response(query, NOERROR)
        return head[:6] + b"\0\1" + head[8:] + _HINFO
    if kind in (_AXFR, _IXFR):
        return error_response(query, REFUSED, PROHIBITED, "no zones are transferred here")
    if kind in _META or kind in (0, _OPT):
        return error_response(query, NOTIMP, NOT_SUPPORTED, f"type {kind} is no type of a record")
    return None


async def forward(client: DnsClient, query: bytes, budget: QueryBudget) -> bytes:
    """DNS_QUERY (PROTOCOL.md §5): the message as it is to a name server, its answer back.

    Never raises, never silent: FORMERR for what is no query, NOTIMP or REFUSED for what is no plain
    one, SERVFAIL within 5 seconds; with the reason where the query has EDNS.
    """
    if len(query) < _HEADER or query[2] & _QR:
        return error_response(query, FORMERR)
    if query[2] & 0x78:
        return error_response(query, NOTIMP, NOT_SUPPORTED, "not a standard query")
    try:
        return _refused(query, question_of(query)) or await client.ask(query, budget)
    except ValueError:
        return error_response(query, FORMERR)
    except Unanswered as error:
        log.debug("DNS query: %s", error)
        return servfail(query, str(error), error.ede)
