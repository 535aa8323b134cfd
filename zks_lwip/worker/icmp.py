"""ICMP echo for ECHO (PROTOCOL.md §5).

By unprivileged ICMP datagram sockets, where the system lets us have them: Linux gives them to the
groups of ``net.ipv4.ping_group_range``, macOS to every user. Linux writes the identifier and the
checksum, and passes on only replies to the socket's own requests. Where they are forbidden, by
raw sockets, which take root or CAP_NET_RAW; all that is not a reply is then filtered in the kernel,
and others' replies here.

There is one socket per family, for all sessions, opened before privileges are given away.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import sys
from array import array
from collections import OrderedDict
from typing import Protocol

import trio

from ..net.readiness import Readiness
from ..net.sockets import family_of, open_socket
from ..protocol import EchoReceived, WorkerSession
from .limits import Account
from .policy import IPAddress, Policy

__all__ = ["EchoOwner", "Echoes", "Pinger"]

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443)
_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL: dict[int, int] = {
    socket.AF_INET: socket.IPPROTO_ICMP,
    socket.AF_INET6: socket.IPPROTO_ICMPV6,
}
# linux/icmp.h, linux/icmpv6.h (RFC 3542 §3.2): level, option, and a bit for each type to block
_FILTER: dict[int, tuple[int, int, bytes]] = {
    socket.AF_INET: (255, 1, struct.pack("=I", ~(1 << 0) & 0xFFFFFFFF)),
    socket.AF_INET6: (
        58,
        1,
        struct.pack("=8I", *(0xFFFFFFFD if i == 4 else 0xFFFFFFFF for i in range(8))),
    ),
}
_SECONDS = 10.0
"""Seconds after which a reply is not passed on."""
_BATCH = 64
_NUMBERS = 0xFFFF
"""Numbers of requests in flight, from 1."""
_MAX_PACKET = 65535


def _checksum(message: bytes) -> int:
    """Return the checksum of RFC 1071 in the machine's byte order, as it is to be stored."""
    words = array("H", message + b"\0" * (len(message) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class IcmpSocket:
    """One ICMP socket.

    :raises OSError: the system lets us have none.
    """

    def __init__(self, family: int, mark: int | None) -> None:
        self.family = family
        self.raw = False
        self.ident = 0
        try:
            self.sock = open_socket(family, socket.SOCK_DGRAM, mark, _PROTOCOL[family])
            return
        except OSError:
            if sys.platform != "linux":
                raise
        self.sock = open_socket(family, socket.SOCK_RAW, mark, _PROTOCOL[family])
        self.raw = True
        self.ident = secrets.randbelow(1 << 16)
        try:
            self.sock.setsockopt(*_FILTER[family])
        except BaseException:
            self.sock.close()
            raise

    def send(self, host: str, sequence: int, payload: bytes) -> None:
        """Send an echo request.

        :raises OSError: the system refuses it.
        """
        packet = _HEADER.pack(_REQUEST[self.family], 0, 0, self.ident, sequence) + payload
        # Linux makes the checksum for its datagram sockets, and every kernel that of ICMPv6.
        if self.family == socket.AF_INET and (self.raw or sys.platform != "linux"):
            packet = packet[:2] + struct.pack("=H", _checksum(packet)) + packet[4:]
        self.sock.sendto(packet, (host, 0))

    def receive(self) -> tuple[str, int, bytes] | None:
        """Take a packet.

        :returns: the host that answered, the sequence number and the payload; None: it is not ours.
        :raises OSError: there is none, or the socket has failed.
        """
        packet, source = self.sock.recvfrom(_MAX_PACKET)
        if self.family == socket.AF_INET and packet and packet[0] >> 4 == 4:
            packet = packet[(packet[0] & 0x0F) * 4 :]  # raw, and on macOS: the IP header is on
        if len(packet) < _HEADER.size or packet[0] != _REPLY[self.family]:
            return None
        _, _, _, ident, sequence = _HEADER.unpack_from(packet)
        if self.raw and ident != self.ident:
            return None
        return source[0].partition("%")[0], sequence, packet[_HEADER.size :]


class Pinger:
    """The ICMP sockets of a worker, and which session waits for which reply."""

    def __init__(self, mark: int | None) -> None:
        self._sockets: dict[int, IcmpSocket] = {}
        self._sequence = 0
        # sequence → (whose it is, request, address, until), oldest first
        self._waiting: OrderedDict[int, tuple[Echoes, int, str, float]] = OrderedDict()
        self._readiness: Readiness | None = None
        for family in _PROTOCOL:
            try:
                self._sockets[family] = IcmpSocket(family, mark)
            except OSError as error:
                _log.debug("no ICMP socket: %s", error.strerror)
        if not self.usable:
            _log.info(
                "clients cannot ping: the system lets this process have no ICMP socket; add its"
                " group to net.ipv4.ping_group_range, or give it CAP_NET_RAW"
            )

    @property
    def usable(self) -> bool:
        """Whether there is a socket for IPv4, which every client expects."""
        return socket.AF_INET in self._sockets

    @property
    def sockets(self) -> tuple[IcmpSocket, ...]:
        """The sockets that the system lets this process have, at most one of each family."""
        return tuple(self._sockets.values())

    @property
    def in_flight(self) -> tuple[tuple[int, int], ...]:
        """Sequence number and request of each echo that may still be answered, oldest first."""
        return tuple((number, request) for number, (_, request, _, _) in self._waiting.items())

    def start(self, readiness: Readiness) -> None:
        """Have replies taken from now on."""
        self._readiness = readiness
        for one in self._sockets.values():
            readiness.add(one.sock, lambda directions, one=one: self._on_ready(one))  # type: ignore[misc]

    def close(self) -> None:
        """Close the socket; harmless a second time."""
        for one in self._sockets.values():
            if self._readiness is not None:
                self._readiness.remove(one.sock)
            one.sock.close()
        self._sockets.clear()

    def send(self, owner: Echoes, request: int, address: IPAddress, payload: bytes) -> int:
        """Send a request. Where all numbers are in flight, the oldest echo is given up for it.

        :returns: the number by which :meth:`forget` knows it.
        :raises OSError: the system refuses it.
        """
        now = trio.current_time()
        while self._waiting and next(iter(self._waiting.values()))[3] < now:
            late, (whose, *_) = self._waiting.popitem(last=False)
            whose.answered(late)
        one = self._sockets.get(family_of(address))
        if one is None:
            raise OSError(0, "no ICMP socket of this family")
        sequence = self._sequence % _NUMBERS + 1
        one.send(str(address), sequence, payload)
        self._sequence = sequence
        # In turn: what still has this number is as many requests old as there are numbers.
        if sequence in self._waiting:
            self._waiting.pop(sequence)[0].answered(sequence)
        self._waiting[sequence] = (owner, request, str(address), now + _SECONDS)
        return sequence

    def forget(self, sequence: int, owner: Echoes) -> None:
        """Wait for this reply no longer."""
        waiting = self._waiting.get(sequence)
        if waiting is not None and waiting[0] is owner:
            del self._waiting[sequence]

    def _on_ready(self, one: IcmpSocket) -> None:
        assert self._readiness is not None
        for _ in range(_BATCH):
            try:
                reply = one.receive()
            except BlockingIOError:
                self._readiness.want_read(one.sock)
                return
            except OSError as error:  # an ICMP error for one of the requests: silence
                _log.debug("ECHO: %s", error.strerror)
                continue
            if reply is not None:
                self.on_reply(*reply)
        self._readiness.rearm(one.sock)

    def on_reply(self, host: str, sequence: int, payload: bytes) -> None:
        """Pass a reply on to the session that waits for it, if any does."""
        waiting = self._waiting.get(sequence)
        if waiting is None or host != waiting[2]:
            return
        owner, request, _, until = self._waiting.pop(sequence)
        owner.answered(sequence)
        if trio.current_time() <= until:
            owner.reply(request, payload)


class EchoOwner(Protocol):
    """What echoes need of their session's owner."""

    session: WorkerSession
    account: Account
    policy: Policy
    pinger: Pinger


class Echoes:
    """The echoes in flight of one session; of its token's, the oldest are given up first."""

    __slots__ = ("_owner", "_waiting")

    def __init__(self, owner: EchoOwner) -> None:
        self._owner = owner
        self._waiting: dict[int, None] = {}

    def send(self, event: EchoReceived) -> None:
        """Send the request; whatever hinders that is silence, as it is on a network."""
        address, reason = self._owner.policy.check_literal(event.host)
        if address is None or reason is not None:
            _log.debug("ECHO to %s: %s", event.host, reason)
            return
        pinger = self._owner.pinger
        try:
            sequence = pinger.send(self, event.request, address, bytes(event.payload))
        except OSError as error:
            _log.debug("ECHO: %s", error.strerror)
            return
        account = self._owner.account
        self._waiting[sequence] = None
        account.echoes[sequence] = self
        if len(account.echoes) > account.limits.echoes:
            oldest, whose = account.echoes.popitem(last=False)
            whose._waiting.pop(oldest, None)
            pinger.forget(oldest, whose)

    def answered(self, sequence: int) -> None:
        """Called by the pinger, also for one that is too late to be answered."""
        self._waiting.pop(sequence, None)
        self._owner.account.echoes.pop(sequence, None)

    def reply(self, request: int, payload: bytes) -> None:
        """Called by the pinger."""
        self._owner.session.echo_reply(request, payload)

    def close_all(self) -> None:
        """Forget all echoes: the session is over."""
        for sequence in tuple(self._waiting):
            self.answered(sequence)
            self._owner.pinger.forget(sequence, self)
