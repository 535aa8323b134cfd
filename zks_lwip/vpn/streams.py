"""What a program opens through a VPN itself: TCP streams and UDP sockets, without any device."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections import deque
from typing import Any, Literal, Protocol

import trio

from ..gateway.counters import GatewayCounters
from ..gateway.flows import FlowInfo
from ..protocol import MAX_DATAGRAM
from ..tunnel.tcp_stream import ERRNO, TunnelTcpStream

__all__ = ["OpenFlows", "VpnTcpStream", "VpnUdpSocket"]


_NUMBERS = ERRNO | {90: errno.EMSGSIZE, 502: errno.EHOSTUNREACH, 503: errno.ENETUNREACH}
"""What a program is told by errno: 502, of names that do not resolve, too; 503: no tunnel."""


class OpenFlows:
    """Those that are open."""

    def __init__(self, counters: GatewayCounters) -> None:
        self.counters = counters
        self._open: dict[_Counted, None] = {}

    def add(self, one: _Counted) -> None:
        """Note one that has been opened."""
        self._open[one] = None

    def discard(self, one: _Counted) -> None:
        """Note that one has ended. Harmless twice."""
        self._open.pop(one, None)

    def infos(self) -> list[FlowInfo]:
        """Return what is told of each."""
        now = trio.current_time()
        return [each.info(now) for each in self._open]

    @property
    def connections(self) -> int:
        """TCP streams."""
        return sum(isinstance(each, VpnTcpStream) for each in self._open)

    def end(self) -> None:
        """End them all: the VPN has ended."""
        for each in tuple(self._open):
            each.on_vpn_end()


class _Counted(Protocol):
    def info(self, now: float) -> FlowInfo: ...
    def on_vpn_end(self) -> None: ...


class VpnTcpStream(TunnelTcpStream):
    """A TCP connection through a VPN, as a stream; made by :meth:`~zks_lwip.Vpn.open_tcp_stream`.

    Closing is graceful, as a socket's: what was sent is delivered; it is a reset if more comes from
    the far end, or has come and was not received.
    """

    def __init__(self, opened: OpenFlows, linger: Any, where: tuple[str, int]) -> None:
        super().__init__(linger)
        self._opened = opened
        self._where = where
        self._since = trio.current_time()
        self._state: Literal["connecting", "open"] = "connecting"
        self._up = self._down = 0
        opened.counters.flows_opened += 1
        opened.add(self)

    @property
    def destination(self) -> tuple[str, int]:
        """The host, as it was asked for, and the port."""
        return self._where

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it."""
        age = now - self._since
        return FlowInfo("tcp", None, self._where, "tunnel", self._state, age, self._up, self._down)

    # a StreamPeer

    def pull_into(self, view: memoryview) -> int | None:
        """Give the session bytes to send, and count them."""
        count = super().pull_into(view)
        if count:
            self._up += count
            self._opened.counters.bytes_up += count
        return count

    def on_connected(self) -> None:
        """Take note that the far end is connected."""
        self._state = "open"
        self._opened.counters.flows_accepted += 1
        super().on_connected()

    def on_data(self, payload: memoryview) -> None:
        """Take bytes of the far end, and count them."""
        self._down += len(payload)
        self._opened.counters.bytes_down += len(payload)
        super().on_data(payload)

    def on_end(self, code: int, message: str) -> None:
        """Take note that it is over, or was refused."""
        if self._state == "open":
            self._opened.counters.flows_reset += 1
        else:
            self._opened.counters.refused[code] += 1
        self._opened.discard(self)
        super().on_end(code, message)
        number = _NUMBERS.get(code)
        if number is not None:
            self._failure = OSError(number, message or os.strerror(number))

    def on_vpn_end(self) -> None:
        """The VPN has ended: tasks that wait are told."""
        self.on_end(0, "the VPN has ended")

    # closing

    def abort(self) -> None:
        """Reset the connection at once."""
        self._opened.discard(self)
        super().abort()

    async def aclose(self) -> None:
        """Close it in order. Harmless twice."""
        self._opened.discard(self)
        await super().aclose()


class _VpnAssociation(Protocol):
    def send(self, host: str, port: int, payload: memoryview | bytes, /) -> bool: ...
    def close(self) -> None: ...


class VpnUdpSocket(trio.abc.AsyncResource):
    """A UDP socket at the worker; made by :meth:`~zks_lwip.Vpn.open_udp`.

    It filters nothing: a datagram from any host to the worker's socket arrives (RFC 4787). The
    worker's address and port may change where the connection to it is lost, or nothing passes for
    minutes.

    :param queue: datagrams that wait for :meth:`receive`.
    """

    def __init__(self, opened: OpenFlows, queue: int) -> None:
        self._opened = opened
        self._received: deque[tuple[bytes, tuple[str, int]] | OSError] = deque()
        self._queue = queue
        self._handle: _VpnAssociation | None = None
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False
        self._ended = False
        self._since = trio.current_time()
        self._to: tuple[str, int] | None = None
        self._up = self._down = 0
        self.dropped = 0
        """Datagrams that came and were dropped because the queue was full."""
        opened.counters.associations_opened += 1
        opened.add(self)

    def attach(self, handle: _VpnAssociation) -> None:
        """Give it its end of the association; to be called once, at once."""
        self._handle = handle

    def send(self, payload: bytes | bytearray | memoryview, destination: tuple[str, int]) -> bool:
        """Send a datagram; never blocks.

        :param payload: 0 to 65507 bytes.
        :param destination: an IP literal (:meth:`~zks_lwip.Vpn.resolve` finds those of a name) and
            a port, 1 to 65535.
        :returns: False if it was dropped: the tunnel is down or full, or the worker carries no UDP.
        :raises trio.ClosedResourceError: the socket was closed.
        :raises trio.BrokenResourceError: the VPN has ended.
        :raises ValueError: that is no literal or no port, or the payload is too long.
        """
        self._check_open()
        host, port = destination
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        if len(payload) > MAX_DATAGRAM:
            raise ValueError(f"a datagram holds {MAX_DATAGRAM} bytes, not {len(payload)}")
        assert self._handle is not None
        data = bytes(payload) if isinstance(payload, bytearray) else payload
        counters = self._opened.counters
        if not self._handle.send(str(mapped or address), port, data):
            counters.datagrams_dropped += 1
            return False
        self._to = destination
        self._up += len(payload)
        counters.datagrams_up += 1
        counters.datagram_bytes_up += len(payload)
        return True

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        """Wait for the next datagram.

        :returns: its payload, and the address and port of its sender.
        :raises OSError: an ICMP error has come for one that was sent, such as
            :exc:`ConnectionRefusedError`; its ``filename`` is where that was sent to.
        :raises trio.ClosedResourceError: the socket was closed.
        :raises trio.BrokenResourceError: the VPN has ended.
        """
        await trio.lowlevel.checkpoint()
        while not self._received:
            self._check_open()
            await self._waiting.park()
        item = self._received.popleft()
        if isinstance(item, OSError):
            raise item
        return item

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this UDP socket was closed")
        if self._ended:
            raise trio.BrokenResourceError("the VPN has ended")

    def _put(self, item: tuple[bytes, tuple[str, int]] | OSError) -> None:
        if self._closed:
            return
        if len(self._received) >= self._queue:
            self._received.popleft()
            self.dropped += 1
        self._received.append(item)
        self._waiting.unpark()

    # a UdpPeer

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        """Take a datagram that has come."""
        counters = self._opened.counters
        counters.datagrams_down += 1
        counters.datagram_bytes_down += len(payload)
        self._down += len(payload)
        self._put((bytes(payload), (host, port)))

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        """Take an ICMP error that has come."""
        self._opened.counters.udp_errors += 1
        number = _NUMBERS.get(code)
        if number is not None:
            self._put(OSError(number, os.strerror(number), f"{host} port {port}"))

    def on_udp_close(self) -> None:
        """Do nothing: the next datagram opens another at the worker."""

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it."""
        age = now - self._since
        return FlowInfo("udp", None, self._to, "tunnel", "open", age, self._up, self._down)

    def on_vpn_end(self) -> None:
        """The VPN has ended: tasks that wait are told."""
        self._ended = True
        self._waiting.unpark_all()

    async def aclose(self) -> None:
        """Give it back, here and at the worker. Harmless twice."""
        if not self._closed:
            self._closed = True
            self._received.clear()
            self._opened.discard(self)
            if self._handle is not None:
                self._handle.close()
            self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()
