"""Streams that were closed here before the far end has finished."""

from __future__ import annotations

import math

from zks_lwip.protocol import Role, Session, Settings
from zks_lwip.tunnel.lingering import LingeringStreams
from zks_lwip.tunnel.peers import TunnelStream

from ...kits.tunnel import Peer


class Carrier:
    """A channel that notes which streams are reset."""

    def __init__(self) -> None:
        self.session = Session(Role.CLIENT, Settings())
        self.reset: list[TunnelStream] = []

    def close_stream(self, stream: TunnelStream) -> None:
        self.reset.append(stream)

    def forget(self, stream: TunnelStream) -> None:
        pass


def carried(channel: Carrier) -> TunnelStream:
    stream = TunnelStream("far", 1, Peer(), 0.0, lambda stream: None)
    stream.channel = channel
    return stream


def test_each_is_reset_when_its_time_is_over() -> None:
    lingering, channel = LingeringStreams(lambda channel: True), Carrier()
    streams = [carried(channel) for _ in range(3)]
    for stream, expiry in zip(streams, (7.0, 5.0, 9.0), strict=True):
        lingering.add(stream, expiry)
    assert lingering.end_late(4.9, 1.0) == 5.0 and channel.reset == []
    assert lingering.end_late(7.0, 1.0) == 9.0
    assert channel.reset == streams[:2] and len(lingering) == 1
    assert lingering.end_late(9.0, 1.0) == math.inf and not lingering


def test_one_that_has_ended_is_not_waited_for() -> None:
    lingering, channel = LingeringStreams(lambda channel: True), Carrier()
    over, ended = carried(channel), carried(channel)
    for stream in (over, ended):
        lingering.add(stream, 5.0)
    over.end(503, "lost")
    ended.eof_sent = ended.eof_received = True
    assert lingering.end_late(0.0, 1.0) == math.inf and not lingering
    assert over not in channel.reset


def test_while_its_channel_has_no_websocket_it_waits_again() -> None:
    live: list[object] = []
    lingering, channel = LingeringStreams(live.__contains__), Carrier()
    stream = carried(channel)
    lingering.add(stream, 5.0)
    assert lingering.end_late(5.0, 3.0) == 8.0
    live.append(channel)
    assert lingering.end_late(7.9, 3.0) == 8.0 and channel.reset == []
    assert lingering.end_late(8.0, 3.0) == math.inf and channel.reset == [stream]
