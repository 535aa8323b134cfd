"""What waits to leave besides DATA, at either end of a v1 session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ...errors import ProtocolError
from ..frames import Frame
from ..wakeup import Wakeup

__all__ = ["OutboxV1"]

_MAX_PONGS = 4096
_MAX_WAITING = 4 << 20
"""Bytes of waiting frames over which a peer that asks for more does not read."""
_COST = 64
"""Bytes of memory that a waiting frame takes besides its own."""


class OutboxV1:
    """Frames that wait to be sent, each of which becomes one message.

    :param hold_up_at: bytes over which the peer is held up until half of them have left; None: it
        never is.
    :param on_relief: called when the peer is no longer held up.
    """

    def __init__(
        self,
        wakeup: Wakeup,
        *,
        hold_up_at: int | None = None,
        on_relief: Callable[[], None] | None = None,
    ) -> None:
        self.size = 0
        """Bytes that wait, with what they cost besides."""
        self.holds_up = False
        """So much waits that nothing more is to be read of the peer."""
        self._wakeup = wakeup
        self._hold_up_at = hold_up_at
        self._on_relief = on_relief
        self._frames: deque[tuple[bytes, bool]] = deque()  # and: answers a query in flight
        self._pongs = 0

    def __bool__(self) -> bool:
        return bool(self._frames or self._pongs)

    @property
    def has_frames(self) -> bool:
        """Something else than PONG waits."""
        return bool(self._frames)

    def clear(self) -> None:
        """Drop all that waits."""
        self._frames.clear()
        self.size = self._pongs = 0
        self.holds_up = False

    def send(self, frame: Frame, *, answer: bool = False) -> None:
        """Send a frame behind those that wait.

        :param answer: it is the answer to a query in flight.
        """
        data = frame.encode()
        self._frames.append((data, answer))
        self.size += len(data) + _COST
        if self._hold_up_at is not None and self.size > self._hold_up_at:
            self.holds_up = True
        self._wakeup()

    def pong(self) -> None:
        """Answer a PING.

        :raises ProtocolError: if too many wait for that.
        """
        if self._pongs >= _MAX_PONGS:
            raise ProtocolError(f"PING: {_MAX_PONGS} of them wait for their PONG")
        self._pongs += 1
        self._wakeup()

    def check_read(self, name: str) -> None:
        """Check, before one more answer waits, that the peer reads them.

        :param name: the frame that asks for one, for the error.
        :raises ProtocolError: if it does not.
        """
        if self.size > _MAX_WAITING:
            raise ProtocolError(f"{name}: the peer asks, but does not read the answers")

    def take(self) -> tuple[bytes, bool] | None:
        """Take the next frame, with whether it answers a query in flight; None if none waits."""
        if self._pongs:
            self._pongs -= 1
            return b"\x06", False
        if not self._frames:
            return None
        frame, answer = self._frames.popleft()
        self.size -= len(frame) + _COST
        if self.holds_up and self._hold_up_at is not None and self.size <= self._hold_up_at // 2:
            self.holds_up = False
            if self._on_relief is not None:
                self._on_relief()
        return frame, answer
