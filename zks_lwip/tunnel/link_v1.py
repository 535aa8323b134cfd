"""A v1 session on a WebSocket, at either end (PROTOCOL.md §9).

v1 has no credit: what holds a peer up is that its WebSocket is not read. So here, unlike in
:class:`~zks_lwip.tunnel.link.SessionLink`, the reader waits while the session holds enough.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ..errors import ProtocolError
from .frames import Frame
from .link import LAST_MESSAGE, LinkEnd
from .liveness import LONGEST, Others
from .pacing import MAX_LIMIT
from .session_v1 import MOST_HELD, ClientV1, WorkerV1
from .websocket import ABNORMAL, WebSocketClosed, WsConnection

__all__ = ["LinkV1"]

_HELD_UP = MOST_HELD // 2
"""Bytes that a consumer has to leave before our ends stop reading. Who was sent less, answers."""


class LinkV1:
    """Runs a v1 session over an open WebSocket, as ``SessionLink`` runs a ``Session``.

    ``wake`` and ``unblock`` are for the session's constructor, whose clock has to be trio's. The
    WebSocket should have been opened with ``queue=1``, so that little is read ahead.
    """

    def __init__(self, connection: WsConnection) -> None:
        self.connection = connection
        self._output = trio.Event()
        self._room = trio.Event()
        self._reading_since = -math.inf
        self._scope = trio.CancelScope()
        self._sending = trio.CancelScope(shield=True)
        self._end: LinkEnd | None = None
        self._bug: Exception | None = None

    def wake(self) -> None:
        """The session has output."""
        self._output.set()

    def unblock(self) -> None:
        """The session may receive again."""
        self._reading_since = trio.current_time()
        self._room.set()

    @property
    def delivered(self) -> bool:
        """The peer's TCP has all that this end had to say, as far as can be known."""
        return not self._session.has_output and self.connection.delivered

    def close(self, status: int = 1000, reason: str = "") -> None:
        """End the link: Close is sent, and :meth:`run` returns. Harmless when it has ended."""
        self._finish(LinkEnd(status, reason, ours=True))

    async def run(
        self,
        session: ClientV1 | WorkerV1,
        on_frame: Callable[[Frame], None],
        *,
        finished: Callable[[], bool] | None = None,
        quiet: float = 15.0,
        patience: float = 10.0,
        longest: float = LONGEST,
        others: Callable[[], Others] | None = None,
    ) -> LinkEnd:
        """Carry ``session`` until the WebSocket ends, the peer is dead or :meth:`close` is called.

        As :meth:`SessionLink.run`. Where ``finished`` is given, it is asked whenever all has been
        sent, and the link ends (1000) once it says so. An end that is held up reads no pongs and
        answers no pings, so neither is taken for dead then.
        """
        self._session = session
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._send, session, on_frame, finished)
                try:
                    with self._scope:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._receive, session, on_frame, finished)
                            alive = partial(
                                self.connection.keep_alive,
                                quiet,
                                patience,
                                longest=longest,
                                others=others,
                            )
                            await self._wait_for_death(session, alive, patience)
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

    async def _wait_for_death(
        self,
        session: ClientV1 | WorkerV1,
        alive: Callable[[], Awaitable[None]],
        patience: float,
    ) -> None:
        while True:
            await alive()
            reading = session.may_receive and trio.current_time() - self._reading_since >= patience
            little = self.connection.message_bytes_sent < _HELD_UP
            if reading and (little or self.connection.all_was_read):
                return
            await trio.sleep(patience)

    def _finish(self, end: LinkEnd) -> None:
        if self._end is None:
            self._end = end
            self._scope.cancel()

    def _stop_sending(self) -> None:
        if self._end is None:  # cancelled from outside
            self._end = LinkEnd(1000, "")
        dead = self._end.status == ABNORMAL
        self._sending.deadline = trio.current_time() + (0.0 if dead else LAST_MESSAGE)
        self._output.set()

    def _act(self, frames: list[Frame], on_frame: Callable[[Frame], None]) -> None:
        try:
            for frame in frames:
                on_frame(frame)
        except Exception as error:  # ours: run() raises it
            self._bug = error
            self._finish(LinkEnd(1011, "internal error"))

    async def _receive(
        self,
        session: ClientV1 | WorkerV1,
        on_frame: Callable[[Frame], None],
        finished: Callable[[], bool] | None,
    ) -> None:
        try:
            while True:
                while not session.may_receive:
                    self._room = trio.Event()
                    await self._room.wait()
                self._act(session.receive(await self.connection.receive_message()), on_frame)
                if finished is not None and finished():
                    self._output.set()  # the sender ends it, after what it still has
        except ProtocolError as error:
            self._finish(LinkEnd(error.status, str(error), error))
        except WebSocketClosed as error:
            reason = error.reason or f"the connection was closed ({error.status})"
            self._finish(LinkEnd(error.status, reason))

    async def _send(
        self,
        session: ClientV1 | WorkerV1,
        on_frame: Callable[[Frame], None],
        finished: Callable[[], bool] | None,
    ) -> None:
        with self._sending:
            while self._end is None:
                self._output = trio.Event()
                self._act(session.take_events(), on_frame)
                message = session.next_message(MAX_LIMIT)
                if message is not None:
                    try:
                        await self.connection.send_message(message)
                    except WebSocketClosed:
                        return  # the receiver gives the reason
                elif finished is not None and finished():
                    self._finish(LinkEnd(1000, "", ours=True))
                elif not session.has_output:
                    until = session.deadline
                    if until is None:
                        await self._output.wait()
                    else:
                        with trio.CancelScope(deadline=until):
                            await self._output.wait()
