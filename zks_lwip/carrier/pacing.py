"""How large a message may be: so large that it takes 10 ms to leave, and no larger.

A frame that is wanted at once (a keystroke, a DNS answer) waits for the message before it, and for
what the kernel holds unsent. Both are kept at ten milliseconds of what the path was seen to take.
Where the path is what limits, messages are half as large, and each is made when the kernel has room
for it (Linux: once it holds less than half of what it may), so that none waits.

While the kernel had nothing to send, it was this end that limited: it had other sessions to serve,
or too little CPU. That time says nothing about the path and is not counted. (If it were, the
messages of a session that gets little of each turn would become smaller, and it would get still
less.)
"""

from __future__ import annotations

import socket
import sys

import trio

__all__ = ["MAX_LIMIT", "MIN_LIMIT", "TCP_NOTSENT_LOWAT", "Pacer"]

MIN_LIMIT = 16 * 1024
MAX_LIMIT = 256 * 1024
"""Bytes of a message."""

_TARGET = 0.010
"""Seconds that one message may take."""
_WINDOW = 0.020
"""Seconds of sending without a pause that make a measurement."""
_UNBLOCKED = 0.001
"""Seconds of a send below which it did not wait for the path."""
_LATE = 0.002
"""Seconds without anything to send from which on this end is taken to be late. (The kernel's clock
ticks every 1 to 10 ms: it may have done so between its last byte and the look.)"""

# Python 3.11 does not name it on every system that has it (tcp(7); xnu's netinet/tcp.h).
TCP_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", {"linux": 25, "darwin": 0x201}.get(sys.platform)
)


class Pacer:
    """Measures the drain rate of a connection; ``limit`` is the size of its next message in bytes.

    ``carrier``, if given, is told by ``TCP_NOTSENT_LOWAT`` to hold no more than that unsent.
    """

    __slots__ = ("_bytes", "_carrier", "_last", "_since", "_told", "limit", "rate")

    def __init__(self, carrier: trio.socket.SocketType | None = None) -> None:
        self.limit = MIN_LIMIT
        #: Bytes a second that the path took when it was last kept busy; 0: not known yet.
        self.rate = 0.0
        self._carrier = carrier if TCP_NOTSENT_LOWAT is not None else None
        self._told = 0
        self._since: float | None = None
        self._last = 0.0  # when the message before was handed over
        self._bytes = 0
        self._tell()

    def is_late(self, now: float) -> bool:
        """Return whether what is sent now follows something, but not closely. The carrier is to be
        asked then what it had to send meanwhile."""
        return self._since is not None and now - self._last >= _LATE

    def idle(self) -> None:
        """There is nothing to send: what comes after this pause says nothing about the path."""
        self._since = None

    def sent(
        self,
        size: int,
        begin: float,
        end: float,
        *,
        full: bool = False,
        idle: float = 0.0,
        late: float = 0.0,
    ) -> None:
        """Note that a message of ``size`` bytes was handed over between two times, in seconds.

        :param full: it was made when the carrier had room for it, so that it says nothing that
            it took it at once.
        :param idle: seconds for which the carrier had had nothing to send before it was given the
            last of this.
        :param late: seconds before ``begin`` for which it had had nothing to send.
        """
        if self._since is None:
            self._since, self._bytes = begin, 0
        else:
            self._since += min(late, begin - self._last)
        self._last = end
        self._bytes += size
        idle = min(idle, end - begin)
        self._since += idle
        elapsed = end - self._since
        if elapsed >= _WINDOW:
            measured = self._bytes / elapsed
            # A fall counts at once: it costs the latency of every stream. A rise is averaged in.
            self.rate = min(measured, (self.rate + measured) / 2) if self.rate else measured
            self._since = None
            self._set(int(self.rate * _TARGET))
        elif end - begin - idle < _UNBLOCKED:
            late = idle >= _LATE
            if (late or not full) and size >= self.limit // (4 if full else 2):
                self._set(self.limit * 2)

    def _set(self, limit: int) -> None:
        self.limit = min(max(limit, MIN_LIMIT), MAX_LIMIT)
        if not self._told // 2 < self.limit < self._told * 2:
            self._tell()

    def _tell(self) -> None:
        self._told = self.limit
        if self._carrier is not None:
            assert TCP_NOTSENT_LOWAT is not None
            try:
                self._carrier.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, self.limit)
            except OSError:  # a closed socket, or not TCP: there is nothing to tune
                self._carrier = None
