"""What one token may use of a worker, and how many descriptors the worker has in all.

What bounds the memory that one hostile client can take, and where it stands:

- Without a token: ``MAX_HANDSHAKES`` connections (:mod:`.options`), each with the 16 KiB of
  ``MAX_HEAD`` (``carrier/http.py``) for ten seconds, longer where the path is slow.
- Of a token: ``Limits.held`` bytes that far ends have not taken, 256 MiB; ``Limits.kept`` bytes of
  messages that its clients have not acknowledged, 128 MiB, under ``WorkerConfig.max_kept`` for all
  tokens; ``Limits.streams``, ``connecting``, ``queries`` and ``echoes``, each with a socket, a task
  or an entry at most; as many WebSockets as sessions that ask for one of them and have not come to
  the end of their first message, ``Settings.max_message`` (1 MiB). All of it counts for a session
  that has lost its WebSocket, too.
- Of a session, at most ``Limits.sessions``: the message that comes, ``Settings.max_message``
  (1 MiB), and the one that goes, ``MAX_LIMIT`` of ``carrier/pacing.py`` (256 KiB); what waits to
  leave, in ``protocol/outbox.py``: ``MAX_DATAGRAM_BYTES`` and ``MAX_DNS_BYTES`` (1 MiB each) and
  ``Outbox.max_control`` (768 KiB, and 320 bytes for each stream it may have); DNS queries and
  answers in flight, in ``protocol/in_flight.py``: ``MAX_QUERY_BYTES`` and ``MAX_ANSWER_BYTES``
  (1 MiB each); what it may keep where ``Limits.kept`` is used up, ``FLOOR`` and ``RESERVE`` of
  ``protocol/kept.py`` (2 MiB); ``Limits.associations`` sockets. That is some 13 MiB, with 16,384
  streams. One that has lost its WebSocket has none of this but control frames and what it keeps.
- Of a v1 session, of which there may be ``Limits.streams``: the answers over which nothing more is
  read (256 KiB, ``protocol/v1/worker.py``). The messages that come, 1 MiB each, may have
  ``Limits.held`` bytes over all v1 sessions of a token, looked at once a second: those with the
  most are ended (``worker/unread.py``).

Together some 1.3 GiB for a token whose sessions are v2.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..carrier.websocket import WsConnection
from ..net.descriptors import Descriptors
from ..protocol import Budget, SessionStats
from .grants import Grant
from .rate import RateLimit

__all__ = ["Account", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one token (for all clients together, where there are no tokens)."""

    streams: int = 16384
    """Open TCP streams, over all sessions."""
    session_streams: int = 16384
    """Open TCP streams of one session, which HELLO tells the client; it opens others for more."""
    sessions: int = 64
    """Sessions at a time, those that have lost their WebSocket too."""
    held: int = 256 << 20
    """Bytes taken from the client that far ends have not taken yet."""
    kept: int = 128 << 20
    """Bytes of messages that clients have not acknowledged, kept to be sent again when a WebSocket
    is lost, over all sessions."""
    connects: float = 4096.0
    """New connections a second, over some seconds; four seconds' worth may come at once."""
    associations: int = 4096
    """UDP associations of one session."""
    requests: int = 256
    """DNS queries in flight of one session."""
    connecting: int = 4096
    """Streams that are not connected yet: each has a socket, or, for a name, a task until it is."""
    queries: int = 512
    """DNS queries in flight, over all sessions, and look-ups of names for streams."""
    echoes: int = 1024
    """ICMP echoes in flight, over all sessions."""


class QueryBudget:
    """What one token may ask of the name servers at a time, in questions and in sockets.

    :param limit: most questions in flight.
    """

    __slots__ = ("descriptors", "in_flight", "limit")

    def __init__(self, limit: int, descriptors: Descriptors) -> None:
        self.limit = limit
        self.descriptors = descriptors
        self.in_flight = 0

    def begin(self) -> bool:
        """Count one more, which :meth:`end` has to follow; False: there is no room."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def end(self) -> None:
        """Give one back: it was answered, or given up."""
        self.in_flight -= 1


def _part(descriptors: Descriptors) -> int:
    """Return how many of a token's descriptors its DNS queries may take."""
    return max(descriptors.total // 4, min(descriptors.total, 16))


class Account:
    """What one token uses now, over all its sessions.

    :param clock: returns seconds.
    :param kept: what the tokens of the worker may keep together.
    """

    __slots__ = (
        "_allowance",
        "_clock",
        "_refilled",
        "arriving",
        "name",
        "rate",
        "totals",
        "budget",
        "connecting",
        "descriptors",
        "detached",
        "echoes",
        "held",
        "kept",
        "limits",
        "queries",
        "resuming",
        "sessions",
        "streams",
        "udp",
        "one_stream_sessions",
        "websockets",
    )

    _BURST = 4.0  # seconds' worth of new connections

    def __init__(
        self,
        limits: Limits,
        descriptors: Descriptors,
        clock: Callable[[], float] = time.monotonic,
        kept: Budget | None = None,
        name: str = "",
    ) -> None:
        self.limits = limits
        self._clock = clock
        #: The name of the token, for logs and metrics.
        self.name = name
        #: What its sessions that have ended have counted.
        self.totals = SessionStats()
        #: How fast its sessions may be; None: as fast as they can.
        self.rate: RateLimit | None = None
        #: this token's share of the worker's descriptors
        self.descriptors = descriptors
        self.streams = 0
        self.connecting = 0
        #: sessions that are held, those without a WebSocket too
        self.sessions = 0
        #: those among them each of which is one stream, as in protocol v1
        self.one_stream_sessions = 0
        #: those among them that have lost their WebSocket
        self.detached = 0
        #: WebSockets, whether they have a session or not yet
        self.websockets = 0
        #: those among them that will open a new session with their first message
        self.arriving = 0
        #: those among them that ask for a session that is held, until they have it; oldest first
        self.resuming: OrderedDict[WsConnection, None] = OrderedDict()
        #: a part of the descriptors: names that no server answers for leave some for streams
        self.queries = QueryBudget(limits.queries, Descriptors(_part(descriptors), descriptors))
        #: likewise, for associations
        self.udp = Descriptors(max(1, descriptors.total // 2), descriptors)
        #: ICMP echoes in flight by their sequence numbers, and whose they are; the oldest first
        self.echoes: OrderedDict[int, Any] = OrderedDict()
        self.held = 0
        #: bounds how far the windows of this token's streams grow
        self.budget = Budget(limits.held // 2)
        #: bounds what this token's sessions keep until it is acknowledged
        self.kept = Budget(limits.kept, parent=kept)
        self._allowance = limits.connects * self._BURST
        self._refilled = clock()

    def apply(self, grant: Grant, limits: Limits) -> None:
        """Change its limits to those that the token file has for it.

        :param limits: what holds where that says nothing.
        """
        self.limits = replace(
            limits,
            streams=limits.streams if grant.streams is None else grant.streams,
            sessions=limits.sessions if grant.sessions is None else grant.sessions,
        )
        self.budget.size = limits.held // 2
        if grant.rate is not None:  # what windows grow by passes before the limit is felt
            self.budget.size = min(self.budget.size, grant.rate // 2)
        if grant.rate is None:
            self.rate = None
        elif self.rate is None:
            self.rate = RateLimit(grant.rate, self._clock)
        else:
            self.rate.set_rate(grant.rate)

    def resize(self, share: int) -> None:
        """Change the token's share of the descriptors."""
        self.descriptors.resize(share)
        self.queries.descriptors.resize(_part(self.descriptors))
        self.udp.resize(max(1, self.descriptors.total // 2))

    @property
    def attached(self) -> int:
        """Sessions of many streams that have a WebSocket."""
        return self.sessions - self.one_stream_sessions - self.detached

    @property
    def idle(self) -> bool:
        """Nothing is used: the account can be forgotten."""
        return not (self.streams or self.sessions or self.held or self.websockets)

    def refusal(self) -> str | None:
        """Count a new connection.

        :returns: why none may be made now; None: it may, and was counted.
        """
        limits = self.limits
        if self.streams >= limits.streams:
            return f"{limits.streams} streams are open for this token"
        if self.connecting >= limits.connecting:
            return f"{limits.connecting} streams are being connected for this token"
        now = self._clock()
        earned = (now - self._refilled) * limits.connects
        self._allowance = min(limits.connects * self._BURST, self._allowance + earned)
        self._refilled = now
        if self._allowance < 1:
            return f"more than {limits.connects:g} new connections a second"
        self._allowance -= 1
        return None
