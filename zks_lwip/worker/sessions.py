"""The sessions that a worker holds, with a WebSocket or for a while without one (PROTOCOL.md §6).

A session belongs to the token that opened it: by another one it cannot be found, and whether it is
there cannot be told. Sessions without a WebSocket end when their time is over, or earlier, the
oldest first, where there are too many.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator

import trio

from ..carrier.link import SessionLink
from ..protocol import WorkerSession
from .auth import Principal
from .client import Client
from .limits import Account

__all__ = ["HeldSession", "Sessions"]

_log = logging.getLogger(__name__)

_SESSION_BYTES = 24
"""Random bytes of an id: 192 bits, where PROTOCOL.md §3 asks for 128."""


class HeldSession:
    """A session, what its client asked for, and the WebSocket that it has now.

    :param one_stream: it carries one stream in its life, as in protocol v1.
    """

    __slots__ = (
        "account",
        "attempt",
        "began",
        "client",
        "detached_at",
        "key",
        "link",
        "one_stream",
        "peer",
        "principal",
        "session",
        "until",
    )

    def __init__(
        self,
        session: WorkerSession,
        client: Client,
        principal: Principal,
        account: Account,
        *,
        one_stream: bool = False,
    ) -> None:
        self.session = session
        self.client = client
        self.principal = principal
        self.account = account
        self.one_stream = one_stream
        #: When it was opened (``trio.current_time``).
        self.began = trio.current_time()
        #: The WebSocket that carries it; None: it was lost, and may be replaced.
        self.link: SessionLink[WorkerSession] | None = None
        #: The address that its WebSocket came from last.
        self.peer = "?"
        #: The number of the attempt at resuming that its WebSocket came by; 0: none.
        self.attempt = 0
        #: Where it is found; None: by no client.
        self.key: bytes | None = None
        #: When it lost its WebSocket, and until when another may come (``trio.current_time``).
        self.detached_at = self.until = 0.0

    @property
    def whose(self) -> tuple[bytes, str]:
        """Connections of the same token and address share a path, as far as can be known."""
        return self.principal.digest, self.peer


class Sessions:
    """All sessions of a worker.

    :param most_detached: sessions without a WebSocket, over all tokens.
    :param on_ended: called when one has ended; what it held is given back.
    :param prefix: what their ids begin with, before a dot; empty: neither.
    """

    def __init__(
        self, most_detached: int, on_ended: Callable[[HeldSession], None], prefix: str = ""
    ) -> None:
        self._prefix = f"{prefix}." if prefix else ""
        self._most_detached = most_detached
        self._on_ended = on_ended
        self._attached: dict[HeldSession, None] = {}
        #: Those without a WebSocket, in the order in which they lost it.
        self._detached: OrderedDict[HeldSession, None] = OrderedDict()
        self._by_key: dict[bytes, HeldSession] = {}
        self._secret = secrets.token_bytes(32)

    def new_id(self) -> str:
        """Make up the id of a session."""
        return self._prefix + secrets.token_urlsafe(_SESSION_BYTES)

    @property
    def attached(self) -> tuple[HeldSession, ...]:
        """Those with a WebSocket, as they are now."""
        return tuple(self._attached)

    @property
    def detached(self) -> tuple[HeldSession, ...]:
        """Those without one, as they are now, the oldest first."""
        return tuple(self._detached)

    def __len__(self) -> int:
        return len(self._attached) + len(self._detached)

    def __iter__(self) -> Iterator[HeldSession]:
        return iter(self.attached + self.detached)

    def _key(self, id: str, principal: Principal) -> bytes:
        # How long a search takes tells something of this, and so of no id
        return hmac.digest(self._secret, principal.digest + id.encode(), "sha256")

    def find(self, id: str | None, principal: Principal) -> HeldSession | None:
        """Return the session with this id that this token has opened; None: there is none."""
        if id is None:
            return None
        held = self._by_key.get(self._key(id, principal))
        if held is None or not held.session.resumable:
            return None
        if held.link is None and held.until <= trio.current_time():
            return None
        return held

    def holds(self, id: str, principal: Principal) -> bool:
        """Return whether :meth:`find` finds one."""
        return self.find(id, principal) is not None

    def __contains__(self, held: HeldSession) -> bool:
        return held in self._attached or held in self._detached

    def add(self, held: HeldSession, link: SessionLink[WorkerSession]) -> None:
        """Hold a session, on its first WebSocket; found by the id of its settings, if any."""
        id = held.session.settings.session
        held.account.sessions += not held.one_stream  # those are counted as WebSockets
        if id is not None:
            held.key = self._key(id, held.principal)
            self._by_key[held.key] = held
        held.link = link
        self._attached[held] = None

    def attach(self, held: HeldSession, link: SessionLink[WorkerSession]) -> None:
        """Note that another WebSocket carries a session."""
        if held.link is None:
            del self._detached[held]
            held.account.detached -= 1
            self._attached[held] = None
        else:
            held.client.detached()
        held.link = link

    def detach(self, held: HeldSession, seconds: float) -> None:
        """Note that a session has lost its WebSocket, and keep it for so long."""
        held.link = None
        held.detached_at = trio.current_time()
        held.until = held.detached_at + seconds
        held.account.detached += 1
        del self._attached[held]
        self._detached[held] = None
        held.client.detached()
        if len(self._detached) > self._most_detached:
            self.end(next(iter(self._detached)), "too many sessions wait for their clients")

    def end(self, held: HeldSession, why: str, *, level: int = logging.INFO) -> None:
        """Reset all streams of a session and forget it; harmless a second time.

        :param why: one clause, for the log.
        """
        if held in self._attached:
            del self._attached[held]
        elif held in self._detached:
            del self._detached[held]
            held.account.detached -= 1
        else:
            return
        if held.key is not None:
            del self._by_key[held.key]
        held.account.sessions -= not held.one_stream
        held.session.end()
        held.client.close()
        held.link = None
        self._on_ended(held)
        _log.log(level, "a session of %s ended: %s", held.principal.name, why)

    def end_all(self, why: str) -> None:
        """End every session."""
        for held in self:
            self.end(held, why)

    def give_way(self, account: Account) -> bool:
        """End the oldest session of a token that has no WebSocket; False: there is none."""
        if not account.detached:
            return False
        oldest = next(held for held in self._detached if held.account is account)
        self.end(oldest, "a new one takes its place")
        return True

    def sweep(self) -> None:
        """Every second or so: end those whose time is over."""
        now = trio.current_time()
        for held in self.detached:
            if held.until <= now:
                self.end(
                    held, f"its client did not come back within {now - held.detached_at:.0f} s"
                )
