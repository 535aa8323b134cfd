"""A session on a WebSocket: what both ends, client and worker, do to run one over the other.

The reader hands every message to the session as it comes and never waits for a stream; what streams
may send is bounded by their credit. The writer sends one message at a time, as large as the
:class:`~zks_lwip.tunnel.pacing.Pacer` says, of what is then most urgent.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ..errors import ProtocolError
from .framing import SLICE
from .liveness import LONGEST, Others
from .pacing import Pacer
from .tcp_info import round_trip, stretched
from .websocket import ABNORMAL, WebSocketClosed, WsConnection

if TYPE_CHECKING:
    from .frames import Frame
    from .session import Session

__all__ = ["LAST_MESSAGE", "LinkEnd", "SessionLink"]

log = logging.getLogger(__name__)

LAST_MESSAGE = 1.0
"""Seconds that the message which is being sent may still take when a link ends."""


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


class SessionLink:
    """Runs a session over an open WebSocket, until either ends.

    ``wake`` is for the session's constructor; ``session`` and ``on_frame`` are for :meth:`run`.
    """

    def __init__(self, connection: WsConnection) -> None:
        self.connection = connection
        self.pacer = Pacer(connection.carrier)
        self._writer: trio.lowlevel.Task | None = None
        self._end: LinkEnd | None = None
        self._bug: Exception | None = None
        self._scope = trio.CancelScope()
        self._sending = trio.CancelScope(shield=True)
        self._stopping = False
        self._backlog: deque[Iterator[Frame | None] | memoryview] = deque()

    def wake(self) -> None:
        """The session has output."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    @property
    def delivered(self) -> bool:
        """The peer's TCP has all that this end had to say, as far as can be known."""
        return not self._session.has_output and self.connection.delivered

    def close(self, status: int = 1000, reason: str = "") -> None:
        """End the link: Close is sent, and :meth:`run` returns. Harmless when it has ended."""
        self._finish(LinkEnd(status, reason, ours=True))

    async def run(
        self,
        session: Session,
        on_frame: Callable[[Frame], None],
        *,
        hello_timeout: float = 10.0,
        quiet: float = 15.0,
        patience: float = 10.0,
        longest: float = LONGEST,
        others: Callable[[], Others] | None = None,
    ) -> LinkEnd:
        """Carry ``session`` until the WebSocket ends, the peer is dead or :meth:`close` is called.

        ``on_frame`` gets every frame that :meth:`Session.receive` gives, synchronously; what a
        frame views is valid as long as it is held. An exception that it raises ends the link and
        is raised here. ``quiet``, ``patience`` and ``longest`` are those of PROTOCOL.md §8, in
        seconds, ``others`` is that of :meth:`WsConnection.keep_alive`. The WebSocket is closed
        when this returns; also when it is cancelled (1000).
        """
        self._session, self._on_frame = session, on_frame
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._send)
                try:
                    with self._scope:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._receive)
                            nursery.start_soon(self._expect_hello, hello_timeout)
                            await self.connection.keep_alive(
                                quiet, patience, longest=longest, others=others
                            )
                            silence = trio.current_time() - self.connection.last_heard
                            waited = f"nothing was heard from it for {silence:.3g} s"
                            self._finish(LinkEnd(ABNORMAL, waited))
                finally:
                    self._stop_sending()
        finally:
            end = self._end or LinkEnd(1000, "")
            if end.status == ABNORMAL:
                await self.connection.abort()
            else:
                await self.connection.aclose(end.status, end.reason)
        if self._bug is not None:
            raise self._bug
        return end

    def _finish(self, end: LinkEnd) -> None:
        if self._end is None:
            self._end = end
            self._scope.cancel()

    async def _receive(self) -> None:
        try:
            await self.connection.deliver(self._on_message)
            await self._work_off()
        except ProtocolError as error:
            self._finish(LinkEnd(error.status, str(error), error))
            return
        status = self.connection.closed_status or ABNORMAL
        reason = self.connection.closed_reason or f"the connection was closed ({status})"
        self._finish(LinkEnd(status, reason))

    def _on_message(self, message: memoryview) -> None:
        if self._end is not None:
            return
        if self._backlog:
            self._backlog.append(message)
        else:
            self._work(self._session.work_through(message))

    def _work(self, frames: Iterator[Frame | None]) -> None:
        """Act on frames, but only for so long: a message of tiny ones could stop everybody else."""
        act = self._on_frame
        deadline = time.perf_counter() + SLICE
        try:
            for frame in frames:
                if frame is not None:
                    act(frame)
                if time.perf_counter() > deadline:
                    self._backlog.appendleft(frames)
                    self.connection.hold(self._work_off)
                    return
        except ProtocolError as error:
            self._finish(LinkEnd(error.status, str(error), error))
        except Exception as error:  # ours: run() raises it, the reader it came up in must live
            self._bug = error
            self._finish(LinkEnd(1011, "internal error"))

    async def _work_off(self) -> None:
        """Act on what was left, with the others having their turns; then read on."""
        while self._backlog and self._end is None:
            await trio.lowlevel.checkpoint()
            if self._backlog and self._end is None:
                left = self._backlog.popleft()
                if isinstance(left, memoryview):
                    left = self._session.work_through(left)
                self._work(left)
        self._backlog.clear()
        self.connection.hold(None)

    async def _send(self) -> None:
        session, pacer = self._session, self.pacer
        with self._sending:
            while not self._stopping:
                message = session.next_message(pacer.limit)
                if message is None:
                    pacer.idle()
                    await self._wait_for_output()
                    continue
                begin = trio.current_time()
                try:
                    await self.connection.send_message(message)
                except WebSocketClosed:
                    return  # the receiver gives the reason
                pacer.sent(len(message), begin, trio.current_time())

    def _stop_sending(self) -> None:
        """Let the message that is being sent go out, so that a Close frame can follow it."""
        self._stopping = True
        dead = self._end is not None and self._end.status == ABNORMAL
        self._sending.deadline = trio.current_time() + (0.0 if dead else LAST_MESSAGE)
        self.wake()

    async def _wait_for_output(self) -> None:
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _expect_hello(self, timeout: float) -> None:
        timeout = stretched(timeout, 2, round_trip(self.connection.carrier))
        await trio.sleep(timeout)
        if not self._session.ready:
            error = ProtocolError(f"no HELLO within {timeout:.3g} s")
            self._finish(LinkEnd(error.status, str(error), error))
