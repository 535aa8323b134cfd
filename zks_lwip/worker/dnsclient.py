"""Asking name servers: one DNS message in, the verified answer out.

What makes an answer trusted is in :mod:`~zks_lwip.net.plain_dns`. A truncated answer is asked for
again over TCP. A token has a budget of questions and of sockets, so that names which no server
answers for cost that token alone.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Sequence

import trio

from ..errors import DnsError
from ..net.descriptors import is_scarcity
from ..net.plain_dns import ask_stream, question_of, receive_answer, with_random_id
from ..net.sockets import connect, open_socket
from ..protocol.dns_refusal import Ede, Rcode, error_response, servfail
from .limits import QueryBudget
from .nameservers import NameServer

__all__ = ["DnsClient", "Unanswered", "forward", "rcode_of"]

_log = logging.getLogger(__name__)

_HEADER = 12
_QR, _TC = 0x80, 0x02
MAX_UDP = 1232
"""Bytes of a query; a longer one goes by TCP at once: it would be fragmented."""
#: For a whole answer, or SERVFAIL with the reason: clients give up after 5 s (PROTOCOL.md §5), and
#: that has to be there before.
_SECONDS = 4.5
NEXT_SERVER = 0.8
"""Seconds until the next server is asked beside the last."""

_CLASS_IN = 1
_OPT, _IXFR, _AXFR, _ANY = 41, 251, 252, 255
_META = range(128, 256)  # QTYPEs and meta-types: they ask for no record, RFC 6895 §3.1
#: The answer to ANY, RFC 8482 §4.2: HINFO "RFC8482" "", for an hour
_HINFO = struct.pack("!HHHIH", 0xC00C, 13, _CLASS_IN, 3600, 9) + b"\7RFC8482\0"


class Unanswered(DnsError):
    """There is no answer. ``ede`` is the Extended DNS Error that says why (RFC 8914); ``overload``:
    because of a limit of the worker's; ``late``: because no server has answered yet."""

    def __init__(
        self, message: str, ede: int = Ede.OTHER, *, overload: bool = False, late: bool = False
    ) -> None:
        super().__init__(message)
        self.ede = ede
        self.overload = overload
        self.late = late


def rcode_of(message: bytes) -> int:
    """Return the response code of the header (extended codes aside)."""
    return message[3] & 0x0F


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
                _log.debug("name server %s: %s", self.server, error)


class DnsClient:
    """Asks a changing list of name servers, the one that answered last first.

    :param servers: returns the name servers of now, best first.
    :param mark: SO_MARK for every socket.
    :param next_server: seconds until the next server is asked beside the last.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[NameServer]],
        *,
        mark: int | None = None,
        next_server: float = NEXT_SERVER,
    ) -> None:
        self.servers = servers
        self._mark = mark
        self._next_server = next_server
        self._preferred: NameServer | None = None
        #: messages that answered no query: another id, another question, garbage
        self.bogus = 0
        self.asked = 0
        self.failed = 0

    @property
    def usable(self) -> bool:
        """Whether there is any name server."""
        return bool(self.servers())

    async def ask(self, query: bytes, budget: QueryBudget, *, seconds: float = _SECONDS) -> bytes:
        """Return the answer to a query of one question; servers see another id.

        :param seconds: for all servers together.
        :raises ValueError: the question is malformed.
        :raises Unanswered: no server answers in time, or ``budget`` has no room for one more.
        """
        question_of(query)  # or it is none
        servers = list(self.servers())
        if not servers:
            raise Unanswered("no name server is known; give one with --resolver", Ede.NOT_READY)
        if self._preferred in servers:
            servers.sort(key=lambda server: server != self._preferred)
        if not budget.begin():
            raise Unanswered(
                f"{budget.limit} DNS queries are in flight for this token", overload=True
            )
        self.asked += 1
        problems: list[OSError] = []
        try:
            answer = await self._ask_each(servers, query, budget, seconds, problems)
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
                answer = await self._attempt(one, query, budget)
            except OSError as error:
                _log.debug("name server %s: %s", one.server, error)
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
                    patience = self._next_server * (1 + index // len(servers))
                    if index == len(turns) - 1:
                        patience = seconds
                    with trio.move_on_after(patience):
                        while waiting:
                            who, answer = await receive.receive()
                            waiting -= 1
                            if answer is None:
                                continue
                            if rcode_of(answer) in (Rcode.NOERROR, Rcode.NXDOMAIN):
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

    async def _attempt(self, one: _Asked, query: bytes, budget: QueryBudget) -> bytes:
        wire = with_random_id(query)
        answer: bytes | None = None
        if len(wire) <= MAX_UDP:
            answer = await self._udp(one, wire, budget)
        if answer is None or answer[2] & _TC:
            answer = await self._tcp(one.server, wire, budget)
        return answer

    def _count_bogus(self) -> None:
        self.bogus += 1

    async def _udp(self, one: _Asked, wire: bytes, budget: QueryBudget) -> bytes:
        server = one.server
        with (
            budget.descriptors.taken(),
            open_socket(server.family, socket.SOCK_DGRAM, self._mark) as sock,
        ):
            sock.connect(server.sockaddr)
            sock.send(wire)
            one.sock, one.wire = sock, wire
            try:
                return await receive_answer(sock, wire, self._count_bogus)
            finally:
                one.sock = None

    async def _tcp(self, server: NameServer, wire: bytes, budget: QueryBudget) -> bytes:
        with (
            budget.descriptors.taken(),
            open_socket(server.family, socket.SOCK_STREAM, self._mark) as sock,
        ):
            await connect(sock, server.sockaddr)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            return await ask_stream(stream, wire, self._count_bogus)


def _why(problems: list[OSError]) -> Unanswered:
    """Return the error for no answer; without a problem: no server has answered in time."""
    if not problems:
        return Unanswered("no name server answered in time", Ede.NO_REACHABLE_AUTHORITY, late=True)
    if all(map(is_scarcity, problems)):
        return Unanswered("no descriptor is left for a DNS query", overload=True)
    last = problems[-1]
    return Unanswered(
        f"no name server can be asked: {last.strerror or last}", Ede.NO_REACHABLE_AUTHORITY
    )


def _refused(query: bytes, question: bytes) -> bytes | None:
    """Return the answer to what is no plain question for records; None: it is one.

    The name servers may be the operator's own: they are asked what a stub resolver asks, not for
    their zones, their version or a change.
    """
    kind, group = struct.unpack_from("!HH", question, len(question) - 4)
    if query[6:10] != bytes(4):  # records in a question: IXFR has them, or an update
        return error_response(query, Rcode.FORMERR)
    if group != _CLASS_IN:
        return error_response(query, Rcode.REFUSED, Ede.NOT_SUPPORTED, "the class is not IN")
    if kind == _ANY:
        head = error_response(query, Rcode.NOERROR)
        return head[:6] + b"\0\1" + head[8:] + _HINFO
    if kind in (_AXFR, _IXFR):
        return error_response(query, Rcode.REFUSED, Ede.PROHIBITED, "no zones are transferred here")
    if kind in _META or kind in (0, _OPT):
        reason = f"type {kind} is no type of a record"
        return error_response(query, Rcode.NOTIMP, Ede.NOT_SUPPORTED, reason)
    return None


async def forward(client: DnsClient, query: bytes, budget: QueryBudget) -> bytes:
    """DNS_QUERY (PROTOCOL.md §5): the message as it is to a name server, its answer back.

    Never raises, never silent: FORMERR for what is no query, NOTIMP or REFUSED for what is no plain
    one, SERVFAIL within 5 seconds; with the reason where the query has EDNS.
    """
    if len(query) < _HEADER or query[2] & _QR:
        return error_response(query, Rcode.FORMERR)
    if query[2] & 0x78:
        return error_response(query, Rcode.NOTIMP, Ede.NOT_SUPPORTED, "not a standard query")
    try:
        return _refused(query, question_of(query)) or await client.ask(query, budget)
    except ValueError:
        return error_response(query, Rcode.FORMERR)
    except Unanswered as error:
        _log.debug("DNS query: %s", error)
        return servfail(query, str(error), error.ede)
