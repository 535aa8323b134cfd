"""A token's bytes a second: how fast its streams are served, and which datagrams pass.

Streams are held up where they are held up anyhow, by credit and by reading the far end later, so
nothing is queued for the limit: control frames, DNS and pings of the same session pass at once.
Datagrams over the limit are dropped, as a link of that rate would.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import trio

from ..protocol import Buffer, Source, WorkerSession, datagrams_of

__all__ = ["Bucket", "RateLimit", "limit_session"]

_BURST = 0.25
"""Seconds' worth of bytes that may pass at once after a silence."""
_MIN_BURST = 16 * 1024
_TICK = 0.02
"""Seconds between two looks at whether those who wait may go on."""
_DATAGRAM_DEBT = 2
"""Datagrams pass until this many bursts are owed: streams, which are many bytes at once, would
otherwise keep them out for good."""


class Bucket:
    """A token bucket whose level may fall below zero: what has come is paid for later."""

    __slots__ = ("_burst", "_clock", "_level", "_then", "rate")

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._then = clock()
        self.set_rate(rate)
        self._level = self._burst

    def set_rate(self, rate: int) -> None:
        """Fill by ``rate`` bytes a second from now on."""
        self.rate = rate
        self._burst = max(rate * _BURST, float(_MIN_BURST))

    @property
    def burst(self) -> float:
        """Bytes that it holds at most."""
        return self._burst

    def level(self) -> float:
        """Return the bytes that may pass now; below zero: those that are owed."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._then) * self.rate)
        self._then = now
        return self._level

    def take(self, size: int) -> None:
        """Count bytes that have passed."""
        self._level -= size


class RateLimit:
    """What one token may move in a second, up and down each, over all its sessions.

    :param nursery: where a task runs while something waits; known once there is a session.
    """

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self.nursery = nursery
        self.up = Bucket(rate, clock)
        self.down = Bucket(rate, clock)
        self._later: tuple[tuple[Bucket, deque[tuple[int, Callable[[], None]]]], ...] = (
            (self.up, deque()),
            (self.down, deque()),
        )
        self._running = False

    @property
    def rate(self) -> int:
        """Bytes a second."""
        return self.up.rate

    def set_rate(self, rate: int) -> None:
        """Change it."""
        self.up.set_rate(rate)
        self.down.set_rate(rate)

    @property
    def window(self) -> int:
        """Bytes of credit that a stream may begin with: what comes before the limit is felt."""
        return int(max(4096, min(self.up.burst, 1 << 18)))

    def when_up(self, act: Callable[[], None], size: int = 0) -> None:
        """Call ``act`` when bytes may go up, in the order of these calls; at once if they may.

        :param size: bytes that are counted then.
        """
        self._when(0, act, size)

    def when_down(self, act: Callable[[], None]) -> None:
        """Likewise for bytes down, but never at once."""
        self._when(1, act, 0, at_once=False)

    def _when(
        self, which: int, act: Callable[[], None], size: int, *, at_once: bool = True
    ) -> None:
        bucket, later = self._later[which]
        if at_once and not later and bucket.level() >= 0:
            bucket.take(size)
            act()
            return
        later.append((size, act))
        if not self._running:
            assert self.nursery is not None
            self._running = True
            self.nursery.start_soon(self._let_go_on)

    async def wait_up(self) -> None:
        """Wait until bytes may go up: what a new stream brings at once is paid for by those that
        come after it."""
        may = trio.Event()
        self.when_up(may.set)
        await may.wait()

    async def _let_go_on(self) -> None:
        try:
            while any(later for _, later in self._later):
                await trio.sleep(_TICK)
                for bucket, later in self._later:
                    for _ in range(len(later)):
                        if bucket.level() < 0:
                            break
                        size, act = later.popleft()
                        bucket.take(size)
                        act()
        finally:
            self._running = False


def limit_session(session: WorkerSession, rate: RateLimit) -> WorkerSession:
    """Return a session whose streams and datagrams keep to a rate; all else is the same."""
    return cast(WorkerSession, _LimitedSession(session, rate))


class _LimitedSession:
    """Passes everything on to a session, with what moves bytes slowed down."""

    def __init__(self, session: WorkerSession, rate: RateLimit) -> None:
        self._session = session
        self._rate = rate
        self._owed: dict[int, int] = {}  # by stream: what was passed on, and is told in its turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def accept(self, stream: int, source: Source) -> None:
        """See :class:`~zks_lwip.protocol.WorkerSession`."""
        self._session.accept(stream, _LimitedSource(self._session, stream, source, self._rate))

    def bind(
        self, stream: int, target: Any, handle: int, *, pull: bool = False, push: bool = False
    ) -> None:
        """Do nothing: what C moves would not be held up."""

    def consumed(self, stream: int, size: int) -> None:
        """See :class:`~zks_lwip.protocol.AnySession`."""
        owed = self._owed
        if stream in owed:  # one entry for each stream, however small the pieces are
            owed[stream] += size
            return
        owed[stream] = size
        self._rate.when_up(partial(self._tell_consumed, stream))

    def _tell_consumed(self, stream: int) -> None:
        size = self._owed.pop(stream)
        self._rate.up.take(size)
        self._session.consumed(stream, size)

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """See :class:`~zks_lwip.protocol.AnySession`."""
        if not datagram_passes(self._rate.down, len(payload)):
            self._session.stats.datagrams_dropped += 1
            return False
        return self._session.send_udp(association, host, port, payload)

    def send_udp_frames(self, frames: Buffer, count: int, association: int = 0) -> bool:
        """See :class:`~zks_lwip.protocol.AnySession`."""
        bucket = self._rate.down
        passing = [
            frame
            for datagram, frame in datagrams_of(memoryview(frames))
            if datagram_passes(bucket, len(datagram.payload))
        ]
        self._session.stats.datagrams_dropped += count - len(passing)
        if not passing:
            return False
        return self._session.send_udp_frames(b"".join(passing), len(passing), association)


class _LimitedSource:
    """A stream's source that gives no more than the rate allows."""

    __slots__ = ("_rate", "_session", "_source", "_stream", "_waits")

    def __init__(
        self, session: WorkerSession, stream: int, source: Source, rate: RateLimit
    ) -> None:
        self._session = session
        self._stream = stream
        self._source = source
        self._rate = rate
        self._waits = False

    def pull_into(self, view: memoryview) -> int | None:
        """See :class:`~zks_lwip.protocol.Source`."""
        bucket = self._rate.down
        allowed = int(bucket.level())
        if self._waits or allowed <= 0:
            if not self._waits:
                self._waits = True
                self._rate.when_down(self._go_on)
            return 0
        size = self._source.pull_into(view[:allowed])
        bucket.take(size or 0)
        return size

    def broke(self, errno: int, *, pushing: bool) -> None:
        """See :class:`~zks_lwip.protocol.Source`."""
        self._source.broke(errno, pushing=pushing)

    def _go_on(self) -> None:
        self._waits = False
        self._session.mark_ready(self._stream)


def datagram_passes(bucket: Bucket, size: int) -> bool:
    """Count a datagram, or return False: it is to be dropped."""
    if bucket.level() < -_DATAGRAM_DEBT * bucket.burst:
        return False
    bucket.take(size)
    return True
