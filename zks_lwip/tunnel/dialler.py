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
from .attempts import Attempts, Failed, outage_interval
from .dial import connect_worker
from .options import TunnelConfig

__all__ = ["Dialler", "Opened"]

_LOOK_UP_EVERY = 4
"""Attempts at where the worker was, among which one looks its name up again."""
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
        hello: Callable[[], Hello | None] = lambda: None,
        on_answer: Callable[[], None] | None = None,
    ) -> WsConnection:
        """Open a WebSocket.

        :param session: that is to be resumed.
        :param address: where the worker is; None: its name is looked up.
        :param hello: as ``on_answer``, of :func:`~.dial.connect_worker`; and so is what is raised.
        """
        try:
            return await self._connect(session, address, hello, on_answer)
        except AuthError:
            if self._later is None:
                raise
            self.config, self._later = self._later, None
            return await self._connect(session, address, hello, on_answer)

    async def _connect(
        self,
        session: str | None,
        address: str | None,
        hello: Callable[[], Hello | None],
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
    ) -> Attempts[Opened]:
        """Return attempts to open a WebSocket.

        :param interval: as ``backoff``, ``failed`` and ``begin``, of :class:`Attempts`.
        :param session: that is to be resumed.
        :param hello: as of :func:`~.dial.connect_worker`. It is asked for one request at a time:
            of two that say HELLO the worker would take the later one, which need not be the one
            that is used here.
        :param address: where the worker was, and is tried at first: the session is there, and a
            name may not be looked up as long as there is no network.
        """
        refused = False
        says_hello: int | None = None  # the attempt whose request has said HELLO

        def note(error: ZksError, delay: float | None) -> None:
            nonlocal refused
            refused |= delay is not None
            failed(error, delay)

        async def attempt(number: int, answered: Callable[[], None]) -> Opened:
            nonlocal says_hello
            look_up = refused or number % _LOOK_UP_EVERY == _LOOK_UP_EVERY - 1
            said: Hello | None = None

            def say() -> Hello | None:
                nonlocal says_hello, said
                said = hello() if says_hello in (None, number) else None
                says_hello = says_hello if said is None else number
                return said

            try:
                connection = await self.connect(
                    session=session,
                    address=None if look_up else address,
                    hello=say,
                    on_answer=answered,
                )
            except BaseException:
                says_hello = None if says_hello == number else says_hello
                raise
            return Opened(connection, said)

        return Attempts(
            attempt,
            interval=interval,
            backoff=backoff,
            failed=note,
            discard=lambda opened: opened.connection.abort(),
            handshake=max(_HANDSHAKE, _HANDSHAKE_TRIPS * self.slowness),
            begin=begin,
        )

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
