"""UDP associations of one session (PROTOCOL.md §5): full-cone sockets without tasks.

One socket per association and address family. A datagram from any host to that socket goes to the
client, with that host's address; ICMP errors for what was sent come from the sockets' error queues
and go as UDP_ERROR. The policy holds both ways. The session decides which association has to go
when there are too many; here they end when idle.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections import OrderedDict
from typing import Protocol

import trio

from ..tunnel.frames import MAX_DATAGRAM, Buffer, Code, Udp
from ..tunnel.session import Session
from ..tunnel.session_v1 import WorkerV1
from .dial import error_code
from .limits import Descriptors
from .policy import Policy
from .readiness import Readiness
from .sockets import family_of, open_socket

__all__ = ["UdpAssociations", "UdpOwner"]

log = logging.getLogger(__name__)

_BATCH = 64  # datagrams of one socket before the others have their turn
_ERRORS = 16
_RECEIVE_BUFFER = 1 << 20
_SEND_BUFFER = 1 << 18

# linux/in.h, linux/in6.h, linux/errqueue.h: not all are in the socket module
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_SOL_IP, _SOL_IPV6 = 0, 41
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_ORIGINS = (1, 2, 3)  # local, ICMP, ICMPv6
_LINUX = sys.platform == "linux"
_MSG_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", 0x2000)

#: The codes that UDP_ERROR may carry.
_CODES = frozenset(
    (
        Code.REFUSED,
        Code.HOST_UNREACHABLE,
        Code.NETWORK_UNREACHABLE,
        Code.TOO_BIG,
        Code.POLICY,
    )
)

_buffer = bytearray(65536)  # where every datagram arrives; copied at once into its frame
_view = memoryview(_buffer)


class UdpOwner(Protocol):
    """What associations need of their session's owner."""

    session: Session | WorkerV1
    policy: Policy
    readiness: Readiness
    udp_descriptors: Descriptors
    mark: int | None


class _Association:
    __slots__ = ("_owner", "id", "_sockets", "used")

    def __init__(self, owner: UdpAssociations, id: int) -> None:
        self.id = id
        self.used = 0.0
        self._owner = owner
        self._sockets: dict[int, socket.socket] = {}

    def _open(self, family: int) -> socket.socket:
        owner = self._owner.owner
        try:
            owner.udp_descriptors.take()
        except OSError:
            if not self._owner.give_way(self):
                raise
            owner.udp_descriptors.take()
        sock: socket.socket | None = None
        try:
            sock = open_socket(family, socket.SOCK_DGRAM, owner.mark)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::", 0))
                if _LINUX:
                    sock.setsockopt(_SOL_IPV6, _IPV6_RECVERR, 1)
            else:
                sock.bind(("0.0.0.0", 0))
                if _LINUX:
                    sock.setsockopt(_SOL_IP, _IP_RECVERR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if not _LINUX:  # macOS sends at most 9,216 bytes otherwise
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            opened = sock
            owner.readiness.add(sock, lambda directions: self._on_ready(opened))
        except BaseException:
            owner.udp_descriptors.give()
            if sock is not None:
                sock.close()
            raise
        self._sockets[family] = sock
        return sock

    def send(self, family: int, address: tuple[str, int], payload: Buffer) -> None:
        """One datagram out; what cannot be sent is dropped, with UDP_ERROR where that helps."""
        counters = self._owner
        try:
            sock = self._sockets.get(family) or self._open(family)
            try:
                sock.sendto(payload, address)
            except BlockingIOError:
                raise
            except OSError:
                # It may be the late error of an earlier datagram: that is told, this one sent.
                if not self._take_errors(sock):
                    raise
                sock.sendto(payload, address)
        except BlockingIOError:
            counters.dropped += 1
        except OSError as error:
            counters.dropped += 1
            code = error_code(error)
            if code in _CODES:
                counters.owner.session.udp_error(self.id, code, *address)
            else:
                log.debug("a datagram was not sent: %s", error.strerror)

    def _on_ready(self, sock: socket.socket) -> None:
        owner = self._owner
        session, permits = owner.owner.session, owner.owner.policy.permits
        for _ in range(_BATCH):
            try:
                size, source = sock.recvfrom_into(_buffer)
            except BlockingIOError:
                self._take_errors(sock)
                owner.owner.readiness.want_read(sock)
                return
            except OSError:
                self._take_errors(sock)
                continue
            host = source[0]
            if size > MAX_DATAGRAM or not permits(host):
                owner.dropped += 1
                continue
            self._owner.touch(self)
            session.send_udp(self.id, host, source[1], _view[:size])
        owner.owner.readiness.rearm(sock)

    def _take_errors(self, sock: socket.socket) -> bool:
        """Empty the error queue (ip(7), IP_RECVERR) into UDP_ERRORs; True if there was any."""
        if not _LINUX:
            return False
        found = False
        session = self._owner.owner.session
        for _ in range(_ERRORS):
            try:
                _, ancillary, _, address = sock.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:  # EAGAIN: it is empty
                return found
            found = True
            for level, kind, data in ancillary:
                if (level, kind) not in ((_SOL_IP, _IP_RECVERR), (_SOL_IPV6, _IPV6_RECVERR)):
                    continue
                if len(data) < _EXTENDED_ERROR.size or not address:
                    continue
                number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
                code = error_code(OSError(number, ""))
                if origin in _ORIGINS and code in _CODES:
                    session.udp_error(self.id, code, address[0].partition("%")[0], address[1])
        return found

    @property
    def has_sockets(self) -> bool:
        return bool(self._sockets)

    def close(self) -> None:
        owner = self._owner.owner
        for sock in self._sockets.values():
            owner.readiness.remove(sock)
            owner.udp_descriptors.give()
            sock.close()
        self._sockets.clear()


class UdpAssociations:
    """All associations of one session."""

    def __init__(self, owner: UdpOwner, idle: float) -> None:
        self.owner = owner
        self._idle = idle
        self._open: OrderedDict[int, _Association] = OrderedDict()  # least recently used first
        #: datagrams that were refused, or could not be sent
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def send(self, frame: Udp) -> None:
        """A UDP frame of the client: opens the association if it must."""
        association = self._open.get(frame.association)
        if association is None:
            association = self._open[frame.association] = _Association(self, frame.association)
        self.touch(association)
        address, reason = self.owner.policy.check_literal(frame.host)
        if address is None or not frame.port:
            self.dropped += 1
            return
        if reason is not None:
            self.dropped += 1
            self.owner.session.udp_error(frame.association, Code.POLICY, frame.host, frame.port)
            return
        association.send(family_of(address), (str(address), frame.port), frame.payload)

    def close(self, id: int) -> None:
        """UDP_CLOSE, from the client or because the session has too many."""
        association = self._open.pop(id, None)
        if association is not None:
            association.close()

    def sweep(self) -> None:
        """Drop what has been idle for too long, with UDP_CLOSE."""
        oldest = trio.current_time() - self._idle
        while self._open:
            id, association = next(iter(self._open.items()))
            if association.used > oldest:
                return
            self._drop(id)

    def touch(self, association: _Association) -> None:
        """It is used now."""
        association.used = trio.current_time()
        self._open.move_to_end(association.id)

    def give_way(self, wanting: _Association) -> bool:
        """Drop the least recently used one but ``wanting``, for its descriptor; False: none has
        any."""
        for id, association in self._open.items():
            if association is not wanting and association.has_sockets:
                self._drop(id)
                return True
        return False

    def _drop(self, id: int) -> None:
        self.owner.session.udp_close(id)
        self.close(id)

    def close_all(self) -> None:
        """The end of the session."""
        for id in list(self._open):
            self.close(id)
