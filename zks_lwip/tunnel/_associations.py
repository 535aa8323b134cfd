"""The UDP associations of a tunnel (PROTOCOL.md §5). They outlive channels."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from .frames import Udp, UdpClose, UdpError
from .streams import Association, UdpPeer

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Associations"]

_MOST_ID = 2**32 - 1


@lru_cache(maxsize=4096)
def _is_address(host: str) -> bool:
    """Whether ``host`` is written as PROTOCOL.md §5 wants: a literal, IPv4-mapped ones as IPv4."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        raw = socket.inet_pton(family, host)
    except (OSError, UnicodeError):
        return False
    return family == socket.AF_INET or not raw.startswith(bytes(10) + b"\xff\xff")


class Associations:
    """All that are open. ``channel`` gives the channel that datagrams take now, if there is one."""

    def __init__(self, channel: Callable[[], Channel | None]) -> None:
        self._channel = channel
        self._open: dict[int, Association] = {}
        self._last = 0
        #: Frames of the worker whose host is no address.
        self.malformed = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, peer: UdpPeer) -> Association:
        """A new one."""
        identifier = self._last
        while True:
            identifier = identifier % _MOST_ID + 1
            if identifier not in self._open:
                break
        self._last = identifier
        association = Association(identifier, peer, self._send, self._close)
        self._open[identifier] = association
        return association

    def _send(self, identifier: int, host: str, port: int, payload: memoryview | bytes) -> bool:
        channel = self._channel()
        return channel is not None and channel.session.send_udp(identifier, host, port, payload)

    def _close(self, identifier: int) -> None:
        channel = self._channel()
        if self._open.pop(identifier, None) is not None and channel is not None:
            channel.session.udp_close(identifier)

    def on_datagram(self, frame: Udp) -> None:
        association = self._open.get(frame.association)
        if association is not None and self._checked(frame.host):
            payload = frame.payload
            if type(payload) is not memoryview:
                payload = memoryview(payload)
            association.peer.on_datagram(frame.host, frame.port, payload)

    def on_udp_error(self, frame: UdpError) -> None:
        association = self._open.get(frame.association)
        if association is not None and self._checked(frame.host):
            association.peer.on_udp_error(frame.code, frame.host, frame.port)

    def on_udp_close(self, frame: UdpClose) -> None:
        association = self._open.get(frame.association)
        if association is not None:
            association.peer.on_udp_close()

    def _checked(self, host: str) -> bool:
        if _is_address(host):
            return True
        self.malformed += 1
        return False
