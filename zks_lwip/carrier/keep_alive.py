"""Pings on a WebSocket that is quiet, and whether its peer is dead (:mod:`.liveness`)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import trio

from .liveness import ALONE, MAX_PATIENCE, Liveness, Others, Verdict
from .tcp_info import progress
from .websocket import WebSocketClosed, WsConnection

__all__ = ["KeepAlive", "Outcome"]

_log = logging.getLogger(__name__)

_LINGER = 1.0
"""Seconds without a byte after which nothing is kept that only reading needs."""
_STAY = 10.0
"""Seconds for which a connection that was quiet stays ready for more, once something has come: to
become quiet, and ready again, costs as much as a dozen messages."""
_LOOK = 0.25
"""Seconds between two looks whether a silent connection's other tasks have ended."""


class Outcome(Enum):
    """Why :meth:`KeepAlive.outlive` has returned."""

    ENDED = auto()
    """The work has."""
    DEAD = auto()
    """The peer is dead."""
    QUIET = auto()
    """Nothing was heard for a while, and no other task of the connection runs: until
    :attr:`KeepAlive.due` there is nothing to do but to wait for what comes."""


class KeepAlive:
    """Pings whenever nothing was heard for ``quiet`` seconds, and sees whether the peer is dead.

    It is dead if for ``patience`` seconds more nothing is heard, and its TCP acknowledges nothing
    of what stands before the ping; after ``longest`` in any case (PROTOCOL.md §8).

    :param others: returns what other connections to the peer know.
    """

    __slots__ = ("_connection", "_liveness", "_others", "_pinging", "_proven", "_was_quiet")

    def __init__(
        self,
        connection: WsConnection,
        quiet: float = 15.0,
        patience: float = 10.0,
        *,
        longest: float = MAX_PATIENCE,
        others: Callable[[], Others] | None = None,
    ) -> None:
        self._connection = connection
        self._liveness = Liveness(quiet, patience, longest)
        self._others = others
        self._pinging = False
        self._was_quiet = False  # before outlive() was called last
        self._proven = 0  # bytes of messages that the peer has read: it answered a ping behind

    @property
    def all_was_read(self) -> bool:
        """The peer has read every message: it answered a ping that went behind them."""
        return self._proven == self._connection.message_bytes_sent

    @property
    def due(self) -> float:
        """When :meth:`outlive` has to look at the peer again (``trio.current_time``)."""
        return self._liveness.due

    async def outlive(self, work: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> Outcome:
        """Run ``work``, which reads, and cancel it and run it anew whenever the peer is looked at.
        (A task of its own would take kilobytes.) While the peer is silent it is not run, but once
        at first.

        :param nursery: where pings wait for their pongs; of the connection's other tasks, too.
        """
        connection, liveness = self._connection, self._liveness
        first = True
        while True:
            silent = not first and trio.current_time() - connection.last_heard >= _LINGER
            now = progress(connection.carrier, connection.bytes_sent)
            verdict = liveness.step(
                trio.current_time(),
                connection.last_heard,
                None if now is None else now.acknowledged,
                self._others() if self._others is not None and liveness.waiting else ALONE,
            )
            if verdict is Verdict.DEAD:
                return Outcome.DEAD
            if verdict is Verdict.PING and not self._pinging:
                self._pinging = True
                liveness.pinged(None)  # until the kernel has it
                nursery.start_soon(self._ping)
            until = trio.current_time() + (_STAY if self._was_quiet else _LINGER + _LOOK)
            if silent and not liveness.waiting and connection.may_rest:
                if not nursery.child_tasks:
                    self._was_quiet = True
                    return Outcome.QUIET
                until = trio.current_time() + _LOOK
            elif silent:
                until = liveness.due
            elif not first:
                until = connection.last_heard + _LINGER
            first = False
            with trio.CancelScope(deadline=min(until, liveness.due)):
                if silent:
                    await connection.rest()
                await work()
                return Outcome.ENDED

    async def _ping(self) -> None:
        connection = self._connection
        sent = connection.message_bytes_sent

        def on_sent() -> None:
            now = None
            if not connection.proxied:
                now = progress(connection.carrier, connection.bytes_sent)
            self._liveness.pinged(None if now is None else now.written)

        try:
            await connection.ping(on_sent)
            self._proven = sent
        except WebSocketClosed as error:
            _log.debug("ping: %s", error)
        finally:
            self._pinging = False
