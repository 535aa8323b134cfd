"""UDP ASSOCIATE (RFC 1928 §7): one socket for a client, one association of the tunnel.

Full cone (RFC 4787): a datagram from any host to the worker's socket reaches the client, with that
host's address. Only the address that has the TCP connection may send, and only from one port: that
which the client named, or of its first datagram. The association ends with the TCP connection.
Nothing here waits: what cannot be sent is dropped and counted.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Protocol

import trio

from ..net.readiness import Readiness
from ..net.scratch import Scratch
from ..net.sockets import family_of, open_socket
from ..protocol import MAX_DATAGRAM
from .client import ProxyClient
from .counters import ProxyCounters
from .handshake import Associate
from .names import Names, literal
from .socks5 import Socks5Error, SocksDatagram, decode_datagram, encode_header

__all__ = ["ProxyAssociation", "TunnelAssociation"]

_BATCH = 64
"""Datagrams of one client before the others have their turn."""
_BUFFER = 1 << 18
"""Bytes of the socket's buffers, each way."""
_MAX_LOOKUPS = 16
"""Names of one client that are looked up at a time."""
_MAX_WAITING = 1 << 16
"""Bytes of one client's datagrams that wait for addresses; what is more is dropped."""
_OVERHEAD = 256
"""Bytes that a datagram which waits counts for besides its payload."""

_SCRATCH = Scratch(65536)  # where every datagram arrives; the tunnel copies it at once


class TunnelAssociation(Protocol):
    """What is needed of a tunnel association."""

    def send(self, host: str, port: int, payload: bytes | memoryview, /) -> bool: ...
    def close(self) -> None: ...


class ProxyAssociation:
    """One client's association: the peer of one of the tunnel's.

    :param ipv6: the worker has IPv6.
    :raises OSError: there is no socket for it.
    """

    def __init__(
        self,
        client: ProxyClient,
        wanted: Associate,
        readiness: Readiness,
        names: Names,
        counters: ProxyCounters,
        *,
        ipv6: bool,
    ) -> None:
        self._host = client.peer[0]
        self._port = _stated_port(wanted, client.peer[0])
        self._readiness = readiness
        self._names = names
        self._counters = counters
        self._ipv6 = ipv6
        self._handle: TunnelAssociation | None = None
        self._lookups: dict[str, list[tuple[int, bytes]]] = {}
        self._waiting = 0  # bytes of them
        self._nursery: trio.Nursery | None = None
        local = client.local[0]
        self._sock = open_socket(family_of(local), socket.SOCK_DGRAM, None)
        try:
            self._sock.bind((local, 0))
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        except BaseException:
            self._sock.close()
            raise
        self.address: tuple[str, int] = self._sock.getsockname()[:2]
        """Where the client is to send to."""

    async def run(self, handle: TunnelAssociation, client: ProxyClient) -> None:
        """Carry datagrams until the client ends its TCP connection, or until cancelled.

        :raises OSError: the kernel watches no more.
        """
        self._handle = handle
        try:
            async with trio.open_nursery() as self._nursery:
                self._readiness.add(self._sock, self._on_ready)
                try:
                    while await client.receive():
                        pass  # it has nothing to say there
                except trio.BrokenResourceError:
                    pass  # that is an end, too
                self._nursery.cancel_scope.cancel()
        finally:
            self.close()

    def close(self) -> None:
        """Give everything back; harmless a second time."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        self._readiness.remove(self._sock)
        self._sock.close()

    # from the client

    def _on_ready(self, directions: int) -> None:
        scratch = _SCRATCH.view
        for _ in range(_BATCH):
            try:
                size, source = self._sock.recvfrom_into(scratch)
            except BlockingIOError:
                self._readiness.want_read(self._sock)
                return
            except OSError:
                continue  # the client's port was closed when the last one came there
            if source[0] != self._host or source[1] != (self._port or source[1]):
                self._counters.datagrams_foreign += 1
                continue
            try:
                datagram = decode_datagram(scratch[:size])
            except Socks5Error:
                self._counters.datagrams_malformed += 1
                continue
            self._port = source[1]
            self._take(datagram)
        self._readiness.rearm(self._sock)

    def _take(self, datagram: SocksDatagram) -> None:
        if datagram.fragment:
            self._counters.datagrams_fragmented += 1
        elif len(datagram.payload) > MAX_DATAGRAM:  # IPv6 takes a little more than the tunnel
            self._counters.datagrams_dropped += 1
        elif (address := literal(datagram.host)) is not None:
            self._send(address, datagram.port, datagram.payload)
        elif (known := self._names.known(datagram.host)) is not None:
            self._send(known[0], datagram.port, datagram.payload)
        else:
            self._look_up(datagram)

    def _send(self, host: str | None, port: int, payload: memoryview | bytes) -> None:
        sent = (
            host is not None and self._handle is not None and self._handle.send(host, port, payload)
        )
        if sent:
            self._counters.datagrams_up += 1
        else:
            self._counters.datagrams_dropped += 1

    def _look_up(self, datagram: SocksDatagram) -> None:
        name, size = datagram.host, len(datagram.payload) + _OVERHEAD
        known = name in self._lookups
        room = self._waiting + size <= _MAX_WAITING or not self._waiting
        if self._nursery is None or not room or not (known or len(self._lookups) < _MAX_LOOKUPS):
            self._counters.datagrams_dropped += 1
            return
        self._waiting += size
        self._lookups.setdefault(name, []).append((datagram.port, bytes(datagram.payload)))
        if not known:
            self._nursery.start_soon(self._find, name)

    async def _find(self, name: str) -> None:
        address = await self._names.find(name, ipv6=self._ipv6)
        for port, payload in self._lookups.pop(name):
            self._waiting -= len(payload) + _OVERHEAD
            self._send(address, port, payload)

    # from the tunnel

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        """Send the client a datagram, with the address of the host that sent it."""
        if not self._port:
            self._counters.datagrams_dropped += 1
            return
        try:
            self._sock.sendto(encode_header(host, port) + payload, (self._host, self._port))
        except OSError:  # no room, too large, or the client's port is closed
            self._counters.datagrams_dropped += 1
        else:
            self._counters.datagrams_down += 1

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        """Count it: SOCKS5 has no words for it."""
        self._counters.udp_errors += 1

    def on_udp_close(self) -> None:
        """Do nothing: the client's next datagram opens another at the worker."""


def _stated_port(wanted: Associate, peer: str) -> int:
    """Return the port that the client says it will send from, where that can be believed; else 0.

    Some name there where they want to send to.
    """
    try:
        address = ipaddress.ip_address(wanted.host)
    except ValueError:
        return 0
    own = ipaddress.ip_address(peer.partition("%")[0])
    return wanted.port if address.is_unspecified or address == own else 0
