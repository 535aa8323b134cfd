"""The worker: listens for WebSockets, decides who may come in, and ends in order.

Everything of one client is in :mod:`.client`; here is what clients share, and the door.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from ..errors import ConfigError
from ..memory import give_back
from ..tunnel.channel import Accept, HttpRequest, HttpResponse, WsConnection, accept_websocket
from ..tunnel.frames import Code, Frame
from ..tunnel.link import LAST_MESSAGE, LinkEnd, SessionLink
from ..tunnel.link_v1 import LinkV1
from ..tunnel.liveness import LONGEST
from ..tunnel.neighbours import Neighbours
from ..tunnel.session import Role, Session, Settings
from ..tunnel.session_v1 import WorkerV1
from ..tunnel.websocket import CLOSE_TIMEOUT
from .auth import ANYONE, Principal, TokenFile
from .client import Client
from .dial import Dialer
from .dnsclient import DnsClient
from .icmp import Pinger
from .limits import Account, Descriptors, Limits
from .listen import has_ipv6, load_certificate, open_listener, share_descriptors, tls_context
from .nameservers import HostsFile, NameServer, SystemNameServers
from .own_addresses import OwnAddresses
from .policy import IPNetwork, Policy
from .readiness import make_readiness
from .resolver import Resolver
from .sockets import check_mark
from .tcp import TcpStream

__all__ = ["SUBPROTOCOL", "Worker", "WorkerConfig", "shutdown_stages"]

log = logging.getLogger(__name__)

SUBPROTOCOL = "zks-tunnel.v2"

_MOST_HANDSHAKES = 512  # over it the oldest gives way
# Seconds in which a far end has to take some of what its client had sent before it left: about as
# long as a kernel tries to deliver what a closed socket has left.
_LINGER = 300.0
_SWEEP = 1.0
_GOING_AWAY = 1001
_POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a worker is told. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 8787
    """0: any free one."""
    token_file: Path | str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow: tuple[IPNetwork, ...] = ()
    """Networks that may be reached although they are not public, or are this machine."""
    allow_own: bool = False
    """Whether this machine's own public addresses may be reached: where its clients are its users
    anyhow."""
    resolvers: tuple[NameServer, ...] = ()
    """Name servers; none: the system's."""
    origins: tuple[str, ...] = ()
    """Web origins whose pages may connect."""
    mark: int | None = None
    """SO_MARK of every outgoing socket."""
    limits: Limits = field(default_factory=Limits)
    window: int = 1 << 18
    """Bytes of credit that every stream starts with; it grows where that is too little."""
    idle_udp: int = 300
    """Until an association without datagrams ends; RFC 4787 REQ-5 wants 120 at least."""
    drain: float = 10.0
    """How long the end may take after SIGTERM; streams go on for most of it."""
    quiet: float = 15.0
    patience: float = 10.0
    longest: float = LONGEST
    """The liveness times of PROTOCOL.md §8."""


def shutdown_stages(drain: float) -> tuple[float, float]:
    """How a worker that was told to stop uses ``drain`` seconds; more it does not take.

    First its streams go on. Then every session is closed: it sends the message it is at, and Close,
    and waits for the client's. What is left after that is cut off.
    """
    closing = min(LAST_MESSAGE + CLOSE_TIMEOUT, drain / 2)
    return drain - closing, closing


class _Served:
    """A session that is being served."""

    __slots__ = ("client", "link", "principal", "session", "whose")

    def __init__(
        self,
        link: SessionLink | LinkV1,
        session: Session | WorkerV1,
        client: Client,
        principal: Principal,
        peer: str,
    ) -> None:
        #: Connections of the same token and address share a path, as far as can be known.
        self.whose = (principal.digest, peer)
        self.link = link
        self.session = session
        self.client = client
        self.principal = principal


class Worker:
    """Serves until :meth:`stop`.

    Raises ConfigError or PrivilegeError for what it cannot be run with: no token beyond loopback,
    files that cannot be read, a mark that the system refuses.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.mark = config.mark
        self._loopback = config.host.startswith("127.") or config.host == "::1"
        self._tokens = TokenFile(config.token_file) if config.token_file is not None else None
        if self._tokens is None and not self._loopback:
            raise ConfigError(
                f"refusing to listen on {config.host} without a token: everybody who reaches it"
                " could use this machine's network; give --token-file, or listen on 127.0.0.1"
            )
        self._tls: ssl.SSLContext | None = None
        if config.tls_cert is not None:
            self._tls = tls_context(config.tls_cert, config.tls_key)
        elif config.tls_key is not None:
            raise ConfigError("--tls-key is of no use without --tls-cert")
        elif not self._loopback:
            log.warning(
                "listening on %s without TLS: tokens and traffic are in the clear unless"
                " something in front of this worker adds it",
                config.host,
            )
        check_mark(config.mark)
        self._own = OwnAddresses(config.mark)
        self.policy = Policy(config.allow, None if config.allow_own else self._own)
        servers = config.resolvers
        beside_vpn = config.mark is not None
        self.dns = DnsClient(
            (lambda: servers)
            if servers
            else SystemNameServers(follow=not beside_vpn, loopback=not beside_vpn),
            mark=config.mark,
        )
        streams, strangers = share_descriptors()
        self.descriptors = Descriptors(streams)
        self._most_handshakes = min(_MOST_HANDSHAKES, strangers)
        self.readiness = make_readiness()
        self._ipv6 = has_ipv6(config.mark)
        self._resolver = Resolver(self.dns, HostsFile(), ipv6=self._ipv6)
        self.dialer = Dialer(self.policy, self._resolver, mark=config.mark)
        #: What each token uses, by its digest.
        self.accounts: dict[bytes, Account] = {}
        self._served: set[_Served] = set()
        self._neighbours = Neighbours(
            lambda: ((each.whose, each.link.connection) for each in self._served)
        )
        #: Opened by :meth:`run`.
        self.pinger: Pinger
        self._lingering: dict[TcpStream, float] = {}
        #: See `_LINGER`.
        self.linger_seconds = _LINGER
        #: Connections that have not shown a token yet, the oldest first.
        self._handshakes: dict[trio.CancelScope, None] = {}
        self._listening = trio.CancelScope()
        self._stopping = trio.Event()
        self._forced = trio.CancelScope()
        #: Set when :meth:`run` has ended.
        self.ended = trio.Event()
        if self.descriptors.total < config.limits.streams:
            log.warning(
                "only %d streams are possible: the limit of descriptors (ulimit -n) is too low",
                self.descriptors.total,
            )

    # running

    async def run(
        self, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve; ``started`` gets the address and the port. Returns after stop()."""
        listener, address = open_listener(self.config.host, self.config.port, self._tls)
        self.pinger = Pinger(self.config.mark)
        self._own.open()
        try:
            async with trio.open_nursery() as services:
                await services.start(self.readiness.run)
                self.pinger.start(self.readiness)
                await services.start(self._resolver.run)
                services.start_soon(self._sweep)
                services.start_soon(give_back, self._memory)
                with self._forced:
                    async with trio.open_nursery() as connections:
                        task_status.started(address)
                        with self._listening:
                            await trio.serve_listeners(
                                self._serve, [listener], handler_nursery=connections
                            )
                        await self._drain()
                        connections.cancel_scope.cancel()
                services.cancel_scope.cancel()
        finally:
            for stream in list(self._lingering):
                stream.abort()
            self.pinger.close()
            self.readiness.close()
            self._own.close()
            self.ended.set()

    def _memory(self) -> int:
        """Bytes that are held for clients, or may come to be, above what every stream may send."""
        return sum(account.held + account.budget.used for account in self.accounts.values())

    def stop(self) -> None:
        """Take no new connection, tell clients to go, and end in at most ``drain`` seconds.

        A second call ends at once.
        """
        if self._stopping.is_set():
            self._forced.cancel()
            self._cut_off()
            return
        self._stopping.set()
        self._listening.cancel()

    def reload(self) -> None:
        """Read the token file and the certificate again; close the sessions of removed tokens.

        What cannot be read stays as it was, with an error in the log.
        """
        try:
            if self._tls is not None and self.config.tls_cert is not None:
                load_certificate(self._tls, self.config.tls_cert, self.config.tls_key)
            removed = self._tokens.reload() if self._tokens is not None else frozenset()
        except ConfigError as error:
            log.error("nothing was reloaded: %s", error)
            return
        for served in list(self._served):
            if served.principal in removed:
                served.link.close(_POLICY_VIOLATION, "the token was removed")
        for account in self.accounts.values():
            account.resize(self._share())
        log.info("reloaded; %d tokens were removed", len(removed))

    async def _drain(self) -> None:
        log.info("going away; %d sessions are open", len(self._served))
        for served in self._served:
            served.session.goaway(Code.GOING_AWAY, "the worker is shutting down")
        going_on, closing = shutdown_stages(self.config.drain)
        with trio.move_on_after(going_on):
            while self._served or self._lingering:
                for served in self._served:
                    if not served.client.open_streams and served.link.delivered:
                        served.link.close(_GOING_AWAY, "the worker is shutting down")
                await trio.sleep(0.05)
        for served in self._served:
            served.link.close(_GOING_AWAY, "the worker is shutting down")
        with trio.move_on_after(closing):
            while self._served:
                await trio.sleep(0.01)
        self._cut_off()

    def _cut_off(self) -> None:
        """Wait for no client any more, whatever it owes: its Close, or to read ours."""
        for served in self._served:
            served.link.connection.drop()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            for served in self._served:
                served.client.sweep()
            now = trio.current_time()
            for stream in [s for s, until in self._lingering.items() if until < now]:
                stream.abort()

    # streams that outlive their session's interest

    def linger(self, stream: TcpStream) -> None:
        """See :class:`~zks_lwip.worker.client.Shared`."""
        self._lingering[stream] = trio.current_time() + self.linger_seconds

    def lingered(self, stream: TcpStream) -> None:
        """See :class:`~zks_lwip.worker.client.Shared`."""
        self._lingering.pop(stream, None)

    # the door

    def _admit(self, request: HttpRequest) -> Principal | HttpResponse:
        """Who it is, or the answer to what is no upgrade that we accept."""
        path = request.path.partition("?")[0]
        if path == "/health":
            return HttpResponse(200, b"ok\n")
        if path != "/tunnel":
            return HttpResponse(404, b"not found\n")
        origin = request.header(b"origin")
        if origin is not None and origin.decode("latin-1") not in self.config.origins:
            return HttpResponse(403, b"this origin may not connect\n")
        principal: Principal | None = ANYONE
        if self._tokens is not None:
            principal = self._tokens.check(request.header(b"authorization"))
        if principal is None:
            return HttpResponse(
                401, b"a bearer token is needed\n", ((b"WWW-Authenticate", b"Bearer"),)
            )
        if self._stopping.is_set():
            return HttpResponse(503, b"shutting down\n")
        return principal

    async def _serve(self, stream: trio.abc.Stream) -> None:
        if len(self._handshakes) >= self._most_handshakes:
            oldest = next(iter(self._handshakes))  # who is honest does not take long
            del self._handshakes[oldest]
            oldest.cancel()
        admitted: list[tuple[Principal, Account, Descriptors]] = []

        def authorize(request: HttpRequest) -> Accept | HttpResponse:
            principal = self._admit(request)
            if isinstance(principal, HttpResponse):
                return principal
            return self._accept(request, principal, admitted)

        try:
            async with trio.open_nursery() as nursery:
                self._handshakes[nursery.cancel_scope] = None
                try:
                    # one message may wait to be taken: v1 is held up by not being read
                    connection = await accept_websocket(
                        nursery, stream, authorize=authorize, queue=1
                    )
                finally:
                    self._handshakes.pop(nursery.cancel_scope, None)
                if connection is not None:
                    principal, account, _ = admitted[0]
                    await self._run_session(connection, principal, account, nursery)
                nursery.cancel_scope.cancel()
        finally:
            for principal, account, descriptors in admitted:
                account.sessions -= 1
                account.v1 -= descriptors is account.descriptors
                descriptors.give()
                self._forget_account(principal)

    def _accept(
        self,
        request: HttpRequest,
        principal: Principal,
        admitted: list[tuple[Principal, Account, Descriptors]],
    ) -> Accept | HttpResponse:
        """The upgrade of one who may come in: is there room, and which version is it?"""
        v1 = not request.subprotocols
        if not v1 and SUBPROTOCOL not in request.subprotocols:
            return HttpResponse(400, b"this worker speaks " + SUBPROTOCOL.encode() + b"\n")
        account = self._account(principal)
        # a v1 client opens a WebSocket for every stream; they are counted for themselves, or a few
        # of them would keep v2's sessions out
        if v1:
            full = account.v1 >= account.limits.streams
        else:
            full = account.sessions - account.v1 >= account.limits.sessions
        if full:
            return HttpResponse(429, b"too many sessions for this token\n")
        # streams cannot keep a v2 session out: of those, there are few
        descriptors = account.descriptors if v1 else self.descriptors
        try:
            descriptors.take()
        except OSError:
            return HttpResponse(503, b"too many connections\n")
        account.sessions += 1
        account.v1 += v1
        admitted.append((principal, account, descriptors))
        return Accept(None if v1 else SUBPROTOCOL)

    def _account(self, principal: Principal) -> Account:
        account = self.accounts.get(principal.digest)
        if account is None:
            account = self.accounts[principal.digest] = Account(
                self.config.limits, Descriptors(self._share(), self.descriptors)
            )
        return account

    def _share(self) -> int:
        """How many descriptors the streams and associations of one token may have."""
        total = self.descriptors.total
        total -= min(self.config.limits.sessions, total // 8)
        # none of several tokens can take so many that nothing is left for the others
        several = self._tokens is not None and len(self._tokens.principals) > 1
        return total - total // 4 if several else total

    def _forget_account(self, principal: Principal) -> None:
        if self._tokens is not None and principal not in self._tokens.principals:
            account = self.accounts.get(principal.digest)
            if account is not None and account.idle:
                del self.accounts[principal.digest]

    def _with_liveness(
        self,
        run: Callable[..., Awaitable[LinkEnd]],
        session: Session | WorkerV1,
        whose: tuple[bytes, str],
    ) -> Callable[[Callable[[Frame], None]], Awaitable[LinkEnd]]:
        """Return a link's ``run`` for a session, with all but ``on_frame`` given."""
        return partial(
            run,
            session,
            quiet=self.config.quiet,
            patience=self.config.patience,
            longest=self.config.longest,
            others=partial(self._neighbours.of, whose),
        )

    async def _run_session(
        self,
        connection: WsConnection,
        principal: Principal,
        account: Account,
        nursery: trio.Nursery,
    ) -> None:
        limits = account.limits
        settings = Settings(
            window=self.config.window,
            streams=min(limits.streams, account.descriptors.total),
            # each has a socket of either family at most, and leaves some descriptors for streams
            associations=min(limits.associations, max(1, account.udp.total // 2)),
            requests=limits.requests,
            udp=True,
            icmp=self.pinger.usable,
            dns=self.dns.usable,
            ipv6=self._ipv6,
            idle_udp=self.config.idle_udp,
        )
        link: SessionLink | LinkV1
        session: Session | WorkerV1
        run: Callable[[Callable[[Frame], None]], Awaitable[LinkEnd]]
        address = connection.request.peer if connection.request is not None else None
        connection.request = None  # its headers are not needed any more
        peer = address[0] if address else "?"
        if connection.subprotocol is None:
            link = LinkV1(connection)
            session = WorkerV1(
                settings, clock=trio.current_time, wake=link.wake, unblock=link.unblock
            )
            run = self._with_liveness(link.run, session, (principal.digest, peer))
        else:
            link = SessionLink(connection)
            session = Session(Role.WORKER, settings, wake=link.wake, budget=account.budget)
            run = self._with_liveness(link.run, session, (principal.digest, peer))
        client = Client(self, session, account, nursery)
        served = _Served(link, session, client, principal, peer)
        self._served.add(served)
        log.info(
            "a session of %s from %s began (%s)",
            principal.name,
            peer,
            connection.subprotocol or "v1",
        )
        end = LinkEnd(_GOING_AWAY, "cut short")
        try:
            end = await run(client.on_frame)
        except Exception:  # a bug costs this session, not the others
            log.exception("internal error in a session of %s", principal.name)
        finally:
            self._served.discard(served)
            session.end()
            client.close()
            level = logging.WARNING if end.error is not None else logging.INFO
            log.log(level, "a session of %s ended: %d %s", principal.name, end.status, end.reason)
