"""Opens the WebSockets of a channel: the first one, and others when that is lost."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from ..carrier.websocket import WsConnection
from ..errors import AuthError, WorkerUnreachable, ZksError
from ..net.backoff import Backoff
from ..protocol import Hello, Settings
from .attempts import MAX_PENDING, Attempts, Failed, Overtaken, outage_interval
from .dial import connect_worker
from .options import TunnelConfig
from .tcp_path import ask_for_early_data

__all__ = ["Dialler", "Opened"]

_LOOK_UP_EVERY = 4
"""Attempts at where the worker was, among which one looks its name up again."""
_LATE_EVERY = 8
"""Attempts that send early, among which one does not: firewalls drop SYNs with data."""
_YOUNG, _YOUNG_TRIPS = 0.3, 1.2
"""Seconds, or round trips where that is more, for which an attempt that may have sent early is not
given up: the worker may have taken it."""
_YOUNG_ONES = MAX_PENDING * 3 // 4
"""Attempts that may be that young; the others are older, or stand beside one."""
_MISSES = 2
"""Times in a row that an attempt which sent nothing early was the first; no other does then."""
_FIRST, _FIRST_TRIPS = 0.5, 2
"""Seconds, and round trips on top, for which what follows an upgrade is waited for: a worker that
does not hold the session waits for the first frame."""
_TAKEN_OVER = 4001
_HANDSHAKE = 0.5
_HANDSHAKE_TRIPS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A WebSocket, and the HELLO that its request has said, if any."""

    connection: WsConnection
    hello: Hello | None = None


class Dialler:
    """Connects to one worker, again and again.

    :param config: how to get there.
    :param nursery: where the readers of WebSockets run.
    :param context: as of :func:`~.dial.connect_worker`.
    :param settings: what HELLO says, which bounds messages.
    :param slowness: the round trip to the worker as far as it is known, in seconds.
    :param on_connected: as of :func:`~.dial.connect_worker`.
    """

    def __init__(
        self,
        config: TunnelConfig,
        nursery: trio.Nursery,
        *,
        context: ssl.SSLContext | None = None,
        settings: Settings | None = None,
        slowness: float = 0.0,
        on_connected: Callable[[float], None] | None = None,
    ) -> None:
        self.config = config
        self.slowness = slowness
        self._nursery = nursery
        self._context = context
        self._settings = settings or Settings()
        self._on_connected = on_connected
        self._later: TunnelConfig | None = None  # once the token is refused
        self._early = config.fast_open and config.proxy is None
        self._missed = 0  # times that sending early was of no use

    def renew(self, config: TunnelConfig, context: ssl.SSLContext | None) -> None:
        """Take another token, and other certificates that are trusted.

        A session is its token's that opened it (PROTOCOL.md §6), so that one is shown until the
        worker refuses it.
        """
        self._later = config if config.token != self.config.token else None
        self._context = context

    async def connect(
        self,
        *,
        session: str | None = None,
        address: str | None = None,
        hello: Callable[[bool], Hello | None] = lambda unanswered: None,
        early: bool = False,
        on_answer: Callable[[], None] | None = None,
    ) -> WsConnection:
        """Open a WebSocket.

        :param session: that is to be resumed.
        :param address: where the worker is; None: its name is looked up.
        :param hello: as ``early`` and ``on_answer``, of :func:`~.dial.connect_worker`; and so is
            what is raised.
        """
        try:
            return await self._connect(session, address, hello, early, on_answer)
        except AuthError:
            if self._later is None:
                raise
            self.config, self._later = self._later, None
            return await self._connect(session, address, hello, early, on_answer)

    async def _connect(
        self,
        session: str | None,
        address: str | None,
        hello: Callable[[bool], Hello | None],
        early: bool,
        on_answer: Callable[[], None] | None,
    ) -> WsConnection:
        version = self.config.version
        return await connect_worker(
            self.config if address is None else replace(self.config, address=address),
            self._nursery,
            context=self._context,
            subprotocol=version.subprotocol,
            session=session,
            hello=hello,
            early=early,
            max_message=version.max_message(self._settings),
            slowness=self.slowness,
            on_answer=on_answer,
            on_connected=self._on_connected,
        )

    async def connect_after_outage(self, since: float) -> WsConnection:
        """Open a WebSocket to a worker that may not answer for a while yet, by many attempts.

        :param since: when the outage began (``trio.current_time``).
        :raises ZksError: as :func:`~.dial.connect_worker`; the first refusal, or silence for as
            long as an attempt may take.
        """
        silence: list[ZksError] = []
        limit = self.config.connect_timeout + self.config.upgrade_timeout
        with trio.move_on_after(limit):
            opened = await self.attempts(
                interval=lambda: outage_interval(trio.current_time() - since),
                backoff=None,
                failed=lambda error, delay: silence.append(error) if not silence else None,
            ).run()
            return opened.connection
        if silence:
            raise silence[0]
        raise WorkerUnreachable(
            f"worker {self.config.worker} does not answer (nothing within {limit:.3g} s): check "
            "its address, the network and firewalls on the way.",
            answered=False,
        )

    def attempts(
        self,
        *,
        interval: Callable[[], float],
        backoff: Backoff | None,
        failed: Failed,
        begin: float = -math.inf,
        session: str | None = None,
        hello: Callable[[], Hello | None] = lambda: None,
        address: str | None = None,
        detached: Callable[[], bool] = lambda: False,
    ) -> Attempts[Opened]:
        """Return attempts to open a WebSocket.

        :param interval: as ``backoff``, ``failed`` and ``begin``, of :class:`Attempts`.
        :param session: that is to be resumed.
        :param hello: as of :func:`~.dial.connect_worker`. It is asked for one request at a time:
            of two that say HELLO the worker would take the later one, which need not be the one
            that is used here.
        :param address: where the worker was, and is tried at first: the session is there, and a
            name may not be looked up as long as there is no network.
        :param detached: returns whether the session has let go of its WebSocket. Then requests may
            leave with their SYN, when it is not known yet which of them arrives first. All of them
            say the same HELLO, so that the worker takes the first and refuses the others; and so
            does one beside them that leaves later.
        """
        named = address is not None and self._address(None) is None
        refused = False
        says_hello: int | None = None  # the attempt whose request has said HELLO
        repeated: Hello | None = None  # what requests say that leave with their SYN

        def note(error: ZksError, delay: float | None) -> None:
            nonlocal refused
            refused |= delay is not None
            failed(error, delay)

        def may_leave_early() -> bool:
            return self._early and not refused and says_hello is None and detached()

        def until_next() -> float:
            number = attempts.made - 1
            looks_up = named and _is_last_of(number, _LOOK_UP_EVERY)
            leaves_late = may_leave_early() and _is_last_of(number, _LATE_EVERY)
            if not refused and (looks_up or leaves_late):
                return 0.0  # it stands beside the next one, and not in the place of one
            return max(interval(), young / _YOUNG_ONES)

        async def attempt(number: int, answered: Callable[[], None]) -> Opened:
            nonlocal says_hello, repeated
            look_up = refused or _is_last_of(number, _LOOK_UP_EVERY)
            known = self._address(None if look_up else address) is not None
            early = known and may_leave_early() and not _is_last_of(number, _LATE_EVERY)
            said: Hello | None = None
            said_early = False

            def say(unanswered: bool) -> Hello | None:
                nonlocal says_hello, said, repeated, said_early
                if unanswered:
                    said = repeated = repeated or hello()
                    said_early = said is not None
                elif repeated is not None:
                    said = repeated
                else:
                    said = hello() if says_hello in (None, number) else None
                    says_hello = says_hello if said is None else number
                return said

            try:
                connection = await self.connect(
                    session=session,
                    address=None if look_up else address,
                    hello=say,
                    early=early,
                    on_answer=answered,
                )
                if said is not None and said == repeated:
                    await self._check_taken(connection)
            except BaseException as error:
                says_hello = None if says_hello == number else says_hello
                if isinstance(error, Overtaken) and said == repeated:
                    repeated = None
                raise
            if said_early:
                self._missed = 0
            elif repeated is not None:  # a firewall on the way drops the others, it seems
                self._missed += 1
                self._early = self._early and self._missed < _MISSES
            return Opened(connection, said)

        young = max(_YOUNG, _YOUNG_TRIPS * self.slowness) if self._early else 0.0
        attempts = Attempts(
            attempt,
            interval=until_next,
            backoff=backoff,
            failed=note,
            discard=lambda opened: opened.connection.abort(),
            handshake=max(_HANDSHAKE, _HANDSHAKE_TRIPS * self.slowness),
            begin=begin,
            young=young,
        )
        return attempts

    async def _check_taken(self, connection: WsConnection) -> None:
        """Wait for the first that a worker says to a HELLO that others have said, too.

        :raises Overtaken: it has heard it from another.
        """
        try:
            with trio.move_on_after(_FIRST + _FIRST_TRIPS * self.slowness):
                await connection.read_ahead()
            if connection.closed_status == _TAKEN_OVER:
                raise Overtaken(f"worker {self.config.worker} has heard from a later attempt.")
        except BaseException:
            await connection.abort()
            raise

    async def prepare_early_data(self, address: str | None) -> None:
        """Have the system ask the worker's for what it takes to send early, where that is of use.

        :param address: as of :meth:`connect`.
        """
        known = self._address(address)
        if self._early and known is not None:
            await ask_for_early_data(self.config, known)

    def _address(self, address: str | None) -> str | None:
        """Return the one address where the worker is, as far as it is known without a look-up."""
        worker = self.config.worker
        return address or self.config.address or (worker.host if worker.address else None)

    def address_of(self, connection: WsConnection) -> str | None:
        """Return where the worker is, for further attempts; None where its name is not looked up
        here, or it cannot be known."""
        config = self.config
        named = config.proxy is None and config.address is None and config.worker.address is None
        if not named or connection.carrier is None:
            return None
        try:
            host = str(connection.carrier.getpeername()[0])
        except OSError:
            return None
        return None if "%" in host or host.lower().startswith("fe80:") else host


def _is_last_of(number: int, every: int) -> bool:
    """Return whether ``number`` is the last of as many as ``every``."""
    return number % every == every - 1
