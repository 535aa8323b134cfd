"""The datagrams of one published UDP port.

Each client (address and port, and the address of ours that it sent to) has a socket of its own in
the command's namespace, so that the command's answers find their way back to it, and to no
other. Nothing here waits: what cannot be sent at once is dropped and counted.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from ...net.descriptors import is_scarcity, warn_of_scarcity
from ...net.names import join_host_port
from ...net.readiness import Readiness
from ...net.scratch import Scratch
from ...net.sockets import family_of
from .inside import SocketMaker, addresses_inside
from .listeners import Listener

__all__ = [
    "IDLE",
    "MAX_ASSOCIATIONS",
    "MAX_CONNECTING",
    "MAX_HELD",
    "PublishedDatagrams",
    "UdpCounters",
]

_log = logging.getLogger(__name__)

IDLE = 300.0
"""Seconds without a datagram until a client is forgotten (RFC 4787 §4.3), as in the tunnel."""
MAX_ASSOCIATIONS = 1024
"""Clients of one port that are remembered; then the one that has been silent longest goes."""
_SWEEP = 5.0
"""Seconds between two looks for who is idle."""
_MAX_WAITING = 16
"""Datagrams of a client that wait for its socket."""
MAX_HELD = 1 << 22
"""Bytes of datagrams that one port holds, of all its clients: those that wait for a socket, and
those that would be sent again to another address."""
MAX_CONNECTING = 256
"""Clients of one port that wait for their socket; what others send meanwhile is dropped, and no
client is forgotten for it."""
_BATCH = 64
"""Datagrams of one socket before others have their turn."""
_BUFFER = 1 << 19
"""Bytes of a socket's buffers, each way."""

_IP_PKTINFO: int = getattr(socket, "IP_PKTINFO", 8)
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, our address, address in the header
_IN6_PKTINFO = struct.Struct("=16si")

# Where every datagram arrives.
_SCRATCH = Scratch(65536)

Ancillary = list[tuple[int, int, bytes]]


@dataclass
class UdpCounters:
    """Of all published ports."""

    associations: int = 0
    """Opened, ever."""
    datagrams_in: int = 0
    """To the command."""
    datagrams_out: int = 0
    dropped: int = 0
    """No room, no socket, or nothing listens."""


_Key = tuple[tuple[Any, ...], bytes]
"""The client's socket address, and what the kernel said of ours."""


@dataclass(eq=False)
class _PublishedAssociation:
    key: _Key
    local: Ancillary
    """Our address that the client knows, to answer from."""
    targets: list[str]
    """Addresses of the namespace that are still to be tried, the present one first."""
    used: float
    sock: socket.socket | None = None
    answered: bool = False
    last: bytes | None = None
    """What was sent last, while it is not known whether anything listens at this address."""
    waiting: list[bytes] = field(default_factory=list)
    ended: bool = False


class PublishedDatagrams:
    """One published UDP port.

    :param ipv6: the namespace has IPv6.
    :param most: clients that are remembered.
    """

    def __init__(
        self,
        listener: Listener,
        sockets: SocketMaker,
        readiness: Readiness,
        counters: UdpCounters,
        *,
        ipv6: bool,
        most: int = MAX_ASSOCIATIONS,
    ) -> None:
        self._socket = listener.socket
        self._inside = listener.port.inside
        self._name = str(listener.port)
        self._sockets = sockets
        self._readiness = readiness
        self._counters = counters
        self._ipv6 = ipv6
        self._most = most
        self._associations: OrderedDict[_Key, _PublishedAssociation] = OrderedDict()
        self._connecting = 0  # tasks
        self._held = 0  # bytes, see MAX_HELD
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._associations)

    async def run(self) -> None:
        """Carry datagrams until cancelled.

        :raises HostError: no more sockets of the namespace are to be had.
        :raises OSError: the kernel watches no more.
        """
        sock = self._socket
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        _set_buffers(sock)
        try:
            async with trio.open_nursery() as self._nursery:
                self._readiness.add(sock, self._on_clients)
                while True:
                    await trio.sleep(_SWEEP)
                    self._expire(trio.current_time() - IDLE)
        finally:
            self._readiness.remove(sock)
            self._expire(math.inf)

    def finish(self) -> None:
        """Pass on what the command has sent until now."""
        for association in tuple(self._associations.values()):
            self._on_program(association, 0)

    def _expire(self, before: float) -> None:
        """Forget who was silent since ``before``; the order is that of the last use."""
        while self._associations:
            association = next(iter(self._associations.values()))
            if association.used > before:
                return
            self._forget(association)

    def _forget(self, association: _PublishedAssociation) -> None:
        association.ended = True
        self._remember(association, None)
        self._counters.dropped += len(self._take_waiting(association))
        del self._associations[association.key]
        sock, association.sock = association.sock, None
        if sock is not None:
            self._readiness.remove(sock)
            sock.close()

    # from clients

    def _on_clients(self, directions: int) -> None:
        sock, scratch = self._socket, _SCRATCH.view
        for _ in range(_BATCH):
            try:
                size, ancillary, flags, client = sock.recvmsg_into([scratch], 64)
            except BlockingIOError:
                self._readiness.want_read(sock)
                return
            except OSError as error:
                _log.debug("published %s: %s", self._name, error.strerror)
                continue
            self._take(client, ancillary, scratch[:size])
        self._readiness.rearm(sock)

    def _take(self, client: tuple[Any, ...], ancillary: Ancillary, data: memoryview) -> None:
        key = (client, ancillary[0][2] if ancillary else b"")
        association = self._associations.get(key)
        if association is None:
            if self._connecting >= MAX_CONNECTING:
                self._counters.dropped += 1
                return
            association = self._open(key, _local(ancillary))
        else:
            self._use(association)
        if association.sock is not None:
            self._send(association, data)
        else:
            self._wait(association, data)

    def _wait(self, association: _PublishedAssociation, data: memoryview | bytes) -> None:
        """Have a datagram wait for its client's socket, or drop it for want of room."""
        room = len(association.waiting) < _MAX_WAITING and self._held + len(data) <= MAX_HELD
        if association.ended or not room:
            self._counters.dropped += 1
            return
        self._held += len(data)
        association.waiting.append(bytes(data))

    def _take_waiting(self, association: _PublishedAssociation) -> list[bytes]:
        waiting, association.waiting = association.waiting, []
        self._held -= sum(map(len, waiting))
        return waiting

    def _remember(
        self, association: _PublishedAssociation, data: memoryview | bytes | None
    ) -> None:
        """Keep what was sent last, where there is room for it, in place of what was before."""
        if association.last is not None:
            self._held -= len(association.last)
        association.last = None
        if data is not None and self._held + len(data) <= MAX_HELD:
            self._held += len(data)
            association.last = bytes(data)

    def _use(self, association: _PublishedAssociation) -> None:
        self._associations.move_to_end(association.key)
        association.used = trio.current_time()

    def _open(self, key: _Key, local: Ancillary) -> _PublishedAssociation:
        client, _ = key
        if len(self._associations) >= self._most:
            self._forget(next(iter(self._associations.values())))
        targets = list(addresses_inside(client[0], ipv6=self._ipv6))
        association = _PublishedAssociation(key, local, targets, trio.current_time())
        self._associations[key] = association
        self._counters.associations += 1
        _log.debug("published %s: datagrams from %s", self._name, join_host_port(*client[:2]))
        self._start(association)
        return association

    def _start(self, association: _PublishedAssociation) -> None:
        assert self._nursery is not None
        self._connecting += 1
        self._nursery.start_soon(self._connect, association)

    async def _connect(self, association: _PublishedAssociation) -> None:
        """Give it a socket that is connected to the first of its targets, and send what waits."""
        sock: socket.socket | None = None
        target = association.targets[0]
        try:
            sock = await self._sockets.open(family_of(target), socket.SOCK_DGRAM)
            if association.ended:
                return
            _set_buffers(sock)
            sock.connect((target, self._inside))
            self._readiness.add(sock, partial(self._on_program, association))
        except OSError as error:
            if is_scarcity(error):
                warn_of_scarcity("datagrams for a published port were dropped", error)
            else:
                _log.info("published %s: cannot reach %s: %s", self._name, target, error.strerror)
            if not association.ended:
                self._forget(association)
        else:
            association.sock, sock = sock, None
            for data in self._take_waiting(association):
                self._send(association, data)
        finally:
            self._connecting -= 1
            if sock is not None:
                sock.close()

    def _send(self, association: _PublishedAssociation, data: memoryview | bytes) -> None:
        if association.sock is None:  # the one before has been refused
            self._wait(association, data)
            return
        try:
            association.sock.send(data)
        except ConnectionRefusedError:
            # That was the one before; this one was not sent.
            self._refused(association, bytes(data))
        except OSError:
            self._counters.dropped += 1
        else:
            self._counters.datagrams_in += 1
            if not association.answered and len(association.targets) > 1:
                self._remember(association, data)

    def _refused(self, association: _PublishedAssociation, *data: bytes) -> None:
        """Nothing listens there: send what may be lost to the other address, or forget the client.

        Its next datagram then begins anew: the command may listen by then.
        """
        sock, association.sock = association.sock, None
        if sock is not None:
            self._readiness.remove(sock)
            sock.close()
        if association.answered or len(association.targets) < 2:
            self._counters.dropped += max(1, len(data))
            self._forget(association)
            return
        last = association.last
        self._remember(association, None)
        for one in (last, *data):
            if one is not None:
                self._wait(association, one)
        del association.targets[0]
        self._start(association)

    # from the command

    def _on_program(self, association: _PublishedAssociation, directions: int) -> None:
        sock = association.sock
        if sock is None:
            return
        scratch = _SCRATCH.view
        for _ in range(_BATCH):
            try:
                size = sock.recv_into(scratch)
            except BlockingIOError:
                self._readiness.want_read(sock)
                return
            except ConnectionRefusedError:
                self._refused(association)
                return
            except OSError:
                continue
            association.answered = True
            self._remember(association, None)
            self._use(association)
            try:
                self._socket.sendmsg([scratch[:size]], association.local, 0, association.key[0])
            except OSError:  # no room, no route, or too large for it
                self._counters.dropped += 1
            else:
                self._counters.datagrams_out += 1
        self._readiness.rearm(sock)


def _local(ancillary: Ancillary) -> Ancillary:
    """Return what has an answer leave from the address that was sent to."""
    for level, kind, content in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, ours, _ = _IN_PKTINFO.unpack_from(content)
            return [(level, kind, _IN_PKTINFO.pack(0, ours, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, _IN6_PKTINFO.pack(content[:16], 0))]
    return []


def _set_buffers(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
