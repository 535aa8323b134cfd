"""The UDP associations of a tunnel (PROTOCOL.md §5). They outlive channels.

As long as its channel is there an association stays on it, so that it keeps its address at the
worker; then another carries it. A worker is heard about those alone that were sent to it: of
several workers, one may lie.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from ..protocol import (
    ClientSession,
    DatagramReceived,
    DatagramsReceived,
    UdpClosed,
    UdpErrorReceived,
    datagrams_of,
)
from .peers import Association, DatagramSink, UdpPeer

__all__ = ["Associations"]

_MAX_ID = 2**32 - 1


@lru_cache(maxsize=4096)
def _is_address(host: str) -> bool:
    """Return whether ``host`` is as PROTOCOL.md §5 wants: a literal, IPv4-mapped ones as IPv4."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        raw = socket.inet_pton(family, host)
    except (OSError, UnicodeError):
        return False
    return family == socket.AF_INET or not raw.startswith(bytes(10) + b"\xff\xff")


class UdpChannel(Protocol):
    """What associations need of the channel that carries them."""

    @property
    def session(self) -> ClientSession: ...


class Associations:
    """The associations that are open.

    :param channel: returns the channel for the datagrams of new ones; None: there is none now.
    :param lives: whether a channel can carry datagrams still.
    :param worker_of: returns the worker of a channel.
    """

    def __init__(
        self,
        channel: Callable[[], UdpChannel | None],
        lives: Callable[[Any], bool],
        worker_of: Callable[[Any], object],
    ) -> None:
        self._channel = channel
        self._lives = lives
        self._worker_of = worker_of
        self._open: dict[int, Association] = {}
        self._channel_of: dict[int, UdpChannel] = {}
        self._carried: Counter[UdpChannel] = Counter()
        self._asked: dict[int, object] = {}  # the worker that an association was sent to last
        self._last = 0
        #: Frames of the worker whose host is no address.
        self.malformed = 0
        #: Frames of a worker about what was sent to another one.
        self.strange = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, peer: UdpPeer, sink: DatagramSink | None = None) -> Association:
        """Open an association, under an id that no other one has.

        :param sink: takes its datagrams with those of others, where they come so; None: ``peer``
            takes them all, one by one.
        """
        identifier = self._last
        while True:
            identifier = identifier % _MAX_ID + 1
            if identifier not in self._open:
                break
        self._last = identifier
        association = Association(identifier, peer, sink, self._send, self._close)
        self._open[identifier] = association
        return association

    def carried(self, channel: UdpChannel) -> int:
        """Return how many are on a channel."""
        return self._carried[channel]

    def send_frames(
        self, frames: bytes, count: int, size: int, associations: Sequence[int]
    ) -> tuple[int, int]:
        """Send datagrams that are UDP frames already, with IP literals, back to back.

        :param count: how many.
        :param size: bytes of their payloads.
        :param associations: those that they are of.
        :returns: how many the tunnel has taken, and their bytes.
        """
        channels = {self._channel_of.get(identifier) for identifier in associations}
        channel = channels.pop()
        if not channels and channel is not None and self._lives(channel):
            taken = channel.session.send_udp_frames(frames, count)
            return (count, size) if taken else (0, 0)
        taken_count = taken_size = 0
        for datagram, _ in datagrams_of(memoryview(frames)):
            payload = datagram.payload
            if self._send(datagram.association, datagram.host, datagram.port, payload):
                taken_count += 1
                taken_size += len(payload)
        return taken_count, taken_size

    def _send(self, identifier: int, host: str, port: int, payload: memoryview | bytes) -> bool:
        channel = self._channel_of.get(identifier)
        if channel is None or not self._lives(channel):
            self._leave(identifier)
            channel = self._channel() if identifier in self._open else None
            if channel is None or not channel.session.send_udp(identifier, host, port, payload):
                return False
            self._channel_of[identifier] = channel
            self._carried[channel] += 1
            self._asked[identifier] = self._worker_of(channel)
            return True
        return channel.session.send_udp(identifier, host, port, payload)

    def _leave(self, identifier: int) -> UdpChannel | None:
        """Take an association off its channel, and return that."""
        channel = self._channel_of.pop(identifier, None)
        if channel is not None:
            self._carried[channel] -= 1
            if not self._carried[channel]:
                del self._carried[channel]
        return channel

    def _close(self, identifier: int) -> None:
        channel = self._leave(identifier)
        self._asked.pop(identifier, None)
        if self._open.pop(identifier, None) is None or channel is None:
            return
        if self._lives(channel):
            channel.session.udp_close(identifier)

    def on_datagram(self, channel: UdpChannel, event: DatagramReceived) -> None:
        """Pass a datagram on to its peer."""
        association = self._heard(channel, event.association)
        if association is not None and self._checked(event.host):
            association.peer.on_datagram(event.host, event.port, event.payload)

    def on_datagrams(self, channel: UdpChannel, event: DatagramsReceived) -> None:
        """Pass datagrams on to their peers, by the sink of all of them if they have one."""
        worker, asked = self._worker_of(channel), self._asked
        found = (self._open.get(identifier) for identifier in event.associations)
        sinks = {association.sink for association in found if association is not None}
        sink = sinks.pop() if len(sinks) == 1 else None
        known = all(asked.get(identifier, worker) is worker for identifier in event.associations)
        if sink is not None and known:
            self.malformed += sink.deliver(event.frames, event.associations)
            return
        for datagram, _ in datagrams_of(event.frames):
            self.on_datagram(channel, datagram)

    def on_udp_error(self, channel: UdpChannel, event: UdpErrorReceived) -> None:
        """Pass an ICMP error on to its peer."""
        association = self._heard(channel, event.association)
        if association is not None and self._checked(event.host):
            association.peer.on_udp_error(event.code, event.host, event.port)

    def on_udp_closed(self, channel: UdpChannel, event: UdpClosed) -> None:
        """Tell a peer that the worker has dropped its association.

        Not where another channel carries it now: what it was on this one had only become idle.
        """
        association = self._heard(channel, event.association)
        if association is not None and self._channel_of.get(event.association) in (None, channel):
            association.peer.on_udp_close()

    def _heard(self, channel: UdpChannel, identifier: int) -> Association | None:
        """Return an association that a channel's worker may speak of; None: it is not open."""
        association = self._open.get(identifier)
        if association is None or self._asked.get(identifier) is self._worker_of(channel):
            return association
        self.strange += 1
        return None

    def _checked(self, host: str) -> bool:
        if _is_address(host):
            return True
        self.malformed += 1
        return False
