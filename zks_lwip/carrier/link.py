"""A session on a WebSocket: what both ends, client and worker, do to run one over the other.

A session that can be resumed (PROTOCOL.md §6) outlives its WebSocket: a link is one WebSocket's
run of it, and another link goes on with it.

Where streams have credit, the reader hands every message to the session as it comes and never
waits for a stream. Where they have none (v1), what holds the peer up is that its WebSocket is not
read: the reader waits while the session holds enough. What is sent is :mod:`.link_writer`'s.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from .._util import EMPTY
from ..errors import ProtocolError
from ..net.rounds import ROUND
from ..protocol import HELLO_TIMEOUT, AnySession, Buffer, Event
from ..protocol.v1 import MAX_HELD
from .framing import SLICE
from .keep_alive import KeepAlive, Outcome
from .link_writer import LinkWriter
from .liveness import MAX_PATIENCE, Others
from .tcp_info import round_trip, stretched
from .websocket import ABNORMAL, WebSocketClosed, WsConnection

__all__ = ["LinkEnd", "SessionLink"]

_S = TypeVar("_S", bound=AnySession)

_LOST = frozenset({ABNORMAL, 1001, 1011, 1012, 1013})
"""How a WebSocket ends whose session goes on over another (PROTOCOL.md §6)."""
_HELD_UP = MAX_HELD // 2
"""Bytes that a consumer has to leave before our ends stop reading. A peer that was sent less cannot
be held up, so its silence counts."""


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """Why a link ended."""

    status: int
    """The WebSocket's Close status; 1006: it was lost without one."""
    reason: str
    """One clause for a log line."""
    error: ProtocolError | None = None
    """The peer's breach of the protocol, if that was it."""
    ours: bool = False
    """This end had no more use for it."""

    @property
    def resumable(self) -> bool:
        """The WebSocket was lost, by the network or the peer; its session may go on over another.

        Whether that session can be resumed at all is not said here.
        """
        return self.status in _LOST and self.error is None and not self.ours


class SessionLink(Generic[_S]):
    """Runs a session over an open WebSocket, until either ends. Made by :mod:`.versions`.

    :param session: is attached by :meth:`run`. When that returns, it is detached if the end is
        ``resumable`` and the session too, else over. Its clock is ``trio.current_time``.
    :param paced: measure the path, and keep messages as small as it needs; False for a session
        whose messages have the size that they have.
    :param first: a message that has been taken from the WebSocket before.
    """

    __slots__ = (
        "_backlog",
        "_bug",
        "_detached",
        "_end",
        "_first",
        "_nursery",
        "_on_event",
        "_reading_since",
        "_room",
        "connection",
        "session",
        "writer",
    )

    def __init__(
        self,
        connection: WsConnection,
        session: _S,
        *,
        paced: bool = True,
        first: Buffer | None = None,
    ) -> None:
        self.connection = connection
        self.session = session
        self.writer = LinkWriter(connection, session, paced=paced)
        self._nursery: trio.Nursery | None = None  # none at rest
        self._room: trio.Event | None = None  # waited for by the reader
        self._reading_since = -math.inf
        self._end: LinkEnd | None = None
        self._bug: Exception | None = None
        self._detached = False  # the session is another link's, or waits for one
        self._backlog: deque[Iterator[Event | None] | memoryview] = EMPTY
        self._on_event: Callable[[Event], None] = _drop  # until run() is called
        self._first = first

    def _unblock(self) -> None:
        """Let the reader go on: the session may receive again."""
        self._reading_since = trio.current_time()
        if self._room is not None:
            self._room.set()

    @property
    def delivered(self) -> bool:
        """The peer's TCP has all that this end had to say, as far as can be known."""
        return not self.session.has_output and self.connection.delivered

    def close(self, status: int = 1000, reason: str = "") -> None:
        """End the link: Close is sent, and :meth:`run` returns. Harmless when it has ended."""
        self._finish(LinkEnd(status, reason, ours=True))

    def take_away(self, status: int = ABNORMAL, reason: str = "") -> None:
        """Let go of the session at once, for another link: from here on nothing is taken or sent.

        A session that cannot be resumed is over. :meth:`run` returns when the WebSocket is closed.
        Harmless when it has ended.

        :param status: for the Close frame; 1006: there is none, and :attr:`LinkEnd.resumable`.
        """
        self._finish(LinkEnd(status, reason, ours=status != ABNORMAL), detach=True)

    async def run(
        self,
        on_event: Callable[[Event], None],
        *,
        hello_timeout: float = HELLO_TIMEOUT,
        quiet: float = 15.0,
        patience: float = 10.0,
        longest: float = MAX_PATIENCE,
        others: Callable[[], Others] | None = None,
    ) -> LinkEnd:
        """Carry the session until it is finished, the WebSocket ends, the peer is dead or
        :meth:`close` is called.

        The WebSocket is closed when this returns; also when it is cancelled (1000).

        :param on_event: gets every event of the session, synchronously; what an event views is
            valid as long as it is held. An exception that it raises ends the link and is raised
            here.
        :param hello_timeout: seconds within which the session has to be ready; one that is resumed
            and is not has lost its WebSocket again.
        :param quiet: as ``patience`` and ``longest``, seconds, those of PROTOCOL.md §8.
        :param others: see :class:`KeepAlive`.
        """
        self._on_event = on_event
        session = self.session
        resuming = session.resumable
        self.writer.begin(self._on_sent, None if session.flow_controlled else self._tell)
        session.attach(self.writer.wake, self._unblock)
        if self._first is not None:
            first, self._first = memoryview(self._first), None
            self._on_message(first)
            del first
        alive = KeepAlive(self.connection, quiet, patience, longest=longest, others=others)
        expected: float | None = hello_timeout
        try:
            while await self._carry(alive, patience, expected, resuming):
                expected = None
                if not self.writer.wanted and self._end is None:
                    await self.connection.rest(alive.due)
        finally:
            self._stop_sending()
            self.writer.end()
            if not self._detached:
                session.end()
            end = self._end or LinkEnd(1000, "")
            # (A Close frame of the peer's has been answered when it came.)
            if end.status == ABNORMAL or end.resumable:
                await self.connection.abort()
            else:
                await self.connection.aclose(end.status, end.reason)
        if self._bug is not None:
            raise self._bug
        return end

    async def _carry(
        self, alive: KeepAlive, patience: float, hello_timeout: float | None, resuming: bool
    ) -> bool:
        """Carry the session until the link ends, or until nothing goes on for a while.

        :param hello_timeout: None: this is not the first time.
        :returns: False: it has ended. True: call it again when there is something to do; a link
            that is idle has no nursery meanwhile, which takes kilobytes.
        """
        writer = self.writer
        wanted, writer.wanted = writer.wanted, False
        idle = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                writer.run_in(nursery)
                self.connection.answer_pings(nursery)
                if self._end is not None:
                    nursery.cancel_scope.cancel()
                if hello_timeout is not None:
                    writer.wake()
                    nursery.start_soon(self._expect_hello, hello_timeout, resuming)
                elif wanted or self.session.has_output:
                    writer.wake_task()
                try:
                    idle = await self._receive(alive, nursery, patience)
                finally:
                    if idle:  # it is closed from here on
                        self._leave_nursery()
                    else:
                        self._stop_sending()
        finally:
            self._leave_nursery()
            self.connection.answer_pings(None)
        return idle

    def _leave_nursery(self) -> None:
        self._nursery = None
        self.writer.run_in(None)

    def _finish(self, end: LinkEnd, *, detach: bool = False) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        else:
            self.connection.end_rest()
        if detach or end.resumable:
            self._detached = True
            self._stop_sending()
            self.session.detach()
            left = self._backlog.popleft() if self._backlog else None
            if left is not None and not isinstance(left, memoryview):
                # Of a frame that was taken all is to be told; then these events end by themselves
                self._work(left)

    def _stop_sending(self) -> None:
        dead = self._detached or (self._end is not None and self._end.status == ABNORMAL)
        self.writer.stop(at_once=dead)

    def _on_sent(self, error: Exception | None) -> None:
        """Take from the writer that all is sent, or that there was an error."""
        if error is None:
            self._finish(LinkEnd(1000, "", ours=True))
        else:
            self._finish_failed(error)

    def _finish_broken(self, error: ProtocolError) -> None:
        """End the link: the peer has broken the protocol."""
        self._finish(LinkEnd(error.status, str(error), error))

    def _finish_failed(self, error: Exception) -> None:
        """End the link by an error of this end's own, which :meth:`run` raises."""
        self._bug = error
        self._finish(LinkEnd(1011, "internal error"))

    async def _receive(self, alive: KeepAlive, nursery: trio.Nursery, patience: float) -> bool:
        """Take messages until the WebSocket ends or the peer is dead.

        :returns: True: or until nothing goes on for a while.

        An end that is held up reads no pongs and answers no pings, so neither is taken for dead
        then.
        """
        try:
            while True:
                outcome = await alive.outlive(self._take_messages, nursery)
                if outcome is Outcome.QUIET:
                    return True
                if outcome is Outcome.ENDED:
                    break
                if self._is_dead(alive, patience):
                    silence = trio.current_time() - self.connection.last_heard
                    waited = f"nothing was heard from it for {silence:.3g} s"
                    self._finish(LinkEnd(ABNORMAL, waited))
                    return False
                with trio.move_on_after(patience):
                    await self._take_messages()
                    break
        except ProtocolError as error:
            self._finish_broken(error)
            return False
        except WebSocketClosed as error:
            status, reason = error.status, error.reason
        else:
            status = self.connection.closed_status or ABNORMAL
            reason = self.connection.closed_reason
        self._finish(LinkEnd(status, reason or f"the connection was closed ({status})"))
        return False

    def _is_dead(self, alive: KeepAlive, patience: float) -> bool:
        """Return whether a peer that says nothing is dead, and not held up."""
        if self.session.flow_controlled:
            return True
        since = trio.current_time() - self._reading_since
        reading = self.session.may_receive and since >= patience
        little = self.connection.message_bytes_sent < _HELD_UP
        return reading and (little or alive.all_was_read)

    async def _take_messages(self) -> None:
        """Take messages until the WebSocket ends. It can be cancelled, and called again."""
        if self.session.flow_controlled:
            await self.connection.deliver(self._on_message)
            await self._work_off()
        else:
            await self._read_while_there_is_room()

    async def _read_while_there_is_room(self) -> None:
        """Take one message after the other, but none while the session holds enough."""
        session = self.session
        deadline = time.perf_counter() + SLICE
        while True:
            while not session.may_receive:
                self._room = trio.Event()
                await self.connection.read_ahead()
                await self._room.wait()
            message = await self.connection.receive_message()
            with ROUND:
                self._act(session.receive(message))
            if session.finished:
                self.writer.wake()  # it ends the link, after what it still has
            if time.perf_counter() > deadline:  # many small ones were there
                await trio.lowlevel.checkpoint()
                deadline = time.perf_counter() + SLICE

    def _on_message(self, message: memoryview) -> None:
        if self._end is not None:
            return
        if self._backlog:
            self._backlog.append(message)
        else:
            self._work(self.session.work_through(message))

    def _act(self, events: Iterable[Event]) -> None:
        act = self._on_event
        try:
            for event in events:
                act(event)
        except Exception as error:
            self._finish_failed(error)

    def _tell(self) -> None:
        """Act on events that come with time."""
        if events := self.session.take_events():
            self._act(events)

    def _work(self, events: Iterator[Event | None]) -> None:
        """Act on events, but only for so long: a message of tiny frames could stop all others."""
        act = self._on_event
        deadline = time.perf_counter() + SLICE
        try:
            for event in events:
                if event is not None:
                    act(event)
                if time.perf_counter() > deadline and not self._detached:
                    if self._backlog is EMPTY:
                        self._backlog = deque()
                    self._backlog.appendleft(events)
                    self.connection.hold(self._work_off)
                    return
        except ProtocolError as error:
            self._finish_broken(error)
        except Exception as error:  # the reader it came up in must live
            self._finish_failed(error)
        else:
            self.writer.bring_forward()

    async def _work_off(self) -> None:
        """Act on what was left, with the others having their turns; then read on."""
        while self._backlog and self._end is None:
            await trio.lowlevel.checkpoint()
            if self._backlog and self._end is None:
                left = self._backlog.popleft()
                if isinstance(left, memoryview):
                    left = self.session.work_through(left)
                self._work(left)
        self._backlog = EMPTY
        self.connection.hold(None)

    async def _expect_hello(self, timeout: float, resuming: bool) -> None:
        if self.session.ready:
            return
        timeout = stretched(timeout, 2, round_trip(self.connection.carrier))
        await trio.sleep(timeout)
        if not self.session.ready:
            why = f"no HELLO within {timeout:.3g} s"
            if resuming:
                self._finish(LinkEnd(ABNORMAL, why))
            else:
                self._finish_broken(ProtocolError(why))


def _drop(event: Event) -> None:
    """Take an event, and do nothing."""
