"""Whether the peer of a WebSocket is alive (PROTOCOL.md §8), without input or output.

What is heard is life. An answer may also be late because the ping stands behind data in a queue of
the path: as long as the peer's TCP acknowledges what went before the ping, the ping is on its way.
Acknowledgements that come after the ping has arrived prove nothing: the kernel of a stopped process
acknowledges too, until its buffer is full. (Answers to zero-window probes acknowledge no new bytes,
so they never count.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["ALONE", "MAX_PATIENCE", "Liveness", "Others", "Verdict"]

MAX_PATIENCE = 120.0
"""Seconds after a ping within which something must be heard, whatever is acknowledged. Twice the
worst queues that links have; and a proxy acknowledges for a worker that is long dead."""
_CROWD = 4
"""Times ``patience`` that a pong may take while other connections to the peer are heard: their data
may stand before it, for 25 s in a queue of 200 kB on 64 kbit/s, and nothing tells for how long."""
_LOOKS = 8
"""Times within ``patience`` that acknowledgements are looked at while a ping is out."""


class Verdict(Enum):
    """What to do now."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


@dataclass(frozen=True, slots=True)
class Others:
    """What other connections to the same peer know. Their queues hold this one up, too."""

    round_trip: float
    """The longest that one of them sees now, in seconds; 0: not known."""
    heard: float
    """When anything last came by one of them."""


ALONE = Others(0.0, -math.inf)
"""There are no others."""


class Liveness:
    """Decides when to ping and when the peer is dead. All times are in seconds, of one clock.

    :param quiet: after so long without a byte the peer is pinged.
    :param patience: so long after the ping, or after the last sign that it is under way, the peer
        is dead.
    :param longest: so long after the ping the peer is dead whatever is acknowledged.
    """

    __slots__ = (
        "_acknowledged",
        "_arrived",
        "_asked",
        "_end",
        "_longest",
        "_patience",
        "_quiet",
        "_sign",
        "due",
    )

    def __init__(self, quiet: float, patience: float, longest: float = MAX_PATIENCE) -> None:
        self._quiet = quiet
        self._patience = patience
        self._longest = max(longest, patience)
        self._asked: float | None = None  # when the ping that is waited for was due
        self._sign = 0.0  # the last sign that it is under way
        self._end: int | None = None  # where it ends in what this end has written; None: unknown
        self._arrived = False
        self._acknowledged: int | None = None
        #: When :meth:`step` is to be called next.
        self.due = 0.0

    @property
    def waiting(self) -> bool:
        """Whether a ping has not been answered yet."""
        return self._asked is not None

    def pinged(self, end: int | None) -> None:
        """Note that a ping was handed to the kernel.

        :param end: where it ends, in the count of ``acknowledged``; None: not known, or it is a
            proxy that acknowledges. Every acknowledgement then counts, up to ``longest``.
        """
        self._end = end
        self._arrived = False

    def step(
        self, now: float, heard: float, acknowledged: int | None, others: Others = ALONE
    ) -> Verdict:
        """Say what to do, and set :attr:`due`.

        :param heard: when anything last came from the peer.
        :param acknowledged: bytes that the peer's TCP has acknowledged; None: not known.
        :param others: may include this connection.
        """
        if self._asked is not None and heard >= self._asked:
            self._asked = None
        if self._asked is None:
            self.due = heard + self._quiet
            if now < self.due:
                return Verdict.WAIT
            self._asked = self._sign = now
            self._acknowledged = acknowledged
            self._plan(now, others)
            return Verdict.PING
        self._look(now, acknowledged)
        return Verdict.DEAD if self._plan(now, others) <= now else Verdict.WAIT

    def _look(self, now: float, acknowledged: int | None) -> None:
        before, self._acknowledged = self._acknowledged, acknowledged
        if acknowledged is None or before is None or self._arrived:
            return
        if acknowledged > before:
            self._sign = now
        self._arrived = self._end is not None and acknowledged >= self._end

    def _plan(self, now: float, others: Others) -> float:
        """Set :attr:`due`; return when the peer is dead unless a sign comes."""
        assert self._asked is not None
        patience = max(self._patience, 2 * others.round_trip)
        if others.heard > self._asked:
            patience = max(patience, _CROWD * self._patience)
        end = min(self._sign + patience, self._asked + self._longest)
        self.due = min(end, now + self._patience / _LOOKS)
        return end
