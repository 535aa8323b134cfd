"""One session over one WebSocket after another (PROTOCOL.md §6 and §8)."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import trio

from .._util import single_error
from ..carrier.link import LinkEnd, SessionLink
from ..carrier.liveness import ALONE, Others
from ..carrier.suspicion import Question, Suspicion, Uncounted
from ..carrier.tcp_info import Progress, progress, round_trip
from ..carrier.websocket import ABNORMAL, WsConnection
from ..errors import WorkerUnreachable, ZksError
from ..net.backoff import Backoff
from ..protocol import ClientSession, Event, Hello
from .attempts import AttemptsTask, Failed, outage_interval
from .dialler import Dialler, Opened
from .options import TunnelConfig

__all__ = ["SessionRunner"]

_BESIDE = 0.5
"""Seconds until the second attempt beside a WebSocket that is silent (PROTOCOL.md §8)."""
_SURE, _SURE_TRIPS = 1.0, 4
"""Seconds, and round trips on top, for which attempts beside a WebSocket that is silent have had no
answer, so that it is given up for requests that leave with their SYN."""
_POLL = 0.05
"""Seconds between two looks at whether it has come back."""
_QUIET_LOOK = 0.25
"""Seconds between two looks at a session that only sends, and is not acknowledged."""
_SHORT = 0.5
"""Seconds within which a WebSocket that is lost was no good: the next waits a while."""
_FIRST_WAIT = 0.05
_GONE = 3
"""Refusals in a row after which a worker may count as gone."""


class SessionRunner:
    """Runs a client's session, and opens another WebSocket for it when one is lost, or may be.

    :param connection: the first WebSocket.
    :param dialler: opens the others.
    :param on_lost: called with why, in a clause, when a WebSocket was lost and another is wanted.
    :param on_failed: told of attempts at that which failed.
    :param on_silent: called with True when a WebSocket is silent, so that another is opened beside
        it, and with False when something has come by it meanwhile.
    """

    def __init__(
        self,
        session: ClientSession,
        connection: WsConnection,
        dialler: Dialler,
        *,
        on_lost: Callable[[str], None],
        on_failed: Failed,
        on_silent: Callable[[bool], None],
    ) -> None:
        self.session = session
        self.connection = connection
        self.link = SessionLink(connection, session, paced=session.flow_controlled)
        #: Since when it has no WebSocket (``trio.current_time``); None while it has one.
        self.lost_since: float | None = None
        #: Attempts at another WebSocket, since the last that was good, that HTTP has refused.
        self.refusals = 0
        self._dialler = dialler
        self._address = dialler.address_of(connection)
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._on_silent = on_silent
        self._used_since = trio.current_time()
        self._others: Callable[[], Others] = lambda: ALONE
        self._backoff = Backoff(*dialler.config.backoff)
        self._short = Backoff(_FIRST_WAIT, dialler.config.backoff[1])
        self._dial: AttemptsTask[Opened] | None = None  # for the next WebSocket
        self._dials: trio.Nursery | None = None  # where that is made
        self._dialling = trio.CancelScope()
        self._closed: LinkEnd | None = None
        self._refused: list[float] = []  # when TCP was, since anything else has happened
        self._gone = False
        self._tasks: trio.Nursery | None = None  # of the link that runs
        self._watched = False  # it is watched for silence
        self._received = self._sent = 0  # by WebSockets that are over

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire, of all its WebSockets."""
        return self._received + self.connection.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire, of all its WebSockets."""
        return self._sent + self.connection.bytes_sent

    # what it is told

    def confirmed(self) -> None:
        """The worker's HELLO has come by the WebSocket in use: the session goes on, or is new."""
        self.lost_since = None
        self.refusals = 0
        self._backoff.succeeded()
        self._refused.clear()
        peer = self.session.peer
        if self._tasks is not None:
            if peer is not None and peer.keepalive:
                self._tasks.start_soon(self._keep_awake, peer.keepalive)
            if self.session.resumable and not self._watched:
                self._watched = True
                self._tasks.start_soon(self._suspect)

    def close(self, status: int = 1000, reason: str = "") -> None:
        """End the session; :meth:`run` then returns."""
        self._closed = LinkEnd(status, reason, ours=True)
        self._dialling.cancel()
        self.link.close(status, reason)

    def reconnect(self, why: str) -> bool:
        """Give up the WebSocket, and resume the session over another at once.

        :returns: False: it cannot be resumed, and ends.
        """
        if not self.session.resumable:
            self.link.close(ABNORMAL, why)
            return False
        self.link.take_away(reason=why)
        self.retry()
        return True

    def renew(self, config: TunnelConfig, context: ssl.SSLContext | None) -> None:
        """Open further WebSockets as :meth:`Dialler.renew` says."""
        self._dialler.renew(config, context)

    def retry(self) -> None:
        """If the session has no WebSocket, try now, not when the next attempt is due."""
        self._short.succeeded()
        if self._dial is not None:
            self._dial.attempts.retry()

    # running

    async def run(
        self,
        on_event: Callable[[Event], None],
        config: TunnelConfig,
        others: Callable[[], Others] | None = None,
    ) -> LinkEnd:
        """Carry the session until it ends, or cannot be resumed in time.

        :param on_event: as ``others``, of :meth:`SessionLink.run`.
        :param config: has the times.
        """
        if others is not None:
            self._others = others
        try:
            with single_error():
                async with trio.open_nursery() as self._dials:
                    self._dials.start_soon(self._dialler.prepare_early_data, self._address)
                    end = await self._run(on_event, config)
                    self._dials.cancel_scope.cancel()
                    return end
            raise AssertionError("unreachable")
        finally:
            self.session.end()
            await self._give_up_dial()

    async def _run(self, on_event: Callable[[Event], None], config: TunnelConfig) -> LinkEnd:
        while True:
            end = await self._run_link(on_event, config)
            if self._closed is not None:
                return self._closed
            if not end.resumable or not self.session.resumable:
                return end
            given_up = await self._resume(end.reason)
            if given_up is not None:
                return given_up

    async def _run_link(self, on_event: Callable[[Event], None], config: TunnelConfig) -> LinkEnd:
        with single_error():
            async with trio.open_nursery() as self._tasks:
                self._watched = self.lost_since is not None
                if self._watched:
                    self._tasks.start_soon(self._suspect)
                try:
                    return await self.link.run(
                        on_event,
                        hello_timeout=config.hello_timeout,
                        quiet=config.quiet,
                        patience=config.patience,
                        longest=config.longest,
                        others=self._others,
                    )
                finally:
                    self._tasks.cancel_scope.cancel()

    async def _resume(self, why: str) -> LinkEnd | None:
        """Open another WebSocket for the session, which has lost its own.

        :returns: None: there is a link for it. Else why not.
        """
        now = trio.current_time()
        if self.lost_since is None:
            self.lost_since = now
            self._on_lost(why)
        delay = 0.0
        if now - self._used_since < _SHORT:
            delay = self._short.failed()
        else:
            self._short.succeeded()
        if now >= self.lost_since + self.session.resume_seconds:
            await self._give_up_dial()  # its worker upgrades, but says no HELLO
        opened = await self._open_next(self.lost_since, now + delay)
        if opened is not None:
            self._received += self.connection.bytes_received
            self._sent += self.connection.bytes_sent
            self.connection = opened.connection
            self._used_since = trio.current_time()
            self._address = self._dialler.address_of(opened.connection)
            if opened.hello is not None:
                self.session.announced(opened.hello)
            self.link = SessionLink(opened.connection, self.session)
            return None
        if self._closed is not None:
            return self._closed
        if self._gone:
            return LinkEnd(ABNORMAL, f"{why}, and nothing listens there any more")
        seconds = self.session.resume_seconds
        return LinkEnd(ABNORMAL, f"{why}, and the session was not resumed within {seconds} s")

    async def _open_next(self, since: float, begin: float) -> Opened | None:
        """Open a WebSocket, by attempts that are under way or others; None: not in time, or
        :meth:`close` was called.

        :param since: when the session lost its own.
        :param begin: when to try first.
        """
        if self._closed is not None:  # by on_lost()
            return None
        self._gone = False
        with trio.CancelScope(deadline=since + self.session.resume_seconds) as self._dialling:
            if self._dial is None:
                self._begin_dial(lambda: outage_interval(trio.current_time() - since), begin)
            assert self._dial is not None
            await self._dial.done.wait()
            opened, self._dial = self._dial.opened, None
            return opened
        await self._give_up_dial()
        return None

    def _begin_dial(
        self, interval: Callable[[], float], begin: float = -math.inf
    ) -> AttemptsTask[Opened]:
        """Begin attempts at another WebSocket. They go on when the link that runs has ended."""
        assert self._dials is not None
        self._dialler.slowness = max(self.session.round_trip, self._others().round_trip)
        self._dial = AttemptsTask(
            self._dialler.attempts(
                interval=interval,
                backoff=self._backoff,
                failed=self._note_failure,
                begin=begin,
                session=self.session.id,
                hello=self._say_hello,
                address=self._address,
                detached=lambda: not self.session.attached,
            )
        )
        self._dials.start_soon(self._dial.run)
        return self._dial

    async def _give_up_dial(self) -> None:
        dial, self._dial = self._dial, None
        if dial is not None:
            await dial.give_up()

    def _say_hello(self) -> Hello | None:
        """Return the HELLO that an upgrade request may say, since TCP is there; None: none.

        From then on nothing more may be taken from the WebSocket that is silent. Where its worker,
        or a front end, is just slow, it may be heard again sooner than another is opened. But when
        the network was gone for both, and this is what is first heard of it, the kernel at its
        other end does not try again for a while.
        """
        if self.session.attached:
            if self._dial is None or not self._dial.attempts.outage:
                return None
            self._take_away_silent()
        return self.session.resumption()

    def _note_failure(self, error: ZksError, delay: float | None) -> None:
        """Take note of a failed attempt: what a process held is gone with it."""
        self.refusals += getattr(error, "status", None) is not None and delay is not None
        if isinstance(error, WorkerUnreachable) and error.port_closed:
            now = trio.current_time()
            self._refused.append(now)
            patience = self._dialler.config.gone
            if len(self._refused) >= _GONE and now - self._refused[0] >= patience:
                self._gone = True
                self._dialling.cancel()
        else:
            self._refused.clear()
        self._on_failed(error, delay)

    async def _keep_awake(self, seconds: float) -> None:
        """Have a worker that sleeps when it hears nothing stay awake while streams are open."""
        while True:
            await trio.sleep(seconds)
            if self.session.open_streams:
                self.session.ping()

    # a path that may have died in silence

    async def _suspect(self) -> None:
        """Open another WebSocket beside one that is silent, and go on over that."""
        suspicion = Suspicion(self._dialler.config.suspicious)
        connection = self.connection
        asked: float | None = None  # since when nothing is heard, and a PING was sent
        while True:
            if asked is not None and connection.last_heard >= asked:
                asked = None
            # Until HELLO has come, that is waited for
            unanswered = (
                self._used_since
                if self.lost_since is not None
                else self.session.unacknowledged_since or asked
            )
            if unanswered is None:
                if self.link.writer.last_sent <= connection.last_heard:
                    await self.link.writer.wait_sending()
                if self.session.unacknowledged_since is None:
                    asked = await self._ask_if_silent(connection)
                continue
            if not suspicion.step(
                trio.current_time(),
                unanswered,
                connection.last_heard,
                None if (now := _progress(connection)) is None else now.acknowledged,
                self._longest_trip(connection),
            ):
                await trio.sleep_until(suspicion.due)
            elif await self._open_beside(connection):
                return

    async def _ask_if_silent(self, connection: WsConnection) -> float | None:
        """Say PING when nothing is heard after what is not acknowledged: queries and datagrams.

        :returns: since when it is silent; None: there is no reason, or counted frames show the
            same.
        """
        unanswered = Uncounted(self._dialler.config.suspicious, self.link.writer.last_sent)
        while True:
            await trio.sleep(_QUIET_LOOK)
            if self.session.unacknowledged_since is not None:
                return None
            question = unanswered.step(
                trio.current_time(),
                connection.last_heard,
                self.link.writer.last_sent,
                self._longest_trip(connection),
            )
            if question is Question.NONE:
                return None
            if question is Question.PING:
                self.session.ping()
                return unanswered.since

    def _longest_trip(self, connection: WsConnection) -> float:
        known = max(round_trip(connection.carrier), self._others().round_trip)
        return max(known, self.session.round_trip)

    async def _open_beside(self, silent: WsConnection) -> bool:
        """Open a WebSocket, and take it instead of ``silent``; False: that has been heard again."""
        heard, before = silent.last_heard, _progress(silent)

        def interval() -> float:
            # Where others are not answered either, it is an outage like any other.
            made = dial.attempts.made
            return outage_interval(trio.current_time() - heard) if made > 1 else _BESIDE

        def arrives() -> bool:
            now = _progress(silent)
            if now is None or before is None or before.acknowledged >= before.written:
                return True
            return now.acknowledged > before.acknowledged

        async def watch() -> None:
            # Both ways: when a path is back, the one may wait for seconds for a retransmission of
            # the other end's kernel, while the other is open.
            while silent.last_heard == heard or not arrives():
                await trio.sleep(_POLL)
                if self._dialler.config.fast_open and trio.current_time() >= sure:
                    if dial.attempts.unanswered and silent.last_heard == heard:
                        self._take_away_silent()
                        return
            nursery.cancel_scope.cancel()

        dial = self._begin_dial(interval)
        sure = trio.current_time() + _SURE + _SURE_TRIPS * self._dialler.slowness
        self._on_silent(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await dial.done.wait()
            nursery.cancel_scope.cancel()
        if dial.opened is None:
            await self._give_up_dial()
            self._on_silent(False)
            return False
        self._take_away_silent()
        return True

    def _take_away_silent(self) -> None:
        silence = trio.current_time() - self.connection.last_heard
        self.link.take_away(reason=f"nothing was heard from it for {silence:.3g} s")


def _progress(connection: WsConnection) -> Progress | None:
    return progress(connection.carrier, connection.bytes_sent)
