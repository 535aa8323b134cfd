"""What becomes of channels, and what that means: for their workers, who waits, and the log.

A channel that is lost or cannot be opened is a failure of its worker where no other channel to it
is up. Then the worker is left alone for a while, longer each time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from ..carrier.link import LinkEnd
from ..errors import ZksError
from ..net.backoff import Backoff
from ..protocol import Hello
from .availability import Downtime
from .channel import Channel
from .channels import Channels
from .options import TunnelConfig
from .workers import KnownWorker, Workers, is_of_no_worker

__all__ = ["Delay", "Outcomes"]

_log = logging.getLogger(__name__)

_STABLE = 10.0
"""Seconds after which a channel counts as a success."""
_FORGOTTEN = 60.0
"""Seconds after which what has failed does not delay other attempts any more."""


class Delay:
    """When to open channels besides others again, after that has failed or was of no use."""

    def __init__(self, first: float, most: float) -> None:
        self._backoff = Backoff(first, most)
        self._last = -math.inf
        self.over = -math.inf

    def failed(self, now: float) -> None:
        """Count a failure."""
        if now - self._last > _FORGOTTEN:
            self._backoff.succeeded()
        self._last = now
        self.over = max(self.over, now + self._backoff.failed())


class Outcomes:
    """Is told what becomes of the channels of a tunnel.

    :param on_failed: called when a worker has failed.
    """

    def __init__(
        self, config: TunnelConfig, channels: Channels, on_failed: Callable[[], None]
    ) -> None:
        #: Since when there is, or is not, a channel with a WebSocket.
        self.downtime = Downtime(config.grace)
        #: Set while there is one; another event after each break.
        self.up = trio.Event()
        #: Set when there is one for the first time, or will never be: then for :attr:`fatal`.
        self.first = trio.Event()
        self.fatal: ZksError | None = None
        #: The tunnel has been up: nothing is fatal any more.
        self.started = False
        #: The HELLO that came last.
        self.last_peer: Hello | None = None
        #: When channels may be opened besides another.
        self.more = Delay(*config.backoff)
        self.counters = {"channels_opened": 0, "channels_lost": 0, "connect_failures": 0}
        self.counters |= {"sessions_resumed": 0, "sessions_lost": 0, "streams_moved": 0}
        self._channels = channels
        self._told = logging.INFO  # the level that the break was told at
        self._said: dict[KnownWorker, str] = {}  # what was said of each in this break
        self._one_stream = config.version.one_stream
        self._on_failed = on_failed

    @property
    def _workers(self) -> Workers:
        return self._channels.workers

    @property
    def outage(self) -> float | None:
        """Since when there is no channel (``trio.current_time``); None: there is, or never was."""
        return self.downtime.changed if self.started and not self._channels.up else None

    # of attempts to open one

    def not_connected(self, worker: KnownWorker, error: ZksError) -> None:
        """A worker could not be connected to."""
        self.counters["connect_failures"] += 1
        if self._channels.standing(worker) and len(self._workers) == 1:
            self.more.failed(trio.current_time())
            _log.info("%s Another channel is still up.", error)
            return
        told = worker.error is not None
        carries = (worker.well or worker.full) and self._channels.have_worker(worker)
        self._failed(worker, error)
        worker.full = carries and getattr(error, "answered", False)
        fatal = error if is_of_no_worker(error) else self._workers.hopeless
        if fatal is not None and not self.started:
            self.fatal = fatal
            self.first.set()
        elif worker.error is not None and len(self._workers) > 1:
            level = logging.INFO if told else logging.WARNING
            _log.log(level, "%s The other workers are used.", error)
        else:
            self._try_again(worker, str(error))

    def passed_over(self, worker: KnownWorker) -> None:
        """Another worker was faster, although it was asked later."""
        why = f"worker {worker} does not answer in time."
        self._failed(worker, why)
        _log.info("%s Another one does.", why)

    def silent_at_start(self, worker: KnownWorker) -> None:
        """A worker has upgraded, but does not say HELLO."""
        why = f"worker {worker} takes connections, but does not begin a session in time."
        self._failed(worker, why)
        self._try_again(worker, why)

    # of those that there are

    def ready(self, channel: Channel) -> None:
        """The HELLO of a channel has come: it is one of them from now on."""
        worker = self._channels.worker_of(channel)
        self._workers.opened(worker, trio.current_time(), alone=not self._channels)
        if self._one_stream and self._channels:  # most live for one stream only, and prove as much
            worker.steady()
        self._channels.add(channel)
        self.counters["channels_opened"] += 1
        self.last_peer = channel.session.peer
        self._note_up(worker)
        self.first.set()

    def lost(self, channel: Channel, why: str) -> None:
        """A channel has lost its WebSocket, and is being resumed. ``why`` is a clause."""
        self._look_whether_down()
        worker = self._channels.worker_of(channel)
        if len(self._workers) > 1:  # new streams go to another if it is not resumed at once
            worker.doubt(f"lost a channel to the worker: {why}.", trio.current_time())
        if self._channels.up:
            _log.info("lost a channel to the worker: %s. Resuming it.", why)
        else:
            self.downtime.problem = f"lost the channel to the worker: {why}."
            self._warn("%s Resuming its session.", self.downtime.problem)

    def resumed(self, channel: Channel, fresh: bool) -> None:
        """A channel has another WebSocket; ``fresh``: for another session."""
        worker = self._channels.worker_of(channel)
        others = (each for each in self._channels if each is not channel)
        alone = all(each.lost_since is not None for each in others)
        self._workers.opened(worker, trio.current_time(), alone=alone)
        self.last_peer = channel.session.peer
        if fresh:
            self.counters["sessions_lost"] += 1
            _log.warning("the worker did not hold the session any more: its connections were reset")
        else:
            self.counters["sessions_resumed"] += 1
            _log.info("a session was resumed, with %d connections", len(channel.streams))
        self._note_up(worker)

    def not_resumed(self, channel: Channel, error: ZksError, delay: float | None) -> None:
        """An attempt to resume a channel has failed; the next follows after ``delay`` seconds."""
        self.counters["connect_failures"] += 1
        worker = self._channels.worker_of(channel)
        if delay is not None and worker.well and len(self._workers) > 1:
            self._failed(worker, error)  # a refusal: there is nothing to wait for
        why = str(error)
        again = "" if delay is None else f" Trying again in {delay:.1f} s."
        if channel.lost_since is None:
            _log.debug("beside a silent WebSocket: %s%s", why, again)
        elif self._channels.up:
            _log.info("%s%s Another channel is up.", why, again)
        elif why != self.downtime.problem:  # silence says the same many times
            self.downtime.problem = why
            self._warn("%s%s", why, again or " Trying on.")

    def silent(self, channel: Channel, silent: bool) -> None:
        """Nothing is heard from a worker; or something is again."""
        worker = self._channels.worker_of(channel)
        if not silent:
            worker.succeeded(trio.current_time())
        elif len(self._workers) > 1:  # as where a WebSocket is lost
            worker.doubt("nothing is heard from the worker.", trio.current_time())

    def goes_away(self, channel: Channel) -> None:
        """A worker has said that a channel takes no new streams any more."""
        now = trio.current_time()
        worker = self._channels.worker_of(channel)
        if now - channel.since < _STABLE:  # the next one may do the same
            self._failed(worker, "the worker is going away.")

    def ended(self, channel: Channel, end: LinkEnd) -> None:
        """A channel has ended; it is still among them."""
        if end.ours:
            _log.debug("closed a channel that was not needed")
            return
        self.counters["channels_lost"] += 1
        # Closed with 1000, one has ended in order
        self.counters["sessions_lost"] += channel.session.resume_seconds > 0 and end.status != 1000
        was_one = channel in self._channels  # or it has ended together with its upgrade
        if self._one_stream and was_one and channel is not self._channels.primary():
            _log.info("a stream's channel was lost: %s", end.reason)
            return
        now, worker = trio.current_time(), self._channels.worker_of(channel)
        if now - channel.since >= _STABLE:
            worker.steady()
        what = "the worker broke the protocol" if end.error else "lost a channel to the worker"
        # A breach of the protocol, found by whichever end, is never usual.
        level = logging.WARNING if end.error or end.status == 1002 else logging.INFO
        why = f"{what}: {end.reason}."
        if self._channels.standing(worker, besides=channel):
            self.more.failed(now)
        else:
            self._failed(worker, why)
        self._try_again(worker, why, channel, level)

    def forgotten(self) -> None:
        """A channel that has ended is not among them any more."""
        self._look_whether_down()

    def _look_whether_down(self) -> None:
        if self.up.is_set() and not self._channels.up:
            self.up = trio.Event()
            self.downtime.up = False

    def _note_up(self, worker: KnownWorker) -> None:
        """Take note that a channel is up."""
        if self.started and not self.up.is_set():
            _log.log(self._told, "the tunnel to %s is up again", worker)
        self._told = logging.INFO
        self._said.clear()
        self.up.set()
        self.downtime.up = True

    def _warn(self, text: str, *values: object) -> None:
        """Warn of a break; its end is then told at the same level."""
        self._told = logging.WARNING
        _log.warning(text, *values)

    def _failed(self, worker: KnownWorker, why: ZksError | str) -> None:
        worker.failed(why, trio.current_time())
        self._on_failed()

    def _try_again(
        self,
        worker: KnownWorker,
        why: str,
        lost: Channel | None = None,
        level: int = logging.INFO,
    ) -> None:
        now = trio.current_time()
        if all(channel.going_away or channel is lost for channel in self._channels):
            self.downtime.problem = why
            same = self._said.get(worker) == why
            self._said[worker] = why
            said = f"Still no connection to worker {worker}." if same else why
            if self._workers.due() <= now:
                self._warn("%s Trying another worker.", said)
            else:
                self._warn("%s Trying again in %.1f s.", said, self._workers.due() - now)
        else:
            _log.log(level, "%s Another channel is still up.", why)
