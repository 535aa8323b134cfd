"""Whether a path may have died in silence (PROTOCOL.md §8), without input or output.

It is found out long before the WebSocket counts as dead (:mod:`.liveness`): a peer acknowledges
what it has taken within 100 ms, so one that says nothing for two seconds, while its TCP
acknowledges nothing either, is worth a second WebSocket beside the first.
"""

from __future__ import annotations

import math
from enum import Enum, auto

__all__ = ["Question", "Suspicion", "Uncounted"]

_TRIPS = 4
_LOOKS = 8
"""Times within the patience that what TCP has acknowledged is looked at."""


def _patience(least: float, round_trip: float) -> float:
    return max(least, _TRIPS * round_trip)


class Suspicion:
    """Decides when to suspect a path. All times are in seconds, of one clock.

    :param least: seconds of silence that are never suspicious.
    """

    def __init__(self, least: float = 2.0) -> None:
        self._least = least
        self._sign = -math.inf  # when TCP was last seen to acknowledge more
        self._acknowledged: int | None = None
        self._looked = -math.inf
        #: When :meth:`step` is to be called next.
        self.due = 0.0

    def step(
        self, now: float, since: float, heard: float, acknowledged: int | None, round_trip: float
    ) -> bool:
        """Return whether the path is suspect; set :attr:`due` if it is not.

        :param since: since when something is to be answered by the peer.
        :param heard: when anything last came from it.
        :param acknowledged: bytes that its TCP has acknowledged; None: not known.
        :param round_trip: the longest that is known; 0: none is.
        """
        quiet = max(since, heard)
        before, self._acknowledged = self._acknowledged, acknowledged
        # (What came between an earlier look and the silence says nothing of that.)
        known = self._looked >= quiet and before is not None and acknowledged is not None
        if known and acknowledged != before:
            self._sign = now
        self._looked = now
        patience = _patience(self._least, round_trip)
        end = max(quiet, self._sign) + patience
        if now >= end:
            return True
        self.due = min(end, max(quiet + patience / 2, now + patience / _LOOKS))
        return False


class Question(Enum):
    """What to do about what may be answered late, or not at all."""

    WAIT = auto()
    """Look again."""
    PING = auto()
    """Ask by a PING: the peer answers that at once."""
    NONE = auto()
    """All that was sent was followed by something of the peer's."""


class Uncounted:
    """Decides when to ask whether queries and datagrams, which are not counted, reach the peer.

    Their answers may take long, so that silence alone says nothing of the path. The peer is asked
    after half of the patience of :class:`Suspicion`, so that both are over at the same time.

    :param least: of :class:`Suspicion`.
    :param sent: when something was sent; in seconds.
    """

    def __init__(self, least: float, sent: float) -> None:
        self._least = least
        #: Since when an answer is waited for.
        self.since = sent

    def step(self, now: float, heard: float, sent: float, round_trip: float) -> Question:
        """Say what to do; where that is a PING, an answer is due :attr:`since` then.

        :param heard: as ``round_trip``, of :meth:`Suspicion.step`.
        :param sent: when anything last was sent.
        """
        if heard >= self.since:
            if heard >= sent:
                return Question.NONE
            self.since = sent
        half = _patience(self._least, round_trip) / 2
        if now < self.since + half:
            return Question.WAIT
        self.since = max(self.since, now - half)  # the PING has its half, too, where we are late
        return Question.PING
