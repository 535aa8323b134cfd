"""From a connection to its session: the request, the first message, and the WebSocket's end.

A WebSocket says with its first message which session it is for (PROTOCOL.md §6): one that is held
here and was opened by the same token, which then lets go of the WebSocket that it had, or a new
one. Until that has been read nothing has changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from ..carrier.http import HttpRequest, HttpResponse
from ..carrier.link import LinkEnd, SessionLink
from ..carrier.neighbours import Neighbours
from ..carrier.sessions import worker_session
from ..carrier.tcp_info import round_trip, stretched
from ..carrier.upgrade import Accept, GiveAway, GivenAway, accept_websocket
from ..carrier.versions import V1, V2
from ..carrier.websocket import WebSocketClosed, WsConnection
from ..errors import ProtocolError
from ..protocol import HELLO_TIMEOUT, Code, Hello, Settings, WorkerSession, first_hello
from .access_log import AccessLog, timestamp
from .admission import Admission, Admitted
from .client import Client, Shared
from .handover import Handover
from .limits import Account
from .options import WorkerConfig
from .sessions import HeldSession, Sessions
from .targets import TargetLog

__all__ = ["GOING_AWAY", "POLICY_VIOLATION", "TOKEN_EXPIRED", "TOKEN_REMOVED", "Connections"]

_log = logging.getLogger(__name__)

GOING_AWAY = "the worker is shutting down"
TOKEN_REMOVED = "the token was removed"
TOKEN_EXPIRED = "the token has expired"
POLICY_VIOLATION = 1008
_CUT_SHORT = 1001
_TRY_AGAIN_LATER = 1013
_TAKEN_OVER = 4001
_CANCELLED = LinkEnd(_CUT_SHORT, "cut short")


class Connections:
    """Serves each connection.

    :param shared: what all clients of the worker share.
    :param settings: returns what HELLO says to a token's clients.
    :param max_handshakes: connections that may not have shown a token yet.
    :param log: the access log; None: there is none.
    :param handover: what is known of other processes of this worker; None: there are none.
    """

    def __init__(
        self,
        shared: Shared,
        config: WorkerConfig,
        admission: Admission,
        sessions: Sessions,
        settings: Callable[[Account], Settings],
        max_handshakes: int,
        log: AccessLog | None = None,
        handover: Handover | None = None,
    ) -> None:
        self._handover = handover
        self._log = log
        self._shared = shared
        self._config = config
        self._admission = admission
        self._sessions = sessions
        self._settings = settings
        self._max_handshakes = max_handshakes
        self._neighbours = Neighbours(
            lambda: (
                (held.whose, held.link.connection)
                for held in sessions.attached
                if held.link is not None
            )
        )
        self._open: set[WsConnection] = set()
        #: Sessions that were opened, and how often one was resumed.
        self.opened = self.resumed = 0
        #: Connections whose bytes are passed on to another process, or that are on their way there.
        self.relayed = 0
        #: Connections that have not shown a token yet, the oldest first.
        self.handshakes: dict[trio.CancelScope, None] = {}

    async def serve(
        self,
        stream: trio.abc.Stream,
        tasks: trio.Nursery,
        request: HttpRequest | None = None,
        *,
        ours: bool = False,
    ) -> None:
        """Serve one connection until its end.

        :param tasks: where what a session has begun goes on when its WebSocket is lost.
        :param request: what has been read from it already.
        :param ours: another process has given it, or would not take it: it is served here.
        """
        try:
            found = await self._shake_hands(stream, request, ours=ours)
            if isinstance(found, GivenAway):
                await self._give_away(found, tasks)
            elif found is not None:
                connection, admitted = found
                self._open.add(connection)
                try:
                    await self._serve_websocket(connection, admitted, tasks)
                finally:
                    self._open.discard(connection)
                    self._admission.release(admitted)
        except* Exception:  # a bug costs this connection, not the others
            _log.exception("internal error in the service of a connection")

    async def _shake_hands(
        self, stream: trio.abc.Stream, request: HttpRequest | None, *, ours: bool
    ) -> tuple[WsConnection, Admitted] | GivenAway | None:
        """Return the WebSocket that a connection has become, and how it was admitted; or a
        connection that another process is to have; None: it is closed."""
        if len(self.handshakes) >= self._max_handshakes:
            oldest = next(iter(self.handshakes))  # an honest client does not take long
            del self.handshakes[oldest]
            oldest.cancel()
        admitted: list[Admitted] = []

        def authorize(request: HttpRequest) -> Accept | GiveAway | HttpResponse:
            if self._handover is not None and not ours:
                owner = self._admission.owner(request, self._handover)
                if owner != self._handover.index:
                    return GiveAway(owner)
            found = self._admission.admit(request)
            if isinstance(found, HttpResponse):
                return found
            admitted.append(found)
            return Accept(found.version.subprotocol)

        connection: WsConnection | GivenAway | None = None
        with trio.CancelScope() as scope:
            self.handshakes[scope] = None
            try:
                connection = await accept_websocket(
                    None, stream, authorize=authorize, request=request
                )
            finally:
                self.handshakes.pop(scope, None)
                if not isinstance(connection, WsConnection):
                    for each in admitted:
                        self._admission.release(each)
        return (connection, admitted[0]) if isinstance(connection, WsConnection) else connection

    def drop_all(self) -> None:
        """Wait for no client any more, whatever it owes: its Close, or to read ours."""
        for connection in self._open:
            connection.drop()

    async def serve_given(
        self, stream: trio.abc.Stream, request: HttpRequest, *, tasks: trio.Nursery
    ) -> None:
        """Serve a connection that another process has given, with its request."""
        await self.serve(stream, tasks, request, ours=True)

    async def _give_away(self, connection: GivenAway, tasks: trio.Nursery) -> None:
        """Have another process serve a connection. Where that takes none it is served here, and its
        session is gone; but not one whose token has limits of its own, which would hold twice."""
        assert self._handover is not None
        stream, request = connection.stream, connection.request
        refused = self._admission.begin_passing(request)
        if refused is None:
            self.relayed += 1
            try:
                given = await self._handover.give(connection.owner, stream, request)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            finally:
                self.relayed -= 1
                self._admission.end_passing()
            if given:
                await trio.aclose_forcefully(stream)
                return
            refused = self._admission.not_taken(request)
        if refused is None:
            await self.serve(stream, tasks, request, ours=True)
        else:
            answer = refused
            await accept_websocket(tasks, stream, authorize=lambda _: answer, request=request)

    async def _serve_websocket(
        self, connection: WsConnection, admitted: Admitted, tasks: trio.Nursery
    ) -> None:
        assert connection.request is not None
        peer = self._admission.front_ends.client_of(connection.request)
        connection.request = None  # its headers are not needed any more
        begun = await self._begin(connection, admitted, tasks)
        if begun is None:
            return
        held, link = begun
        # There is no pause before the WebSocket is noted as the session's, so that two that come at
        # once take it one after the other
        self._take_over(held, link, peer)
        begin = time.time()
        end = _CANCELLED
        try:
            end = await link.run(
                held.client.on_event,
                quiet=self._config.quiet,
                patience=self._config.patience,
                longest=self._config.longest,
                others=partial(self._neighbours.of, held.whose),
            )
        except Exception:  # a bug costs this session, not the others
            _log.exception("internal error in a session of %s", held.principal.name)
        finally:
            if self._log is not None:
                self._log.entry(
                    "session",
                    token=held.principal.name,
                    client=peer,
                    id="-" if held.key is None else held.key[:6].hex(),
                    begin=timestamp(begin),
                    seconds=max(0.0, time.time() - begin),
                    up=connection.bytes_received,
                    down=connection.bytes_sent,
                    reason=f"{end.status} {end.reason}".rstrip(),
                )
            if held.link is link:
                self._let_go(held, end)

    async def _begin(
        self, connection: WsConnection, admitted: Admitted, tasks: trio.Nursery
    ) -> tuple[HeldSession, SessionLink[WorkerSession]] | None:
        """Return the session that a WebSocket is for, by its first message, and what is to carry
        it; None: the WebSocket is closed."""
        message: bytes | None = None
        early = admitted.hello
        if early is not None and not self._sessions.holds(early.session or "", admitted.principal):
            early = None  # it has ended since
        if early is not None:
            message = early.encode()
        elif not admitted.version.one_stream:
            message = await self._first_message(connection, admitted)
            if message is None:
                return None
        if not self._admission.still_admits(admitted):
            await connection.aclose(POLICY_VIOLATION, TOKEN_REMOVED)
            return None
        held: HeldSession
        if admitted.version.one_stream:
            held = self._new_session(admitted, tasks)
        else:
            assert message is not None
            hello = first_hello(message)
            if self._is_late(hello, admitted):
                await connection.aclose(_TAKEN_OVER, "a later attempt has the session")
                return None
            found = self._session_for(hello, admitted, tasks)
            if found is None:
                await connection.aclose(_TRY_AGAIN_LATER, "too many sessions for this token")
                return None
            held = found
            held.attempt = hello.attempt
            if early is not None:
                held.session.announced(early)
        paced = held.session.flow_controlled
        return held, SessionLink(connection, held.session, paced=paced, first=message)

    async def _first_message(self, connection: WsConnection, admitted: Admitted) -> bytes | None:
        """Return a client's HELLO; None: none came, and the connection is closed.

        Of those that ask for a session that is held, and so were not refused, the oldest gives way
        when there are as many as there may be sessions.
        """
        resuming = admitted.account.resuming
        if admitted.resumes:
            if len(resuming) >= admitted.account.limits.sessions:
                resuming.popitem(last=False)[0].drop()
            resuming[connection] = None
        timeout = stretched(HELLO_TIMEOUT, 2, round_trip(connection.carrier))
        broken: ProtocolError | None = None
        try:
            with trio.fail_after(timeout):
                message = await connection.receive_message()
            first_hello(message)
            return message
        except trio.TooSlowError:
            broken = ProtocolError(f"no HELLO within {timeout:.3g} s")
        except ProtocolError as error:
            broken = error
        except WebSocketClosed as error:
            _log.debug("a client went away before its HELLO: %s", error)
        except trio.Cancelled:
            await connection.abort()
            raise
        finally:
            resuming.pop(connection, None)
        if broken is None:
            await connection.aclose()
        else:
            name = admitted.principal.name
            _log.warning("a connection of %s ended: %d %s", name, broken.status, broken)
            await connection.aclose(broken.status, str(broken))
        return None

    def _is_late(self, hello: Hello, admitted: Admitted) -> bool:
        """Return whether a HELLO came behind one that its client said later, over another path."""
        held = self._sessions.find(hello.session, admitted.principal)
        return held is not None and 0 < hello.attempt <= held.attempt

    def _session_for(
        self, hello: Hello, admitted: Admitted, tasks: trio.Nursery
    ) -> HeldSession | None:
        """Return the session that a WebSocket is for; None: there is no room for a new one."""
        self._admission.arrived(admitted)
        held = self._sessions.find(hello.session, admitted.principal)
        if held is not None:
            if held.link is not None:
                held.link.take_away(_TAKEN_OVER, "another connection has taken the session over")
            if not held.session.attached:  # or it is ending, for another reason
                return held
        account = admitted.account
        if account.attached + account.detached >= account.limits.sessions:
            if not self._sessions.give_way(account):
                return None
        return self._new_session(admitted, tasks)

    def _new_session(self, admitted: Admitted, tasks: trio.Nursery) -> HeldSession:
        account = admitted.account
        one_stream = admitted.version.one_stream
        id = None if one_stream else self._sessions.new_id()
        settings = replace(self._settings(account), session=id)
        session = worker_session(admitted.version, settings, account.budget, account.kept)
        name = admitted.principal.name
        targets = None
        if self._log is not None and self._config.log_targets:
            targets = TargetLog(self._log, name, lambda: held.peer)
        client = Client(self._shared, session, account, tasks, targets)
        held = HeldSession(session, client, admitted.principal, account, one_stream=one_stream)
        return held

    def _take_over(self, held: HeldSession, link: SessionLink[WorkerSession], peer: str) -> None:
        """Have ``link`` carry a session from now on, be it new, detached or on another one."""
        name = held.principal.name
        held.peer = peer
        if held not in self._sessions:
            self._sessions.add(held, link)
            self.opened += 1
            version = V1.name if held.one_stream else V2.subprotocol
            _log.info("a session of %s from %s began (%s)", name, peer, version)
        else:
            self.resumed += 1
            if held.link is not None:
                _log.info("a session of %s goes on from %s", name, peer)
            else:
                away = trio.current_time() - held.detached_at
                _log.info("a session of %s goes on from %s, after %.1f s", name, peer, away)
            self._sessions.attach(held, link)
        if self._admission.closed:
            held.session.goaway(Code.GOING_AWAY, GOING_AWAY)

    def _let_go(self, held: HeldSession, end: LinkEnd) -> None:
        """Keep a session for a while if its WebSocket was lost; otherwise it has ended."""
        session = held.session
        why = f"{end.status} {end.reason}"
        if end.resumable and session.resumable and not self._admission.closed:
            seconds = session.resume_seconds
            _log.info(
                "a session of %s lost its connection, and is held for %d s: %s",
                held.principal.name,
                seconds,
                why,
            )
            self._sessions.detach(held, seconds)
        else:
            level = logging.WARNING if end.error is not None else logging.INFO
            self._sessions.end(held, why, level=level)
