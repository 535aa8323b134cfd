"""The worker: listens for WebSockets, serves their sessions, and ends in order.

:mod:`.admission` decides which request becomes a WebSocket, :mod:`.connections` which session that
carries, :mod:`.sessions` holds these, and :mod:`.shutdown` ends them; everything of one client is
in :mod:`.client`. Here is what clients share.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from .._memory import give_back
from ..errors import ConfigError
from ..net.descriptors import Descriptors
from ..net.histogram import Histogram
from ..net.readiness import make_readiness
from ..net.sockets import check_mark
from ..protocol import SessionStats, Settings
from .access_log import AccessLog
from .addresses import BoundSocket
from .admission import Admission
from .certificate import CertificateWatch
from .connections import (
    GOING_AWAY,
    POLICY_VIOLATION,
    TOKEN_EXPIRED,
    TOKEN_REMOVED,
    Connections,
)
from .dial import Dialer
from .dns_forwarder import DnsForwarder
from .dnsclient import DnsClient
from .handover import Handover
from .icmp import Pinger
from .limits import Account
from .listen import (
    check_addresses,
    has_ipv6,
    load_certificate,
    make_listener,
    open_listeners,
    share_descriptors,
    tls_context,
)
from .nameservers import HostsFile, SystemNameServers
from .options import WorkerConfig
from .own_addresses import OwnAddresses
from .policy import Policy
from .refusals import Refusals
from .resolver import Resolver
from .sessions import HeldSession, Sessions
from .shutdown import end_sessions
from .stats import WorkerStats, account_stats, merge_tokens
from .tcp import FarEndStream
from .udp_sockets import DatagramSockets
from .undelivered import UndeliveredStreams
from .unread import bound_unread

__all__ = ["Worker"]

_log = logging.getLogger(__name__)

_SWEEP = 1.0
"""Seconds between two looks at what is idle or late."""
_WEBSOCKET = 16 << 10
"""Bytes that the WebSocket of a session takes, with its tasks, and losing it more for a moment."""


class Worker:
    """Serves until :meth:`stop`.

    :param clock: returns seconds; of limits on what a token may do in one.
    :param handover: what is known of other processes of this worker; None: there are none.
    :param raise_limits: allow this process as many descriptors as it may have.
    :raises ConfigError: no token beyond loopback, or files that cannot be read.
    :raises PrivilegeError: a mark that the system refuses.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        raise_limits: bool = True,
        handover: Handover | None = None,
    ) -> None:
        self._handover = handover
        self.config = config
        self.mark = config.mark
        #: Where it listens, once :meth:`run` has started.
        self.listening: list[BoundSocket] = []
        streams, unauthenticated = share_descriptors(raise_limits=raise_limits)
        self.descriptors = Descriptors(streams)
        self._sessions = Sessions(
            config.max_detached,
            self._on_session_ended,
            config.session_prefix if handover is None else handover.session_prefix,
        )
        self._log: AccessLog | None = None
        if config.access_log is not None:
            path = str(config.access_log)
            self._log = AccessLog(None if path == "-" else Path(path))
        self.refusals = Refusals(self._log)
        """What was refused, and why."""
        self._admission = Admission(
            config,
            self.descriptors,
            holds=self._sessions.holds,
            refusals=self.refusals,
            clock=clock,
        )
        self._connections = Connections(
            self,
            config,
            self._admission,
            self._sessions,
            self._settings,
            min(config.max_handshakes, unauthenticated),
            self._log,
            handover,
        )
        self._tls: ssl.SSLContext | None = None
        self._certificate: CertificateWatch | None = None
        if config.tls_cert is not None:
            self._tls = tls_context(config.tls_cert, config.tls_key)
            self._certificate = CertificateWatch(config.tls_cert)
        elif config.tls_key is not None:
            raise ConfigError("is of no use without `tls_cert`", "tls_key")
        tokens = config.token_file is not None
        check_addresses(config.addresses, tls=self._tls is not None, tokens=tokens)
        if config.resume < 0:
            raise ConfigError(f"{config.resume} is no number of seconds; give 0 or more", "resume")
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
        self.dns_forwarder = DnsForwarder(self.dns)
        self.datagrams = DatagramSockets(self.policy)
        self.readiness = make_readiness()
        self._ipv6 = has_ipv6(config.mark)
        self._resolver = Resolver(self.dns, HostsFile(), ipv6=self._ipv6)
        self.dialer = Dialer(self.policy, self._resolver, mark=config.mark)
        #: Opened by :meth:`run`.
        self.pinger: Pinger
        #: How long DNS queries of clients took.
        self.dns_latency = Histogram()
        #: Streams whose session has forgotten them.
        self.undelivered = UndeliveredStreams()
        self._listening = trio.CancelScope()
        self._stopping = trio.Event()
        self._forced = trio.CancelScope()
        #: Set when :meth:`run` has ended.
        self.ended = trio.Event()
        if self.descriptors.total < config.limits.streams:
            _log.warning(
                "only %d streams are possible: the limit of descriptors (ulimit -n) is too low",
                self.descriptors.total,
            )

    # running

    @property
    def accounts(self) -> dict[bytes, Account]:
        """What each token uses, by its digest."""
        return self._admission.accounts

    def stats(self) -> WorkerStats:
        """Return what it has done and holds. In the trio thread."""
        live: dict[Account, SessionStats] = {}
        round_trips = Histogram()
        for held in self._sessions:
            live.setdefault(held.account, SessionStats()).add(held.session.stats)
            if held.session.round_trip:
                round_trips.add(held.session.round_trip)
        connections, removed = self._connections, self._admission.removed
        return WorkerStats(
            tokens=merge_tokens(
                [
                    *([removed] if removed.streams_opened or removed.datagrams_up else []),
                    *(
                        account_stats(account, live.get(account, SessionStats()))
                        for account in self.accounts.values()
                    ),
                ]
            ),
            handshakes=self.handshakes,
            sessions_opened=connections.opened,
            sessions_resumed=connections.resumed,
            refused={str(why): count for why, count in self.refusals.counts.items()},
            access_log_lost=0 if self._log is None else self._log.lost_in_all,
            dns=self.dns_latency,
            round_trips=round_trips,
            certificate_expires=None if self._certificate is None else self._certificate.expires,
        )

    @property
    def handshakes(self) -> int:
        """How many connections have not shown a token yet."""
        return len(self._connections.handshakes)

    @property
    def stopping(self) -> bool:
        """Whether it has been told to :meth:`stop`."""
        return self._stopping.is_set()

    @property
    def sessions(self) -> Sessions:
        """The sessions of all tokens."""
        return self._sessions

    async def run(
        self, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until :meth:`stop`; ``started`` gets the first address and its port.

        :raises ConfigError: nothing can listen there, or there is no token beyond loopback.
        :raises PrivilegeError: a port needs privilege.
        """
        self.listening = open_listeners(
            self.config.addresses,
            tls=self._tls is not None,
            tokens=self.config.token_file is not None,
        )
        self.pinger = Pinger(self.config.mark)
        self._own.open()
        try:
            async with trio.open_nursery() as services:
                await services.start(self.readiness.run)
                self.pinger.start(self.readiness)
                await services.start(self.dns_forwarder.run, self.readiness)
                await services.start(self._resolver.run)
                services.start_soon(self._sweep)
                if self._log is not None:
                    services.start_soon(self._log.run)
                if self._certificate is not None:
                    services.start_soon(self._certificate.run)
                services.start_soon(give_back, self._memory)
                with self._forced:
                    async with trio.open_nursery() as connections:
                        if self._handover is not None:
                            serve = partial(self._connections.serve_given, tasks=connections)
                            services.start_soon(self._handover.run, serve)
                        task_status.started(self.listening[0].address)
                        with self._listening:
                            await trio.serve_listeners(
                                partial(self._connections.serve, tasks=connections),
                                [make_listener(each, self._tls) for each in self.listening],
                                handler_nursery=connections,
                            )
                        self._close_listeners()
                        await end_sessions(
                            self._sessions, self._connections, self.undelivered, self.config.drain
                        )
                        connections.cancel_scope.cancel()
                services.cancel_scope.cancel()
        finally:
            self._close_listeners()
            self._sessions.end_all(GOING_AWAY)
            self.undelivered.abort_all()
            self.pinger.close()
            self.readiness.close()
            self._own.close()
            self.ended.set()

    def _close_listeners(self) -> None:
        for each in self.listening:
            each.close()

    def _memory(self) -> int:
        """Return the bytes that clients hold, or may, above what every stream may send; and what
        the WebSockets of sessions take."""
        return len(self._sessions.attached) * _WEBSOCKET + sum(
            account.held + account.budget.used + account.kept.used
            for account in self.accounts.values()
        )

    def stop(self) -> None:
        """Take no new connection, tell clients to go, and end in at most ``drain`` seconds.

        A second call ends at once.
        """
        if self._stopping.is_set():
            self._forced.cancel()
            self._connections.drop_all()
            return
        self._stopping.set()
        self._admission.closed = True
        self._listening.cancel()

    def reload(self) -> None:
        """Read the token file and the certificate again; close the sessions of removed tokens.

        The access log is opened anew, too. Of these each is read by itself: what cannot be read
        stays as it was, and an error is logged.
        """
        if self._log is not None:
            self._log.reopen()
        try:
            if self._tls is not None and self.config.tls_cert is not None:
                load_certificate(self._tls, self.config.tls_cert, self.config.tls_key)
            if self._certificate is not None:
                self._certificate.reload()
        except ConfigError as error:
            _log.error("the certificate was not reloaded: %s", error)
        try:
            removed = self._admission.reload()
        except ConfigError as error:
            _log.error("the tokens were not reloaded: %s", error)
            return
        digests = {principal.digest for principal in removed}
        for held in self._sessions:
            held.client.limits_changed()
            if held.principal.digest in digests:
                self._end_session(held, TOKEN_REMOVED)
        _log.info("reloaded; %d tokens were removed", len(removed))

    def _end_session(self, held: HeldSession, why: str) -> None:
        """End a session whose token is not valid any more."""
        if held.link is not None:
            held.link.close(POLICY_VIOLATION, why)
        else:
            self._sessions.end(held, why)

    def _end_expired(self) -> None:
        expired = {principal.digest for principal in self._admission.expired()}
        for held in self._sessions if expired else ():
            if held.principal.digest in expired:
                self._end_session(held, TOKEN_EXPIRED)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            for held in self._sessions:
                held.client.sweep()
            self._sessions.sweep()
            self._end_expired()
            bound_unread(self._sessions.attached, self.accounts)
            self.undelivered.abort_late(trio.current_time())

    # streams that outlive their session

    def keep_until_delivered(self, stream: FarEndStream) -> None:
        """See :class:`~zks_lwip.worker.client.Shared`."""
        self.undelivered.keep(stream, trio.current_time())

    def forget_stream(self, stream: FarEndStream) -> None:
        """See :class:`~zks_lwip.worker.client.Shared`."""
        self.undelivered.forget(stream)

    # sessions

    def _settings(self, account: Account) -> Settings:
        limits = account.limits
        return Settings(
            window=min(self.config.window, account.rate.window if account.rate else 1 << 31),
            streams=min(limits.streams, limits.session_streams, account.descriptors.total),
            # each has a socket of either family at most, and leaves some descriptors for streams
            associations=min(limits.associations, max(1, account.udp.total // 2)),
            requests=limits.requests,
            udp=True,
            icmp=self.pinger.usable,
            dns=self.dns.usable,
            ipv6=self._ipv6,
            resume=self.config.resume,
            idle_udp=self.config.idle_udp,
        )

    def _on_session_ended(self, held: HeldSession) -> None:
        held.account.totals.add(held.session.stats)
        self._admission.forget_account(held.principal)
