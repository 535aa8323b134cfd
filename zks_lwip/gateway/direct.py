"""UDP beside the tunnel: sockets of this machine in place of the tunnel's associations.

They, and the TCP connections that leave directly, share a part of the process's descriptors, lest
they take those of the tunnel.
"""

from __future__ import annotations

import logging
import socket
from typing import Protocol

import trio

from ..net.descriptors import Descriptors, descriptor_limit, is_scarcity, warn_of_scarcity
from ..net.sockets import family_of, open_socket

__all__ = ["DirectOpener", "direct_descriptors"]

_log = logging.getLogger(__name__)

_MAX_DATAGRAM = 65536
_BATCH = 64  # datagrams of one socket before the others have their turn


def direct_descriptors() -> Descriptors:
    """Return what flows beside the tunnel may have: half of what this process is allowed now."""
    return Descriptors(max(1, descriptor_limit() // 2))


class DatagramPeer(Protocol):
    """What a socket's datagrams are given to."""

    def on_datagram(self, host: str, port: int, payload: memoryview, /) -> None: ...


class DirectOpener:
    """Opens UDP sockets of this machine in place of the tunnel's associations.

    :param nursery: for the tasks that receive.
    :param mark: SO_MARK of the sockets.
    :param descriptors: those that they may have.
    """

    def __init__(self, nursery: trio.Nursery, mark: int | None, descriptors: Descriptors) -> None:
        self._nursery = nursery
        self._mark = mark
        self._descriptors = descriptors

    def open_association(self, peer: DatagramPeer, sink: object = None) -> DirectSockets:
        """Return what sends for ``peer``; what comes for it is given to it, not to ``sink``."""
        return DirectSockets(peer, self._nursery, self._mark, self._descriptors)


class DirectSockets:
    """A UDP socket of either family, opened when it is needed."""

    identifier = 0
    """It has no frames."""

    def __init__(
        self,
        peer: DatagramPeer,
        nursery: trio.Nursery,
        mark: int | None,
        descriptors: Descriptors,
    ) -> None:
        self._peer = peer
        self._nursery = nursery
        self._mark = mark
        self._descriptors = descriptors
        self._sockets: dict[int, socket.socket] = {}

    def send(self, host: str, port: int, payload: bytes | memoryview) -> bool:
        """Send a datagram; False if it was dropped: the system has no room, or no way."""
        family = family_of(host)
        try:
            known = self._sockets.get(family)
            if known is None:
                known = self._open(family)
        except OSError as error:
            if is_scarcity(error):
                warn_of_scarcity("a datagram was not sent past the tunnel", error)
            _log.debug("udp %s:%d: %s", host, port, error)
            return False
        try:
            known.sendto(payload, (host, port))
        except OSError as error:
            _log.debug("udp %s:%d: %s", host, port, error)
            return False
        return True

    def _open(self, family: int) -> socket.socket:
        self._descriptors.take()
        try:
            raw = open_socket(family, socket.SOCK_DGRAM, self._mark)
        except BaseException:
            self._descriptors.give()
            raise
        self._sockets[family] = raw
        self._nursery.start_soon(self._receive, raw)
        return raw

    async def _receive(self, raw: socket.socket) -> None:
        try:
            while raw.fileno() >= 0:
                await trio.lowlevel.wait_readable(raw)
                self._give(raw)
        except trio.ClosedResourceError:
            _log.debug("udp: a socket was closed")
        finally:
            self._close(raw)

    def _give(self, raw: socket.socket) -> None:
        """Give the peer what has come."""
        for _ in range(_BATCH):
            try:
                data, (host, port, *_) = raw.recvfrom(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # the ICMP error of one that was sent
                _log.debug("udp: %s", error)
                continue
            self._peer.on_datagram(host.partition("%")[0], port, memoryview(data))

    def _close(self, raw: socket.socket) -> None:
        if raw.fileno() >= 0:
            trio.lowlevel.notify_closing(raw)
            raw.close()
            self._descriptors.give()

    def close(self) -> None:
        """Close the sockets, at once: others may be opened in their place. Harmless twice."""
        for raw in self._sockets.values():
            self._close(raw)
