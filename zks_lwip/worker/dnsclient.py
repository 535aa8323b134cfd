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

__all__ = ["Asked", "DnsClient", "Unanswered", "answer_here", "rcode_of", "unanswered"]

_log = logging.getLogger(__name__)

_HEADER = 12
_QR, _TC = 0x80, 0x02
_GOOD = frozenset((Rcode.NOERROR, Rcode.NXDOMAIN))
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


class Asked:
    """One server that a question goes to."""

    __slots__ = ("running", "said", "server", "sock", "wire")

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.running = False
        #: While it waits for an answer by UDP.
        self.sock: socket.socket | None = None
        self.wire = b""
        #: What has come of it already, to be used when it is its turn.
        self.said: bytes | OSError | None = None

    def open(self, query: bytes, budget: QueryBudget, mark: int | None) -> socket.socket:
        """Send a question by UDP; :meth:`close` has to follow.

        :returns: the socket that the answer comes to.
        :raises OSError: it cannot be sent, or no descriptor is left; nothing is open then.
        """
        budget.descriptors.take()
        try:
            sock = open_socket(self.server.family, socket.SOCK_DGRAM, mark)
            try:
                wire = with_random_id(query)
                sock.connect(self.server.sockaddr)
                sock.send(wire)
            except BaseException:
                sock.close()
                raise
        except BaseException:
            budget.descriptors.give()
            raise
        self.sock, self.wire = sock, wire
        return sock

    def close(self, budget: QueryBudget) -> None:
        """Close its socket; harmless a second time."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            budget.descriptors.give()

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
        self.mark = mark
        self.next_server = next_server
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
        return await self.finish(self.begin(budget), query, budget, seconds=seconds)

    def begin(self, budget: QueryBudget) -> list[Asked]:
        """Count one more question, which ``budget.end()`` has to follow, or :meth:`finish`.

        :returns: the servers that it is to be put to, in this order.
        :raises Unanswered: there is none, or ``budget`` has no room for one more.
        """
        servers = list(self.servers())
        if not servers:
            raise Unanswered("no name server is known; give one with --resolver", Ede.NOT_READY)
        preferred = self._preferred
        if preferred is not servers[0] and preferred in servers:
            servers.remove(preferred)
            servers.insert(0, preferred)
        if not budget.begin():
            raise Unanswered(
                f"{budget.limit} DNS queries are in flight for this token", overload=True
            )
        self.asked += 1
        return [Asked(server) for server in servers]

    async def finish(
        self,
        asked: list[Asked],
        query: bytes,
        budget: QueryBudget,
        *,
        waited: float = 0.0,
        seconds: float = _SECONDS,
    ) -> bytes:
        """Ask the servers that :meth:`begin` has named, and end the question.

        :param waited: seconds for which the first of them, whose socket is open, or which has said
            something, has been waited for.
        :raises Unanswered: no server answers in time.
        """
        problems: list[OSError] = []
        try:
            answer = await self._ask_each(asked, query, budget, seconds, problems, waited)
        finally:
            asked[0].close(budget)  # it may not even have been begun with
            budget.end()
        if answer is None:
            self.failed += 1
            raise _why(problems)
        return query[:2] + answer[2:]

    def accepts(self, answer: bytes, server: NameServer) -> bool:
        """Whether an answer that has come by UDP is all that is wanted; its server is then asked
        first from now on."""
        if answer[2] & _TC or rcode_of(answer) not in _GOOD:
            return False
        self._preferred = server
        return True

    async def _ask_each(
        self,
        asked: list[Asked],
        query: bytes,
        budget: QueryBudget,
        seconds: float,
        problems: list[OSError],
        waited: float,
    ) -> bytes | None:
        """Ask one after the other, none given up before the end; the first good answer counts."""
        turns = asked * (2 if len(asked) > 1 else 3)
        fallback: bytes | None = None
        send, receive = trio.open_memory_channel[tuple[Asked, bytes | None]](len(turns))

        async def attempt(one: Asked) -> None:
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

        with trio.move_on_after(seconds - waited):
            async with trio.open_nursery() as nursery:
                waiting = 0
                for index, one in enumerate(turns):
                    if one.running:
                        one.send_again()
                    else:
                        one.running = True
                        waiting += 1
                        nursery.start_soon(attempt, one)
                    patience = self.next_server * (1 + index // len(asked))
                    if index == 0:
                        patience = max(0.0, patience - waited)
                    if index == len(turns) - 1:
                        patience = seconds
                    with trio.move_on_after(patience):
                        while waiting:
                            who, answer = await receive.receive()
                            waiting -= 1
                            if answer is None:
                                continue
                            if rcode_of(answer) in _GOOD:
                                self._preferred = who.server
                                nursery.cancel_scope.cancel()
                                return answer
                            fallback = answer
                    if fallback is not None and index >= len(asked) - 1:
                        break  # everyone was asked, and one at least has said something
                nursery.cancel_scope.cancel()
        if any(one.running for one in asked):
            problems.clear()  # one may only be late
        return fallback

    async def _attempt(self, one: Asked, query: bytes, budget: QueryBudget) -> bytes:
        said, one.said = one.said, None
        if isinstance(said, OSError):
            raise said
        answer = said
        if answer is None and len(query) <= MAX_UDP:
            answer = await self._udp(one, query, budget)
        if answer is None or answer[2] & _TC:
            answer = await self._tcp(one.server, with_random_id(query), budget)
        return answer

    def _count_bogus(self) -> None:
        self.bogus += 1

    async def _udp(self, one: Asked, query: bytes, budget: QueryBudget) -> bytes:
        sock = one.sock if one.sock is not None else one.open(query, budget, self.mark)
        try:
            return await receive_answer(sock, one.wire, self._count_bogus)
        finally:
            one.close(budget)

    async def _tcp(self, server: NameServer, wire: bytes, budget: QueryBudget) -> bytes:
        with (
            budget.descriptors.taken(),
            open_socket(server.family, socket.SOCK_STREAM, self.mark) as sock,
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


def answer_here(query: bytes) -> bytes | None:
    """Return the answer to what no name server is asked: FORMERR for what is no query, NOTIMP or
    REFUSED for what is no plain one; None: it is one."""
    if len(query) < _HEADER or query[2] & _QR:
        return error_response(query, Rcode.FORMERR)
    if query[2] & 0x78:
        return error_response(query, Rcode.NOTIMP, Ede.NOT_SUPPORTED, "not a standard query")
    try:
        return _refused(query, question_of(query))
    except ValueError:
        return error_response(query, Rcode.FORMERR)


def unanswered(query: bytes, error: Unanswered) -> bytes:
    """Return SERVFAIL; with the reason where the query has EDNS."""
    _log.debug("DNS query: %s", error)
    return servfail(query, str(error), error.ede)
