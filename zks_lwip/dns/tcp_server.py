"""DNS over TCP, the server's end of one connection: queries in, answers out as they come.

Answers may overtake each other (RFC 7766 §6.2.1.1). :class:`Conversation` has no sockets: the
owner of the connection moves the bytes. :func:`serve_stream` does so for any trio stream.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from .message.framing import Deframer, frame
from .message.wire import HEADER, RCODE, Ede, Rcode, ede_option, opt_record, walk

__all__ = ["AnswerBudget", "Conversation", "serve_stream"]

_log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 128
"""Queries of one connection that are being answered; nothing more is read beyond."""
MAX_UNSENT = 256 << 10
"""Bytes of answers that the client has not taken, four of the largest; nothing more is read
beyond.
"""
MAX_HELD = 1 << 20
"""Bytes of answers at most, with those to the queries that were in flight when that was reached."""
MAX_HELD_BY_ALL = 16 << 20
"""Bytes of answers that all connections together may hold."""
MAX_TAKEN = 16 << 10
"""Bytes that :meth:`Conversation.take` joins; a longer answer is given alone."""
IDLE = 30.0
"""Seconds without a query and without an answer under way, after which a connection is closed."""


class _Service(Protocol):
    def submit(
        self, query: bytes, reply: Callable[[bytes], None], *, transport: str = "udp"
    ) -> None: ...


class AnswerBudget:
    """Bytes of answers that several conversations may hold together."""

    def __init__(self, limit: int = MAX_HELD_BY_ALL) -> None:
        self.limit = limit
        self.held = 0


class Conversation:
    """One connection. ``wake`` is called whenever an answer is added to the output.

    What does not fit ``budget`` is answered SERVFAIL instead, which takes a few bytes.
    """

    def __init__(
        self, service: _Service, wake: Callable[[], None], budget: AnswerBudget | None = None
    ) -> None:
        self._service = service
        self._wake = wake
        self._budget = AnswerBudget() if budget is None else budget
        self._deframer = Deframer()
        self._backlog: deque[bytes] = deque()
        self._output: deque[bytes] = deque()
        self._unsent = 0
        self._ended = False
        self._closed = False
        self.in_flight = 0

    @property
    def paused(self) -> bool:
        """Whether the owner should leave what comes unread."""
        return bool(self._backlog) or self.in_flight >= MAX_IN_FLIGHT or self._unsent >= MAX_UNSENT

    @property
    def finished(self) -> bool:
        """Whether the client has ended its side and has been given all answers."""
        return self._ended and not self._backlog and not self.in_flight and not self._output

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the client. What cannot be a query is dropped, as over UDP."""
        self._backlog += self._deframer.feed(data)
        self._ask()

    def end(self) -> None:
        """The client sends no more."""
        self._ended = True

    def close(self) -> None:
        """The connection is gone: drop what it holds, and the answers that are still to come."""
        self._closed = True
        self._hold(-self._unsent)
        self._output.clear()
        self._backlog.clear()

    def take(self) -> bytes:
        """Return what is to be sent next, and count it as sent; nothing if there is nothing."""
        taken: list[bytes] = []
        size = 0
        while self._output and (not taken or size + len(self._output[0]) <= MAX_TAKEN):
            size += len(self._output[0])
            taken.append(self._output.popleft())
        self._hold(-size)
        self._ask()
        return b"".join(taken)

    def _hold(self, count: int) -> None:
        self._unsent += count
        self._budget.held += count

    def _ask(self) -> None:
        while self._backlog and self.in_flight < MAX_IN_FLIGHT and self._unsent < MAX_UNSENT:
            query = self._backlog.popleft()
            if len(query) < 12 or query[2] & 0x80:
                # Dropped and counted; no answer is to be waited for.
                self._service.submit(query, self._reply, transport="tcp")
                continue
            self.in_flight += 1
            self._service.submit(query, self._reply, transport="tcp")

    def _reply(self, message: bytes) -> None:
        self.in_flight -= 1
        if self._closed:
            return
        held = len(message) + 2
        if self._unsent + held > MAX_HELD or self._budget.held + held > self._budget.limit:
            message = _servfail(message)
        self._output.append(frame(message))
        self._hold(len(message) + 2)
        self._wake()


def _servfail(answer: bytes) -> bytes:
    """Make of an answer one without records, with the reason where the client speaks EDNS."""
    layout = walk(answer)
    reason = ede_option(Ede.NOT_READY, "too many bytes of answers wait to be read")
    opt = b""
    if layout.opt:
        size, _, _, flags = struct.unpack_from("!HBBH", answer, layout.opt + 3)
        opt = opt_record(size, flags, 0, reason)
    ident, flags, *_ = HEADER.unpack_from(answer)
    header = HEADER.pack(ident, flags & ~RCODE | Rcode.SERVFAIL, 1, 0, 0, 1 if opt else 0)
    return header + answer[12 : layout.question_end] + opt


async def serve_stream(service: _Service, stream: trio.abc.Stream, *, idle: float = IDLE) -> None:
    """Answer the queries on ``stream`` until the client ends or resets it, or is idle.

    :param idle: seconds without a query and without an answer under way.
    """
    news = trio.Event()
    room = trio.Event()
    conversation = Conversation(service, lambda: news.set())

    async def write() -> None:
        nonlocal news, room
        while not conversation.finished:
            await news.wait()
            news = trio.Event()
            while data := conversation.take():
                await stream.send_all(data)
            room.set()
            room = trio.Event()
        nursery.cancel_scope.cancel()

    async def read() -> None:
        while True:
            while conversation.paused:
                await room.wait()
            with trio.move_on_after(idle) as scope:
                data = await stream.receive_some(65536)
            if scope.cancelled_caught:
                if conversation.in_flight:
                    continue
                nursery.cancel_scope.cancel()
                return
            if not data:
                conversation.end()
                news.set()
                return
            conversation.receive(data)

    async with stream:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(write)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("a client has reset its DNS connection")
        finally:
            conversation.close()
