"""The sending half of a link: one message at a time, of what is then most urgent.

Messages are as large as the :class:`~.pacing.Pacer` says; where the kernel takes no more, half as
large, and made when there is room for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from ..net.rounds import ROUND
from ..net.watch import poll_watched
from ..protocol import AnySession
from .pacing import MAX_LIMIT, Pacer
from .run_time import run_time
from .tcp_info import idle
from .websocket import WebSocketClosed, WsConnection

__all__ = ["LAST_MESSAGE", "LinkWriter"]

LAST_MESSAGE = 1.0
"""Seconds that the message which is being sent may still take when a link ends."""
_LINGER = 1.0
"""Seconds for which the writer waits for output; a link that is idle for longer has none, since it
takes kilobytes."""


class LinkWriter:
    """Sends what a session has to say over its WebSocket, at the end of a round of events or, what
    does not leave then, in a task that lasts while there is something to send.

    :param paced: see :class:`~.link.SessionLink`.
    """

    __slots__ = (
        "_at_once",
        "_connection",
        "_making_room",
        "_now",
        "_nursery",
        "_on_end",
        "_prepare",
        "_running",
        "_sending",
        "_sending_one",
        "_session",
        "_stopping",
        "_task",
        "_unfinished",
        "_waiting",
        "last_sent",
        "pacer",
        "wanted",
    )

    def __init__(self, connection: WsConnection, session: AnySession, *, paced: bool) -> None:
        self._connection = connection
        self._session = session
        self.pacer = Pacer(connection.carrier if paced else None)
        self._nursery: trio.Nursery | None = None  # none at rest; the task is shielded in it
        self._running = False  # there is a task
        self._task: trio.lowlevel.Task | None = None  # it waits
        self._waiting: trio.CancelScope | None = None  # for output
        self._sending: trio.CancelScope | None = None  # what shields it
        # A message's bytes, when it began, and for how long there had been nothing to send.
        self._unfinished: tuple[int, float, float] | None = None
        self._making_room = False  # the task waits for it, with no message
        self._stopping = False
        self._at_once = False
        self._sending_one: trio.Event | None = None  # waited for by wait_sending()
        self._on_end: Callable[[Exception | None], None] = _drop
        self._prepare: Callable[[], None] | None = None
        self._now = run_time()
        #: There is something to do, and no nursery to do it in.
        self.wanted = False
        #: When the last message was begun (``trio.current_time``).
        self.last_sent = -math.inf

    def begin(
        self, on_end: Callable[[Exception | None], None], prepare: Callable[[], None] | None
    ) -> None:
        """Be ready to send.

        :param on_end: called when the session is finished and all of it is sent (None), or for an
            error of this end's own.
        :param prepare: called before each message is made.
        """
        self._on_end = on_end
        self._prepare = prepare

    def run_in(self, nursery: trio.Nursery | None) -> None:
        """Have the task run in ``nursery``; None: :attr:`wanted` tells that one is needed."""
        self._nursery = nursery

    def wake(self) -> None:
        """Send what the session has when the events at hand are over."""
        if not ROUND.at_end(self._flush):
            self.wake_task()

    def wake_task(self) -> None:
        """Wake the task, or begin one."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
        elif not self._running and not self._stopping:
            if self._nursery is None:
                self.wanted = True
                self._connection.end_rest()
                return
            self._running = True
            self._nursery.start_soon(self._send)

    def bring_forward(self) -> None:
        """Have the task look in time: what was received may be due to be acknowledged."""
        due = self._session.deadline
        if due is None:
            return
        if self._waiting is None:
            self.wake()
        elif due < self._waiting.deadline:
            self._waiting.deadline = due

    async def wait_sending(self) -> None:
        """Wait until the next message is handed to the WebSocket."""
        if self._sending_one is None:
            self._sending_one = trio.Event()
        await self._sending_one.wait()

    def stop(self, *, at_once: bool) -> None:
        """Let the message that is being sent go out, so that a Close frame can follow it.

        :param at_once: nothing will follow, so that it needs not.
        """
        self._stopping = True
        self._at_once = at_once
        if self._sending is not None:
            self._limit(self._sending)
        self.wake_task()

    def end(self) -> None:
        """Call nothing of the owner's any more."""
        self._on_end = _drop
        self._prepare = None

    def _flush(self) -> None:
        """Send one message at the end of a round of events; what does not leave then, and more, is
        the task's."""
        waits = self._task is not None or not self._running
        if not waits or self._stopping:
            return
        if self._connection.sending:  # a ping or a pong, which does not tell when it has left
            self.wake_task()
            return
        try:
            message = self._next_message()
            if message is not None and self._begin(message) and not self._session.has_output:
                self.pacer.idle()
                return
        except WebSocketClosed:
            self._stopping = True  # the receiver gives the reason
        except Exception as error:
            self._on_end(error)
        self.wake_task()

    def _next_message(self, full: bool = False) -> bytearray | None:
        if self._prepare is not None:
            self._prepare()
        limit = self.pacer.limit
        message = self._session.next_message(limit // 2 if full else limit)
        if message is not None and self._sending_one is not None:
            self._sending_one.set()
            self._sending_one = None
        return message

    def _begin(self, message: bytearray, since: float | None = None) -> bool:
        """Send what leaves of a message at once, and return whether that was all; if not, it is for
        the task to finish it.

        :param since: when the task began to wait for room, if it did.
        """
        connection, pacer = self._connection, self.pacer
        self.last_sent = self._now()
        begin = self.last_sent if since is None else since
        late = 0.0
        if since is None and pacer.is_late(begin):  # others were served first
            late = idle(connection.carrier)
        if connection.begin_message(message, self._session.message_changed):
            full = since is not None
            unused = connection.idle if full else 0.0
            pacer.sent(len(message), begin, self._now(), full=full, idle=unused, late=late)
            return True
        self._unfinished = len(message), begin, late
        return False

    async def _send(self) -> None:
        """Send what there is, and what comes until there was nothing for ``_LINGER`` seconds."""
        try:
            with trio.CancelScope(shield=True) as self._sending:
                if self._stopping:
                    self._limit(self._sending)
                await self._send_while_busy()
        finally:
            self._sending = None
            self._running = False

    async def _send_while_busy(self) -> None:
        session, pacer, connection = self._session, self.pacer, self._connection
        lingered = full = False
        try:
            while True:
                since = None
                if self._unfinished is not None:
                    (size, begin, late), self._unfinished = self._unfinished, None
                    await connection.finish_message()
                    now = trio.current_time()
                    pacer.sent(size, begin, now, idle=connection.idle, late=late)
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
                    lingered = False
                    await connection.wait_for_turn()
                    if self._begin(message, since) and session.has_output and not poll_watched():
                        await trio.lowlevel.checkpoint()
                elif session.finished:
                    self._stopping = True
                    self._on_end(None)
                else:
                    pacer.idle()
                    full = False
                    if session.has_output:  # its time has come this moment
                        await trio.lowlevel.checkpoint()
                    elif lingered and session.deadline is None:
                        return
                    else:
                        lingered = await self._wait_for_output(session.deadline)
        except WebSocketClosed:
            self._stopping = True  # the receiver gives the reason

    def _limit(self, sending: trio.CancelScope) -> None:
        nothing = self._at_once or self._making_room
        sending.deadline = trio.current_time() + (0.0 if nothing else LAST_MESSAGE)

    async def _wait_for_output(self, deadline: float | None) -> bool:
        """Wait until :meth:`wake`, until a deadline (``trio.current_time``), or for ``_LINGER``.

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
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


def _drop(error: Exception | None) -> None:
    """Take an end, and do nothing."""
