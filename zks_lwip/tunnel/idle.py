"""Which channels are not needed any more, and when they are closed (PROTOCOL.md §3)."""

from __future__ import annotations

import math

from .channel import Channel
from .channels import Channels
from .placement import Placement
from .udp import Associations

__all__ = ["IdleChannels"]

_DELIVERY_POLL = 0.2
"""Seconds between two looks at whether a channel has delivered everything."""
_NOT_NEEDED = "not needed"


class IdleChannels:
    """Closes channels that carry nothing. Moments are those of ``trio.current_time``.

    :param one_stream: each channel carries one stream.
    """

    def __init__(
        self,
        channels: Channels,
        placement: Placement[Channel],
        associations: Associations,
        *,
        one_stream: bool,
    ) -> None:
        self._channels = channels
        self._placement = placement
        self._associations = associations
        self._one_stream = one_stream

    def close(self, now: float, patience: float) -> float:
        """Close those that are not needed; return when to look again.

        :param patience: seconds for which they may be idle.
        """
        due = math.inf
        kept = self._kept()
        for channel in self._channels:
            if channel.idle_since is None or channel in kept:
                continue
            expiry = channel.idle_since + patience
            if self._associations.carried(channel) and not channel.going_away:
                due = min(due, max(expiry, now + patience))
                continue
            if channel.session.unacknowledged:  # the end of an upload, which may be sent again
                expiry = max(expiry, channel.idle_since + channel.session.resume_seconds)
            if expiry <= now or (channel.going_away and channel.delivered):
                channel.close(1000, _NOT_NEEDED)
            elif channel.going_away or channel.session.unacknowledged:
                due = min(due, expiry, now + _DELIVERY_POLL)
            else:
                due = min(due, expiry)
        return due

    def _kept(self) -> list[Channel]:
        """Return the channels that stay although they are idle, the primary one among them."""
        primary = self._channels.primary()
        if primary is None:
            worker = self._channels.workers.in_use
        elif primary.going_away:
            return []
        else:
            worker = self._channels.worker_of(primary)
        standing = self._channels.standing(worker)
        return standing[: 1 if self._one_stream else self._placement.kept]
