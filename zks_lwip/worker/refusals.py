"""What becomes known of requests that were refused: counters, the log, and the access log.

Failed authentications stand in both logs, in a form that fail2ban reads (examples/fail2ban).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from .access_log import AccessLog

__all__ = ["AUTHENTICATION", "Refusal", "Refusals"]

_log = logging.getLogger(__name__)

_BURST = 100.0
_PER_SECOND = 20.0
"""Lines of failed authentications in the log: a client that guesses must not fill it, nor hold
the loop up by it. The access log is bounded by its queue."""


class Refusal(StrEnum):
    """Why a request does not become a session; the value is the label in metrics and logs."""

    NO_TOKEN = "no token"
    WRONG_TOKEN = "wrong token"
    EXPIRED = "the token has expired"
    ORIGIN = "the origin may not connect"
    PATH = "not found"
    VERSION = "no version of the protocol that is spoken here"
    SESSIONS = "too many sessions for this token"
    DESCRIPTORS = "too many connections"
    PROCESS = "the process of this token takes no connection"
    SHUTTING_DOWN = "shutting down"


AUTHENTICATION = frozenset({Refusal.NO_TOKEN, Refusal.WRONG_TOKEN})
"""Those after which fail2ban may count the address. (A token that has expired was once right.)"""


class Refusals:
    """Counts and tells.

    :param log: the access log; None: there is none.
    :param clock: returns seconds.
    """

    def __init__(
        self, log: AccessLog | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts: Counter[Refusal] = Counter()
        """How many there were of each kind."""
        self._log = log
        self._clock = clock
        self._allowance = _BURST
        self._then = clock()
        self._silent = 0

    def add(self, why: Refusal, status: int, client: str, token: str | None = None) -> None:
        """Count and tell one.

        :param status: that of HTTP.
        :param client: its address.
        :param token: the name of its token, where that is known.
        """
        self.counts[why] += 1
        if why in AUTHENTICATION:
            self._warn(why, client)
        else:
            _log.info("refused %s%s: %s", client, f" (token of {token})" if token else "", why)
        if self._log is not None and why is not Refusal.PATH:
            values: dict[str, object] = {} if token is None else {"token": token}
            self._log.entry("refused", **values, client=client, status=status, reason=why)

    def _warn(self, why: Refusal, client: str) -> None:
        now = self._clock()
        self._allowance = min(_BURST, self._allowance + (now - self._then) * _PER_SECOND)
        self._then = now
        if self._allowance < 1:
            self._silent += 1
            return
        self._allowance -= 1
        if self._silent:
            _log.warning("%d more failed authentications were not logged", self._silent)
            self._silent = 0
        _log.warning("authentication failed from %s: %s", client, why)
