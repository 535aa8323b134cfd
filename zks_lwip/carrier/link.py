"""A session on a WebSocket: what both ends, client and worker, do to run one over the other.

A session that can be resumed (PROTOCOL.md §6) outlives its WebSocket: a link is one WebSocket's
run of it, and another link goes on with it.

Where streams have credit, the reader hands every message to the session as it comes and never
waits for a stream. Where they have none (v1), what holds the peer up is that its WebSocket is not
read: the reader waits while the session holds enough. The writer sends one message at a time, as
large as the :class:`~zks_lwip.carrier.pacing.Pacer` says, of what is then most urgent; where the
kernel takes no more, half as large, and when there is room for it.
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
from ..net.watch import poll_watched
from ..protocol import HELLO_TIMEOUT, AnySession, Buffer, Event
from ..protocol.v1 import MAX_HELD
from .framing import SLICE
from .keep_alive import KeepAlive, Outcome
from .liveness import MAX_PATIENCE, Others
from .pacing import MAX_LIMIT, Pacer
from .run_time import run_time
from .tcp_info import round_trip, stretched
from .websocket import ABNORMAL, WebSocketClosed, WsConnection

__all__ = ["LAST_MESSAGE", "LinkEnd", "SessionLink"]

LAST_MESSAGE = 1.0
"""Seconds that the message which is being sent may still take when a link ends."""
_LINGER = 1.0
"""Seconds for which the writer waits for output; a link that is idle for longer has none, since it
takes kilobytes."""

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
        "_flow_controlled",
        "_has_writer",
        "_making_room",
        "_now",
        "_nursery",
        "_on_event",
        "_reading_since",
        "_room",
        "_roused",
        "_sending",
        "_sending_one",
        "_stopping",
        "_unfinished",
        "_waiting",
        "_writer",
        "connection",
        "last_sent",
        "pacer",
        "session",
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
        self.pacer = Pacer(connection.carrier if paced else None)
        self._nursery: trio.Nursery | None = None  # none at rest; the writer is shielded in it
        self._roused = False  # there is something to do, if it is at rest
        self._has_writer = False
        self._writer: trio.lowlevel.Task | None = None  # it waits
        self._room: trio.Event | None = None  # waited for by the reader
        self._reading_since = -math.inf
        self._end: LinkEnd | None = None
        self._bug: Exception | None = None
        self._sending: trio.CancelScope | None = None  # what shields the writer
        self._unfinished: tuple[int, float] | None = None  # a message's bytes, and when it began
        self._making_room = False  # the writer waits for it, with no message
        self._stopping = False
        self._detached = False  # the session is another link's, or waits for one
        self._waiting: trio.CancelScope | None = None  # the writer, for output
        self._sending_one: trio.Event | None = None  # waited for by wait_sending()
        self._backlog: deque[Iterator[Event | None] | memoryview] = EMPTY
        self._on_event: Callable[[Event], None] = _drop  # until run() is called
        self._first = first
        self._flow_controlled = session.flow_controlled  # else events come with time, too
        self._now = run_time()
        self.session = session
        #: When the last message was begun (``trio.current_time``).
        self.last_sent = -math.inf

    def _wake(self) -> None:
        """The session has output: send it when the events at hand are over."""
        if not ROUND.at_end(self._flush):
            self._wake_writer()

    def _wake_writer(self) -> None:
        """Wake the writer, or begin one."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)
        elif not self._has_writer and not self._stopping:
            if self._nursery is None:
                self._rouse()
                return
            self._has_writer = True
            self._nursery.start_soon(self._send)

    def _rouse(self) -> None:
        """Have :meth:`run` rest no longer."""
        self._roused = True
        self.connection.end_rest()

    def _flush(self) -> None:
        """Send one message at the end of a round of events; what does not leave then, and more, is
        the writer's."""
        waits = self._writer is not None or not self._has_writer
        if not waits or self._stopping:
            return
        if self.connection.sending:  # a ping or a pong, which does not tell when it has left
            self._wake_writer()
            return
        try:
            message = self._next_message()
            if message is not None and self._begin(message) and not self.session.has_output:
                self.pacer.idle()
                return
        except WebSocketClosed:
            self._stopping = True  # the receiver gives the reason
        except Exception as error:
            self._finish_failed(error)
        self._wake_writer()

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

    async def wait_sending(self) -> None:
        """Wait until the next message is handed to the WebSocket."""
        if self._sending_one is None:
            self._sending_one = trio.Event()
        await self._sending_one.wait()

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
        session.attach(self._wake, self._unblock)
        if self._first is not None:
            first, self._first = memoryview(self._first), None
            self._on_message(first)
            del first
        alive = KeepAlive(self.connection, quiet, patience, longest=longest, others=others)
        expected: float | None = hello_timeout
        try:
            while await self._carry(alive, patience, expected, resuming):
                expected = None
                if not self._roused and self._end is None:
                    await self.connection.rest(alive.due)
        finally:
            self._stop_sending()
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
        roused, self._roused = self._roused, False
        idle = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.connection.answer_pings(nursery)
                if self._end is not None:
                    nursery.cancel_scope.cancel()
                if hello_timeout is not None:
                    self._wake()
                    nursery.start_soon(self._expect_hello, hello_timeout, resuming)
                elif roused or self.session.has_output:
                    self._wake_writer()
                try:
                    idle = await self._receive(alive, nursery, patience)
                finally:
                    if idle:  # it is closed from here on
                        self._nursery = None
                    else:
                        self._stop_sending()
        finally:
            self._nursery = None
            self.connection.answer_pings(None)
        return idle

    def _finish(self, end: LinkEnd, *, detach: bool = False) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        else:
            self._rouse()
        if detach or end.resumable:
            self._detached = True
            self._stop_sending()
            self.session.detach()
            left = self._backlog.popleft() if self._backlog else None
            if left is not None and not isinstance(left, memoryview):
                # Of a frame that was taken all is to be told; then these events end by themselves
                self._work(left)

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
                self._wake()  # the writer ends the link, after what it still has
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
            self._bring_forward()

    def _bring_forward(self) -> None:
        """Have the writer look in time: what was received may be due to be acknowledged."""
        due = self.session.deadline
        if due is None:
            return
        if self._waiting is None:
            self._wake()
        elif due < self._waiting.deadline:
            self._waiting.deadline = due

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

    def _next_message(self, full: bool = False) -> bytearray | None:
        if not self._flow_controlled and (events := self.session.take_events()):
            self._act(events)
        limit = self.pacer.limit
        message = self.session.next_message(limit // 2 if full else limit)
        if message is not None and self._sending_one is not None:
            self._sending_one.set()
            self._sending_one = None
        return message

    def _begin(self, message: bytearray, since: float | None = None) -> bool:
        """Send what leaves of a message at once, and return whether that was all; if not, it is for
        the writer to finish it.

        :param since: when the writer began to wait for room, if it did.
        """
        self.last_sent = self._now()
        begin = self.last_sent if since is None else since
        if self.connection.begin_message(message, self.session.message_changed):
            waited = since is not None
            idle = self.connection.idle if waited else 0.0
            self.pacer.sent(len(message), begin, self._now(), full=waited, idle=idle)
            return True
        self._unfinished = len(message), begin
        return False

    async def _send(self) -> None:
        """Send what there is, and what comes until there was nothing for ``_LINGER`` seconds."""
        try:
            with trio.CancelScope(shield=True) as self._sending:
                if self._stopping:
                    self._limit_sending(self._sending)
                await self._send_while_busy()
        finally:
            self._sending = None
            self._has_writer = False

    async def _send_while_busy(self) -> None:
        session, pacer, connection = self.session, self.pacer, self.connection
        idle = full = False
        try:
            while True:
                since = None
                if self._unfinished is not None:
                    (size, begin), self._unfinished = self._unfinished, None
                    await connection.finish_message()
                    pacer.sent(size, begin, trio.current_time(), idle=connection.idle)
                    full = pacer.limit < MAX_LIMIT  # on a fast path little waits, and CPU is short
                if full and session.has_output and not self._stopping:
                    since = trio.current_time()
                    self._making_room = True
                    await connection.wait_for_room()
                    self._making_room = False
                    if connection.idle:  # the path does not limit any more
                        full = pacer.limit < MAX_LIMIT
                if self._stopping:
                    return
                message = self._next_message(full)
                if message is not None:
                    idle = False
                    await connection.wait_for_turn()
                    if self._begin(message, since) and session.has_output and not poll_watched():
                        await trio.lowlevel.checkpoint()
                elif session.finished:
                    self._stopping = True
                    self._finish(LinkEnd(1000, "", ours=True))
                else:
                    pacer.idle()
                    full = False
                    if session.has_output:  # its time has come this moment
                        await trio.lowlevel.checkpoint()
                    elif idle and session.deadline is None:
                        return
                    else:
                        idle = await self._wait_for_output(session.deadline)
        except WebSocketClosed:
            self._stopping = True  # the receiver gives the reason

    def _stop_sending(self) -> None:
        """Let the message that is being sent go out, so that a Close frame can follow it."""
        self._stopping = True
        if self._sending is not None:
            self._limit_sending(self._sending)
        self._wake_writer()

    def _limit_sending(self, sending: trio.CancelScope) -> None:
        dead = self._detached or (self._end is not None and self._end.status == ABNORMAL)
        nothing = dead or self._making_room
        sending.deadline = trio.current_time() + (0.0 if nothing else LAST_MESSAGE)

    async def _wait_for_output(self, deadline: float | None) -> bool:
        """Wait until :meth:`_wake`, until a deadline (``trio.current_time``), or for ``_LINGER``.

        :returns: whether the time was over.
        """
        if deadline is None:
            deadline = trio.current_time() + _LINGER
        with trio.CancelScope(deadline=deadline) as scope:
            self._waiting = scope
            try:
                await self._wait_for_wake()
            finally:
                self._waiting = None
        return scope.cancelled_caught

    async def _wait_for_wake(self) -> None:
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

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
