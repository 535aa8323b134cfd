"""ICMP echo for ECHO (PROTOCOL.md §5), by unprivileged ICMP datagram sockets.

Linux lets the groups of ``net.ipv4.ping_group_range`` have them (icmp(7) of newer manuals; macOS
lets everybody). The kernel writes the identifier and the checksum, and passes on only replies to
this socket's own requests.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections import OrderedDict
from typing import Protocol

import trio

from ..tunnel.frames import Echo
from ..tunnel.session import Session
from ..tunnel.session_v1 import WorkerV1
from .limits import Descriptors
from .policy import Policy
from .readiness import Readiness
from .sockets import family_of, open_socket

__all__ = ["EchoOwner", "Echoes", "can_echo"]

log = logging.getLogger(__name__)

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443)
_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL: dict[int, int] = {
    socket.AF_INET: socket.IPPROTO_ICMP,
    socket.AF_INET6: socket.IPPROTO_ICMPV6,
}
_SECONDS = 10.0  # a reply that comes later is not passed on
_BATCH = 64


def can_echo(mark: int | None) -> bool:
    """Whether this process may have ICMP sockets."""
    try:
        open_socket(socket.AF_INET, socket.SOCK_DGRAM, mark, _PROTOCOL[socket.AF_INET]).close()
    except OSError:
        return False
    return True


class EchoOwner(Protocol):
    """What echoes need of their session's owner."""

    session: Session | WorkerV1
    policy: Policy
    readiness: Readiness
    descriptors: Descriptors
    mark: int | None


class Echoes:
    """The echoes in flight of one session; at most ``limit``, the oldest given up first."""

    def __init__(self, owner: EchoOwner, limit: int) -> None:
        self._owner = owner
        self._limit = limit
        self._sequence = 0
        self._sockets: dict[int, socket.socket] = {}
        # sequence → (request, address, until)
        self._waiting: OrderedDict[int, tuple[int, str, float]] = OrderedDict()

    def _open(self, family: int) -> socket.socket:
        owner = self._owner
        owner.descriptors.take()
        sock: socket.socket | None = None
        try:
            sock = open_socket(family, socket.SOCK_DGRAM, owner.mark, _PROTOCOL[family])
            opened = sock
            owner.readiness.add(sock, lambda directions: self._on_ready(opened, family))
        except BaseException:
            owner.descriptors.give()
            if sock is not None:
                sock.close()
            raise
        self._sockets[family] = sock
        return sock

    def send(self, frame: Echo) -> None:
        """Send the request; whatever hinders that is silence, as it is on a network."""
        address, reason = self._owner.policy.check_literal(frame.host)
        if address is None or reason is not None:
            log.debug("ECHO to %s: %s", frame.host, reason)
            return
        family = family_of(address)
        self._sequence = self._sequence % 0xFFFF + 1
        packet = _HEADER.pack(_REQUEST[family], 0, 0, 0, self._sequence) + bytes(frame.payload)
        try:
            sock = self._sockets.get(family) or self._open(family)
            sock.sendto(packet, (str(address), 0))
        except OSError as error:
            log.debug("ECHO: %s", error.strerror)
            return
        self._waiting.pop(self._sequence, None)
        self._waiting[self._sequence] = (
            frame.request,
            str(address),
            trio.current_time() + _SECONDS,
        )
        if len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)

    def _on_ready(self, sock: socket.socket, family: int) -> None:
        for _ in range(_BATCH):
            try:
                packet, source = sock.recvfrom(65535)
            except BlockingIOError:
                self._owner.readiness.want_read(sock)
                return
            except OSError as error:  # an ICMP error for one of the requests: silence
                log.debug("ECHO: %s", error.strerror)
                continue
            if family == socket.AF_INET and sys.platform == "darwin":
                packet = packet[(packet[0] & 0x0F) * 4 :]  # macOS leaves the IP header on
            if len(packet) >= _HEADER.size and packet[0] == _REPLY[family]:
                self._on_reply(packet, source[0].partition("%")[0])
        self._owner.readiness.rearm(sock)

    def _on_reply(self, packet: bytes, host: str) -> None:
        sequence = _HEADER.unpack_from(packet)[4]
        request, asked, until = self._waiting.get(sequence, (0, "", 0.0))
        if host != asked or trio.current_time() > until:
            return
        del self._waiting[sequence]
        self._owner.session.echo_reply(request, packet[_HEADER.size :])

    def close_all(self) -> None:
        """The end of the session."""
        owner = self._owner
        for sock in self._sockets.values():
            owner.readiness.remove(sock)
            owner.descriptors.give()
            sock.close()
        self._sockets.clear()
        self._waiting.clear()
