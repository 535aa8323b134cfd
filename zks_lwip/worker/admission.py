"""Which requests become WebSockets: paths, origins, tokens, and room for one more.

What an admitted WebSocket takes is counted here, in the :class:`~.limits.Account` of its token and
in the worker's descriptors, and given back by :meth:`Admission.release`. The session that it brings
or comes back to is counted by :class:`~.sessions.Sessions`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..carrier.http import HttpRequest, HttpResponse
from ..carrier.versions import V2, Version, offered
from ..errors import ProtocolError
from ..net.descriptors import Descriptors
from ..protocol import Budget, Hello, SessionStats
from .auth import ANYONE, Principal, TokenFile
from .front_ends import FrontEnds
from .grants import UNLIMITED, Grant
from .handover import Handover
from .limits import Account
from .options import WorkerConfig
from .refusals import Refusal, Refusals
from .stats import TokenStats, account_stats

__all__ = ["Admission", "Admitted"]

_PASSING = 2
"""Descriptors of a connection that is passed on."""


@dataclass(slots=True)
class Admitted:
    """A WebSocket that was admitted: :meth:`Admission.release` has to follow."""

    principal: Principal
    account: Account
    version: Version
    descriptors: Descriptors
    """The budget that its descriptor was taken from."""
    resumes: bool
    """It asks for a session that is held, and so needs no room for another."""
    arriving: bool
    """Room for a session is kept for it, which :meth:`Admission.arrived` gives back."""
    hello: Hello | None
    """The HELLO that its request has said, by which it resumes a session that is held."""


class Admission:
    """Decides about requests, and keeps the accounts of the tokens.

    :param descriptors: all that the worker has for streams and WebSockets.
    :param holds: tells whether a session with this id was opened by this token and is held.
    :param refusals: are told of what is refused.
    :param clock: returns seconds; of limits on what a token may do in one.
    :param now: returns seconds since 1970; of tokens that end.
    :raises ConfigError: the token file cannot be read or used.
    """

    def __init__(
        self,
        config: WorkerConfig,
        descriptors: Descriptors,
        *,
        holds: Callable[[str, Principal], bool] = lambda id, principal: False,
        refusals: Refusals | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self.front_ends = FrontEnds(config.trusted_proxies)
        """They know where requests come from."""
        self._refusals = Refusals() if refusals is None else refusals
        self._now = now
        self._holds = holds
        self._tokens = TokenFile(config.token_file) if config.token_file is not None else None
        self._descriptors = descriptors
        self._clock = clock
        self._kept = Budget(config.max_kept)
        #: What each token uses, by its digest.
        self.accounts: dict[bytes, Account] = {}
        #: What tokens have done that were removed since, all together.
        self.removed = TokenStats("(removed)")
        #: Refuse every session from now on (503): the worker is shutting down.
        self.closed = False

    def admit(self, request: HttpRequest) -> Admitted | HttpResponse:
        """Count one more WebSocket, or return the answer to a request that does not become one."""
        principal = self._authenticate(request)
        if isinstance(principal, HttpResponse):
            return principal
        version = offered(request.subprotocols)
        if version is None:
            said = f"this worker speaks {V2.subprotocol}\n".encode()
            return self._refuse(request, Refusal.VERSION, 400, said, principal)
        account = self._account(principal)
        wanted = request.header(b"zks-session")
        resumes = (
            wanted is not None
            and not version.one_stream
            and self._holds(wanted.decode("latin-1"), principal)
        )
        # Where a client opens a WebSocket for every stream they are counted for themselves, or a
        # few of them would keep other sessions out
        if version.one_stream:
            full = account.one_stream_sessions >= account.limits.streams
        else:  # those without a WebSocket give way
            full = account.attached + account.arriving >= account.limits.sessions
        if full and not resumes:
            said = b"too many sessions for this token\n"
            return self._refuse(request, Refusal.SESSIONS, 429, said, principal)
        # Streams cannot keep a session of many streams out: of those, there are few
        descriptors = account.descriptors if version.one_stream else self._descriptors
        try:
            descriptors.take()
        except OSError:
            return self._no_descriptor(request, principal)
        account.websockets += 1
        if version.one_stream:  # the WebSocket is the session
            account.sessions += 1
            account.one_stream_sessions += 1
        arriving = not (version.one_stream or resumes)
        account.arriving += arriving
        hello = _said_early(request) if resumes else None
        return Admitted(principal, account, version, descriptors, resumes, arriving, hello)

    def owner(self, request: HttpRequest, handover: Handover) -> int:
        """Return which process of the worker a request belongs to.

        One that is to be refused belongs to the one that has it.
        """
        principal = self._holder(request)
        if principal is None or not request.upgrade:
            return handover.index
        return handover.owner(request.header(b"zks-session"), principal, self.grant(principal))

    def begin_passing(self, request: HttpRequest) -> HttpResponse | None:
        """Take what a connection needs that is passed on to another process of the worker: its own
        descriptor, and one to that process.

        :returns: None: :meth:`end_passing` has to follow; otherwise the answer: there is no room.
        """
        if self._descriptors.free < _PASSING:
            return self._no_descriptor(request, self._holder(request))
        for _ in range(_PASSING):
            self._descriptors.take()
        return None

    def end_passing(self) -> None:
        """Give back what :meth:`begin_passing` has taken."""
        for _ in range(_PASSING):
            self._descriptors.give()

    def not_taken(self, request: HttpRequest) -> HttpResponse | None:
        """Return the answer where the process that a request belongs to does not take it; None: any
        other may serve it, since its token has no limits of its own, which hold in one only."""
        principal = self._holder(request)
        if principal is None or not self.grant(principal).limited:
            return None
        said = b"busy; try again\n"
        return self._refuse(request, Refusal.PROCESS, 503, said, principal)

    def _holder(self, request: HttpRequest) -> Principal | None:
        """Return whose token a request shows; None: it shows none that is known."""
        if self._tokens is None:
            return ANYONE
        return self._tokens.check(request.header(b"authorization"))

    def still_admits(self, admitted: Admitted) -> bool:
        """Return whether the token of a WebSocket has not been removed since."""
        return self.is_valid(admitted.principal)

    def is_valid(self, principal: Principal) -> bool:
        """Return whether a token is in the file, and has not ended."""
        if self._tokens is None:
            return True
        return self._is_known(principal) and not self.grant(principal).expired(self._now())

    def _is_known(self, principal: Principal) -> bool:
        digest = principal.digest
        tokens = () if self._tokens is None else self._tokens.principals
        return any(each.digest == digest for each in tokens)

    def grant(self, principal: Principal) -> Grant:
        """Return what the token file says of a token besides its name."""
        return UNLIMITED if self._tokens is None else self._tokens.grant(principal)

    def expired(self) -> Iterator[Principal]:
        """Yield the tokens that have ended."""
        now = self._now()
        for principal in () if self._tokens is None else self._tokens.principals:
            if self.grant(principal).expired(now):
                yield principal

    def arrived(self, admitted: Admitted) -> None:
        """Note that a WebSocket has shown which session it is for; harmless a second time."""
        if admitted.arriving:
            admitted.arriving = False
            admitted.account.arriving -= 1

    def release(self, admitted: Admitted) -> None:
        """Give back what an admitted WebSocket has taken: it has ended, or never began."""
        account = admitted.account
        self.arrived(admitted)
        account.websockets -= 1
        account.sessions -= admitted.version.one_stream
        account.one_stream_sessions -= admitted.version.one_stream
        admitted.descriptors.give()
        self.forget_account(admitted.principal)

    def reload(self) -> frozenset[Principal]:
        """Read the token file again, and share the descriptors out anew.

        :returns: the tokens that were removed.
        :raises ConfigError: the token file cannot be read or used; the tokens stay as they were.
        """
        removed = self._tokens.reload() if self._tokens is not None else frozenset()
        for digest, account in self.accounts.items():
            account.resize(self._share())
            account.apply(self.grant(Principal("", digest)), self._config.limits)
        return removed

    def _authenticate(self, request: HttpRequest) -> Principal | HttpResponse:
        path = request.path.partition("?")[0]
        if path == "/health":
            return HttpResponse(200, b"ok\n")
        if path != "/tunnel":
            return self._refuse(request, Refusal.PATH, 404, b"not found\n")
        origin = request.header(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._config.origins:
            said = b"this origin may not connect\n"
            return self._refuse(request, Refusal.ORIGIN, 403, said)
        principal = ANYONE
        if self._tokens is not None:
            offered = request.header(b"authorization")
            found = self._tokens.check(offered)
            if found is None:
                why = Refusal.NO_TOKEN if offered is None else Refusal.WRONG_TOKEN
                return self._refuse(request, why, 401, b"a bearer token is needed\n")
            if self.grant(found).expired(self._now()):
                said = b"this token has expired\n"
                return self._refuse(request, Refusal.EXPIRED, 401, said, found)
            principal = found
        if self.closed:
            return self._refuse(request, Refusal.SHUTTING_DOWN, 503, b"shutting down\n", principal)
        return principal

    def _refuse(
        self,
        request: HttpRequest,
        why: Refusal,
        status: int,
        said: bytes,
        principal: Principal | None = None,
    ) -> HttpResponse:
        name = None if principal is None else principal.name
        self._refusals.add(why, status, self.front_ends.client_of(request), name)
        headers = ((b"WWW-Authenticate", b"Bearer"),) if status == 401 else ()
        return HttpResponse(status, said, headers)

    def _no_descriptor(self, request: HttpRequest, principal: Principal | None) -> HttpResponse:
        said = b"too many connections\n"
        return self._refuse(request, Refusal.DESCRIPTORS, 503, said, principal)

    def _account(self, principal: Principal) -> Account:
        account = self.accounts.get(principal.digest)
        if account is None:
            account = self.accounts[principal.digest] = Account(
                self._config.limits,
                Descriptors(self._share(), self._descriptors),
                clock=self._clock,
                kept=self._kept,
                name=principal.name,
            )
            account.apply(self.grant(principal), self._config.limits)
        return account

    def _share(self) -> int:
        """Return how many descriptors the streams and associations of one token may have."""
        total = self._descriptors.total
        total -= min(self._config.limits.sessions, total // 8)
        # None of several tokens can take so many that nothing is left for the others
        several = self._tokens is not None and len(self._tokens.principals) > 1
        return total - total // 4 if several else total

    def forget_account(self, principal: Principal) -> None:
        """Forget what a token has used, if it was removed and uses nothing any more."""
        if self._tokens is not None and not self._is_known(principal):
            account = self.accounts.get(principal.digest)
            if account is not None and account.idle:
                del self.accounts[principal.digest]
                self.removed.add(account_stats(account, SessionStats()))


def _said_early(request: HttpRequest) -> Hello | None:
    """Return the HELLO that a request says, for the session that it asks for; None: there is none.

    One that cannot be used is no error here: it comes again, in the first frame.
    """
    said = request.all(b"zks-hello")
    if len(said) != 1:
        return None
    try:
        hello = Hello.decode(said[0])
    except ProtocolError:
        return None
    asked = request.header(b"zks-session")
    return hello if asked is not None and hello.session == asked.decode("latin-1") else None
