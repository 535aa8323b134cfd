"""The channels that there are, to which worker each of them goes, and what they have counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import trio

from ..carrier.liveness import Others
from ..carrier.neighbours import Neighbours
from ..protocol import SessionStats
from .channel import Channel
from .workers import KnownWorker, Workers

__all__ = ["Channels"]


class Channels:
    """Channels whose HELLO has come, the oldest first."""

    def __init__(self, workers: Workers) -> None:
        #: Those that channels go to, and which of them is in use.
        self.workers = workers
        self._ready: list[Channel] = []
        self._worker_of: dict[Channel, KnownWorker] = {}  # of those, too, that are not ready yet
        self._neighbours = Neighbours(
            lambda: ((self._worker_of[each], each.connection) for each in self._ready)
        )
        self._totals = SessionStats()
        self._wire_in = self._wire_out = 0

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._ready)

    def __len__(self) -> int:
        return len(self._ready)

    def __contains__(self, channel: object) -> bool:
        return channel in self._ready

    # what becomes of them

    def opened(self, channel: Channel, worker: KnownWorker) -> None:
        """Take note of where a channel goes, before it runs."""
        self._worker_of[channel] = worker

    def add(self, channel: Channel) -> None:
        """Take note that the HELLO of a channel has come."""
        self._ready.append(channel)

    def ended(self, channel: Channel) -> None:
        """Forget a channel that has ended, and add up what it counted."""
        if channel in self._ready:
            self._ready.remove(channel)
            self._totals.add(channel.session.stats)
            self._wire_in += channel.bytes_received
            self._wire_out += channel.bytes_sent
        del self._worker_of[channel]

    # which there are

    def worker_of(self, channel: Channel) -> KnownWorker:
        """Return the worker that a channel goes to."""
        return self._worker_of[channel]

    @property
    def up(self) -> bool:
        """Whether there is one now, with a WebSocket."""
        for channel in self._ready:  # (each datagram asks: a generator would cost twice as much)
            if channel.lost_since is None:
                return True
        return False

    @property
    def usable(self) -> bool:
        """Whether there is one that takes new streams, now or when one has ended."""
        return any(not each.going_away and each.lost_since is None for each in self._ready)

    def live(self, channel: object) -> bool:
        """Whether a channel is among them, and has a WebSocket."""
        for each in self._ready:
            if each is channel:
                return each.lost_since is None
        return False

    def standing(self, worker: KnownWorker, besides: Channel | None = None) -> list[Channel]:
        """Return those to a worker that take new streams, now or later."""
        return [
            each
            for each in self._ready
            if not (each.going_away or each.shut_out or each is besides)
            and self._worker_of[each] is worker
        ]

    def primary(self) -> Channel | None:
        """Return the one for datagrams and requests: the oldest to the worker that is in use.

        Of those that have a WebSocket; there may be another only, or one that is going away.
        """
        in_use = self.workers.in_use
        other = leaving = None
        for each in self._ready:
            if each.lost_since is not None:
                continue
            if each.going_away:
                leaving = leaving or each
            elif self._worker_of[each] is in_use:
                return each
            else:
                other = other or each
        return other or leaving

    @property
    def worker(self) -> KnownWorker:
        """The worker of the primary one; without one, that which is tried first."""
        primary = self.primary()
        return self.workers.in_use if primary is None else self._worker_of[primary]

    def have_worker(self, worker: KnownWorker) -> bool:
        """Whether one that has a WebSocket goes to a worker."""
        return any(
            there is worker and each.lost_since is None for each, there in self._worker_of.items()
        )

    # what is known of them

    def path(self, worker: KnownWorker) -> Others:
        """Return what the channels to a worker know of the path to it."""
        return self._neighbours.of(worker)

    @property
    def slowness(self) -> float:
        """The longest round trip of one of them now, in seconds, queues included; 0: not known."""
        return max(self.path(worker).round_trip for worker in self.workers.all)

    def stats(self) -> dict[str, int]:
        """Return counters since the start, and gauges."""
        totals = replace(self._totals)
        wire_in, wire_out = self._wire_in, self._wire_out
        for channel in self._ready:
            totals.add(channel.session.stats)
            wire_in += channel.bytes_received
            wire_out += channel.bytes_sent
        return asdict(totals) | {
            "wire_in": wire_in,
            "wire_out": wire_out,
            "channels": len(self._ready),
            "channels_resuming": sum(each.lost_since is not None for each in self._ready),
            "unacknowledged": sum(each.session.unacknowledged for each in self._ready),
            "streams": sum(len(channel.streams) for channel in self._ready),
            "worker_switches": self.workers.switches,
        }

    def known_workers(self) -> list[dict[str, Any]]:
        """Return what is known of the workers; see :meth:`~.tunnel.Tunnel.workers`."""
        in_use = self.worker
        carrying = [self._worker_of[channel] for channel in self._ready]
        return [
            {
                "worker": str(each),
                "in_use": each is in_use,
                "channels": carrying.count(each),
                "connect_seconds": each.connect_time,
                "problem": "" if each.well else each.problem,
            }
            for each in self.workers.all
        ]

    def known_sessions(self) -> list[dict[str, Any]]:
        """Return what is known of the sessions; see :meth:`~.tunnel.Tunnel.sessions`."""
        now = trio.current_time()
        return [
            {
                "worker": str(self._worker_of[channel]),
                "seconds": now - channel.since,
                "resumes": channel.session.resumes,
                "resumable": channel.session.resume_seconds,
                "lost_seconds": None if channel.lost_since is None else now - channel.lost_since,
                "round_trip": channel.session.round_trip,
                "unacknowledged": channel.session.unacknowledged,
                "streams": len(channel.streams),
            }
            for channel in self._ready
        ]
