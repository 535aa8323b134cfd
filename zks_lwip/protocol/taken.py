"""The counted frames that came and were taken, and when an ACK for them is due (PROTOCOL.md §6)."""

from __future__ import annotations

from collections.abc import Callable

from .frames import encode_ack
from .wakeup import Wakeup

__all__ = ["ACK_DELAY", "MAX_ACK_BYTES", "Taken"]

MAX_ACK_BYTES = 1 << 20
"""Bytes that come before they are acknowledged, at most, whatever the peer can keep. Each ACK that
leaves alone costs both ends a pass through their tasks; what is kept for longer is no longer in the
processor's cache when its memory is used again."""
ACK_DELAY = 0.1
"""Seconds after which they are, however few they are."""


class Taken:
    """Counts the peer's counted frames."""

    __slots__ = (
        "_bytes",
        "_clock",
        "_distance",
        "_wakeup",
        "active",
        "count",
        "deadline",
        "due",
        "said",
    )

    def __init__(self, clock: Callable[[], float], wakeup: Wakeup) -> None:
        self._clock = clock
        self._wakeup = wakeup
        self.active = False
        """The peer keeps what it sends until it is acknowledged."""
        self.count = 0
        """Counted frames taken so far."""
        self.said = 0
        """How many of them the peer was told of."""
        self.due = False
        """An ACK has to leave now."""
        self.deadline: float | None = None
        """When an ACK is due at the latest, by the clock."""
        self._bytes = 0
        self._distance = MAX_ACK_BYTES

    def begin(self, active: bool, distance: int) -> None:
        """Take up what the peer's HELLO says.

        :param active: see :attr:`active`.
        :param distance: bytes that may come before they are acknowledged, as far as it goes.
        """
        self.active = active
        self._distance = min(distance, MAX_ACK_BYTES)

    def clear(self) -> None:
        """Count from 0, as at the start of a session."""
        self.count = 0
        self.say()

    def came(self, size: int) -> None:
        """Note that counted frames of a message of ``size`` bytes were taken."""
        if not self.active or self.count == self.said:
            return
        self._bytes += size
        if self._bytes >= self._distance:
            self.due = True
            if not self._wakeup.told:
                self._wakeup()
        elif self.deadline is None:
            self.deadline = self._clock() + ACK_DELAY

    def is_due(self) -> bool:
        """Return whether an ACK has to leave now, with nothing else if need be."""
        return self.due or (self.deadline is not None and self._clock() >= self.deadline)

    def say(self) -> int:
        """Return the count, which the peer is told now."""
        self.said = self.count
        self._bytes = 0
        self.due = False
        self.deadline = None
        return self.count

    def ack(self) -> bytes:
        """Return an ACK, which is sent now."""
        return encode_ack(self.say())
