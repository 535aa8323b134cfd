"""The channels of a tunnel: opened, given streams, closed, replaced.

There is one channel as long as that is enough; another is opened when all are full, and closed
when it has been idle (PROTOCOL.md §3). A stream that a channel refuses for want of room goes to
another. Lost channels are replaced, with growing delays; what is asked for meanwhile waits for a
bounded time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import trio

from ..errors import ZksError
from ..protocol import Code, Hello, Settings
from .channel import Channel
from .channels import Channels
from .health import HealthChecks
from .idle import IdleChannels
from .lingering import LingeringStreams
from .opener import Opener
from .options import TunnelConfig
from .outcomes import Outcomes
from .peers import TunnelStream
from .placement import MAX_AT_ONCE, Placement
from .requests import Requests
from .udp import Associations
from .waiting import WaitingStreams
from .workers import KnownWorker, Workers

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

_ONE_STREAM_FACTOR = 32
"""Times as many channels may be open, where each carries one stream."""
_ONE_STREAM_AT_ONCE = 128
"""Channels of one stream that may be opening at the same time."""
_MAX_REFUSALS = 2
"""Refusals of a stream after which it does not wait for another channel, if the last one had
nothing else to carry: none helps."""
_DATAGRAM_PATIENCE = 1.0
"""Seconds within which a channel that was lost must be resumed for its associations to stay."""
_HELLO_PATIENCE = 1.0
"""Seconds, at least, for which the HELLO of one of several workers is waited for before another is
tried beside it; its part of the upgrade has been quick."""
_STOPPED = "the tunnel was stopped"


class Pool:
    """The channels of a tunnel, and what waits for one.

    Everything but :meth:`run` is for use while that runs, in the same trio thread.
    """

    def __init__(self, config: TunnelConfig, settings: Settings | None = None) -> None:
        #: What it was told; see :meth:`configure`.
        self.config = config
        #: Those that there are.
        self.channels = Channels(Workers(config))
        #: What becomes of them.
        self.outcomes = Outcomes(config, self.channels, lambda: self._checks.look_again())
        #: What opens them.
        self.opener = Opener(
            config,
            self.channels,
            settings,
            on_failed=self.outcomes.not_connected,
            on_passed_over=self.outcomes.passed_over,
        )
        #: Whose datagrams the primary channel carries.
        self.associations = Associations(
            self.channels.primary, self._carries_datagrams, self.channels.worker_of
        )
        #: Whose questions the primary channel carries.
        self.requests = Requests(
            self.channels.primary,
            lambda: self.outcomes.up.wait(),
            self.channels.live,
            timeout=config.dns_timeout,
            most=config.max_dns_queries,
        )
        self.on_datagram = self.associations.on_datagram
        self.on_datagrams = self.associations.on_datagrams
        self.on_udp_error = self.associations.on_udp_error
        self.on_udp_closed = self.associations.on_udp_closed
        self.on_dns_answer = self.requests.on_dns_answer
        self.on_echo_reply = self.requests.on_echo_reply
        self._one_stream = config.version.one_stream
        self._most_channels = config.max_channels
        self._placement: Placement[Channel] = Placement(config.channels, MAX_AT_ONCE)
        if self._one_stream:
            self._most_channels *= _ONE_STREAM_FACTOR
            self._placement = Placement(at_once=_ONE_STREAM_AT_ONCE)
        self._channels_opening = 0
        self._greeting: set[Channel] = set()  # those of them that are open, but for HELLO
        self._waiting = WaitingStreams(config.max_waiting)
        self._lingering = LingeringStreams(self.channels.live)
        self._idle = IdleChannels(
            self.channels, self._placement, self.associations, one_stream=self._one_stream
        )
        self._changed = trio.Event()
        self._checks = HealthChecks(
            self.workers,
            self.opener.context,
            carries=self.channels.have_worker,
            wanted=lambda: self.outcomes.up,
            changed=lambda: self._changed.set(),
            slowness=lambda: self.channels.slowness,
        )
        self._stopped = False

    # what is known

    @property
    def peer(self) -> Hello | None:
        """The HELLO of the worker, the last known one while there is no channel."""
        primary = self.channels.primary()
        return self.outcomes.last_peer if primary is None else primary.session.peer

    def stats(self) -> dict[str, Any]:
        """Return counters since the start, and gauges (``channels``, ``streams``, ``waiting``)."""
        return (
            self.channels.stats()
            | self.outcomes.counters
            | {
                "streams_refused_here": self._waiting.refused,
                "waiting": len(self._waiting),
                "associations": len(self.associations),
                "datagrams_malformed": self.associations.malformed,
                "datagrams_strange": self.associations.strange,
            }
        )

    @property
    def workers(self) -> Workers:
        """Those that channels go to."""
        return self.channels.workers

    def configure(self, config: TunnelConfig) -> None:
        """Hold to ``config`` for the channels that are opened from now on."""
        self.config = config
        self.channels.workers = Workers(config)

    def renew(self, tokens: Sequence[str | None]) -> None:
        """Use other tokens, one for each worker, and read ``ca_file`` again.

        Sessions go on; what is opened from now on uses the new ones.

        :raises ConfigError: ``ca_file`` cannot be used; nothing is changed.
        """
        context = self.opener.read_context()
        for worker, token in zip(self.workers.all, tokens, strict=True):
            worker.renew(token)
        self.opener.context = context
        self._checks.renew(context)
        for channel in self.channels:
            channel.renew(self.channels.worker_of(channel).config, context)
        if not self.channels.up:
            self.retry()
        self._changed.set()

    # what is asked of it

    def open(self, stream: TunnelStream, now: float) -> None:
        """Give a new stream to a channel, now or when there is one with room.

        :param now: ``trio.current_time``.
        """
        channel = None if self._waiting else self._choose(now)
        if self._stopped:
            stream.end(503, _STOPPED)
        elif channel is not None:
            self._connect(channel, stream, now)
            if max(len(self.channels), self.config.channels) > 1:  # there is more to look after
                self._changed.set()
        else:
            self._waiting.add(stream)
            self._changed.set()

    def forget(self, stream: TunnelStream) -> None:
        """Let go of a stream that was closed while it waited."""
        self._waiting.forget(stream)

    def linger(self, stream: TunnelStream) -> None:
        """Reset a stream that was closed here, unless it ends by itself in time."""
        self._lingering.add(stream, trio.current_time() + self.config.linger)
        self._changed.set()

    def reconnect(self, why: str) -> None:
        """Give up every WebSocket and open another at once: the network is not the same any more.

        Sessions go on where they can be resumed. A stream that waits for the tunnel waits ``grace``
        seconds from now.

        :param why: for the log.
        """
        _log.info("%s: connecting to the worker again", why)
        for channel in self.channels:
            channel.reconnect(why)
        self.retry()

    def retry(self) -> None:
        """If the tunnel is down, try now, not when the next attempt is due."""
        self.opener.give_up()
        for channel in self.channels:
            channel.retry()
        self.workers.try_now()
        self.outcomes.downtime.begin_again()
        self._changed.set()

    # running

    async def run(self, *, task_status: trio.TaskStatus[Hello]) -> None:
        """Keep a channel up until cancelled; see :meth:`~.tunnel.Tunnel.run`."""
        self.outcomes.downtime.up = False
        try:
            async with trio.open_nursery() as nursery:
                if len(self.workers) > 1:
                    await nursery.start(self._checks.run)
                nursery.start_soon(self._supervise, nursery)
                await self.outcomes.first.wait()
                if self.outcomes.fatal is None:
                    self.outcomes.started = True
                    assert self.peer is not None
                    task_status.started(self.peer)
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self._stopped = True
            self._waiting.end_all(503, _STOPPED)
        assert self.outcomes.fatal is not None
        raise self.outcomes.fatal

    async def _supervise(self, nursery: trio.Nursery) -> None:
        """Decide, whenever something has changed or is due, what to do about it."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            due = min(
                self._idle.close(now, self.config.idle_channel),
                self._lingering.end_late(now, self.config.linger),
                self._placement.measure(now),
                self._assign(now),
                self._open_lacking(now, nursery),
                self.workers.next_review,
            )
            with trio.move_on_at(due):
                await self._changed.wait()

    def _assign(self, now: float) -> float:
        """Give the streams that wait to channels that have room; end those that are late."""
        while self._waiting and (channel := self._choose(now)) is not None:
            self._connect(channel, self._waiting.take(), now)
        self._waiting.end_late(now)
        if not self._waiting:
            return self._waiting.due
        return min(self._waiting.due, self._placement.due(now))

    def _connect(self, channel: Channel, stream: TunnelStream, now: float) -> None:
        self._placement.placed(channel, stream, now)
        channel.connect(stream)

    def _choose(self, now: float) -> Channel | None:
        """Return the channel for a new stream: to the worker that is in use, if one has room."""
        # Where a channel carries one stream or the requests, the primary one carries the requests.
        primary = self.channels.primary() if self._one_stream else None
        in_use = self.channels.standing(self.channels.workers.in_use, besides=primary)
        channel = self._placement.choose(in_use, now)
        if channel is None and len(self.workers) > 1:
            for worker in self.workers.all:
                if worker is not self.workers.in_use and worker.settled(now) and channel is None:
                    others = self.channels.standing(worker, besides=primary)
                    channel = self._placement.choose(others, now)
        return channel

    def _carries_datagrams(self, channel: Channel) -> bool:
        if channel not in self.channels or channel.going_away:
            return False
        lost, worker = channel.lost_since, self.channels.worker_of(channel)
        if lost is None:
            there = worker.well or (worker.full and not channel.silent)
            return there or worker is self.workers.in_use
        return trio.current_time() < lost + _DATAGRAM_PATIENCE

    def _review(self) -> KnownWorker:
        """Return the worker that is in use, after another look."""
        before = self.workers.in_use
        in_use = self.workers.review(trio.current_time())
        if in_use is not before and self.outcomes.started:
            _log.info("new connections go to %s now, not to %s", in_use, before)
        for each in self.workers.all:
            if not each.well and each is not in_use:
                self._move_new(each)
        return in_use

    def _move_new(self, worker: KnownWorker) -> None:
        """Let streams and questions go elsewhere that a worker which does not answer was asked for
        in vain."""
        primary = self.channels.primary()
        for channel in self.channels.standing(worker):
            if channel.silent and channel is not primary:
                self.requests.lost(channel)
            for stream in channel.take_untouched() if channel.silent else ():
                stream.on_refused(Code.GOING_AWAY, "the worker does not answer")
                self.outcomes.counters["streams_moved"] += 1
                self._waiting.add(stream)
                self._changed.set()

    def _open_lacking(self, now: float, nursery: trio.Nursery) -> float:
        """Open the channels that are lacking; return when to look again."""
        in_use = self._review()
        standing = self.channels.standing(in_use)
        wanted = 1
        if standing:
            room = self._most_channels - len(self.channels)
            wanted = min(self._placement.lacking(standing, len(self._waiting), now), room)
        if self._channels_opening >= wanted:
            return math.inf
        next_dial = self.workers.due(any_of_them=not self.channels.usable)
        if standing:
            next_dial = max(next_dial, self.outcomes.more.over)
        if now < next_dial:
            return next_dial
        for _ in range(wanted - self._channels_opening):
            self._channels_opening += 1
            nursery.start_soon(self._run_channel, nursery)
        return math.inf

    async def _run_channel(self, nursery: trio.Nursery) -> None:
        """Open one channel, and carry it until it ends."""
        channel = None
        try:
            channel = await self.opener.open(self, nursery, self.outcomes.outage)
            if channel is None:
                return
            worker = self.channels.worker_of(channel)
            self._greeting.add(channel)
            if len(self.workers) > 1:
                nursery.start_soon(self._expect_hello, channel, worker)
            end = await channel.run(self.config, lambda: self.channels.path(worker))
            self.outcomes.ended(channel, end)
        finally:
            if channel is None:
                self._channels_opening -= 1
            elif channel in self.channels:
                self._placement.remove(channel)
            else:
                self._not_opening(channel)
            if channel is not None:
                self.channels.ended(channel)
                self.outcomes.forgotten()
                self.requests.lost(channel)
            self._changed.set()

    def _not_opening(self, channel: Channel) -> None:
        if channel in self._greeting:
            self._greeting.remove(channel)
            self._channels_opening -= 1

    async def _expect_hello(self, channel: Channel, worker: KnownWorker) -> None:
        """Have another worker tried beside one that upgrades, but does not say HELLO in time."""
        await trio.sleep(max(worker.hedge, _HELLO_PATIENCE))
        if channel in self._greeting:
            self._not_opening(channel)
            self.outcomes.silent_at_start(worker)
            self._changed.set()

    # what a channel tells

    def on_ready(self, channel: Channel) -> None:
        self._not_opening(channel)
        # There may be another token since it was dialled
        channel.renew(self.channels.worker_of(channel).config, self.opener.context)
        self.outcomes.ready(channel)
        self._placement.add(channel, trio.current_time())
        self._changed.set()

    def on_lost(self, channel: Channel, why: str) -> None:
        self.requests.lost(channel)
        self.outcomes.lost(channel, why)
        self._changed.set()

    def on_resumed(self, channel: Channel, fresh: bool) -> None:
        self.outcomes.resumed(channel, fresh)
        if fresh:  # what the other session had room for says nothing of this one
            self._placement.remove(channel)
            self._placement.add(channel, trio.current_time())
        self._changed.set()

    def on_not_resumed(self, channel: Channel, error: ZksError, delay: float | None) -> None:
        self.outcomes.not_resumed(channel, error, delay)
        if channel.shut_out:
            self._changed.set()

    def on_goaway(self, channel: Channel) -> None:
        self.outcomes.goes_away(channel)
        self._changed.set()

    def on_silent(self, channel: Channel, silent: bool) -> None:
        self.outcomes.silent(channel, silent)
        self._changed.set()

    def on_capacity(self, channel: Channel) -> None:
        if self._waiting or channel.going_away or len(self.channels) > 1:
            self._changed.set()

    def on_refused(self, channel: Channel, stream: TunnelStream, code: int, message: str) -> None:
        now = trio.current_time()
        if not self._placement.refused(channel, code, now):
            self.outcomes.more.failed(now)
        stream.on_refused(code, message)
        hopeless = stream.request.refusals >= _MAX_REFUSALS and not channel.streams
        if hopeless or self._stopped or self._waiting.full:
            stream.end(code, message)
        else:
            self.outcomes.counters["streams_moved"] += 1
            self._waiting.add(stream)
            self._changed.set()
