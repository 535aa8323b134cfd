"""UDP associations of one session (PROTOCOL.md §5): full-cone sockets without tasks.

One socket per association and address family. A datagram from any host to that socket goes to the
client, with that host's address; ICMP errors for what was sent come from the sockets' error queues
and go as UDP_ERROR. The policy holds both ways. The session decides which association has to go
when there are too many; here they end when idle.

No Python object stands for a datagram: C sends those of a run of frames, and makes frames of what
has come (:mod:`.udp_sockets`). Here is what happens once for each association of a run.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections import OrderedDict
from typing import Final, Protocol

import trio

from ..net.descriptors import Descriptors
from ..net.readiness import Readiness
from ..net.sockets import family_of, open_socket
from ..protocol import (
    Code,
    DatagramReceived,
    DatagramsReceived,
    WorkerSession,
    encode_udp,
    first_datagram,
)
from .dial import error_code
from .policy import Policy
from .udp_sockets import DatagramSockets, tune

__all__ = ["UdpAssociations", "UdpOwner"]

_log = logging.getLogger(__name__)

_TURNS = 4
"""Times that a socket is read before the others have their turn: 64 datagrams, or of what the
system has put together 4 MiB."""
_ENOUGH = 256 << 10
"""Bytes after which they have it, too: a session has room for a mebibyte, and sends in between."""
_ERRORS = 16

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


class UdpOwner(Protocol):
    """What associations need of their session's owner."""

    session: WorkerSession
    policy: Policy
    datagrams: DatagramSockets
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

    def fileno(self, family: int) -> int:
        """Return the descriptor of its socket of a family; -1: it has none."""
        sock = self._sockets.get(family)
        return -1 if sock is None else sock.fileno()

    def open(self, family: int) -> None:
        """Open its socket of a family.

        :raises OSError: there is none left, or no such family.
        """
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
            tune(sock)
            opened = sock
            owner.readiness.add(sock, lambda directions: self._on_ready(opened))
        except BaseException:
            owner.udp_descriptors.give()
            if sock is not None:
                sock.close()
            raise
        self._sockets[family] = sock

    def _on_ready(self, sock: socket.socket) -> None:
        owner = self._owner
        session, datagrams = owner.owner.session, owner.owner.datagrams
        size = 0
        for _ in range(_TURNS):
            drained = datagrams.receive(sock.fileno())
            if drained is None:  # an error, which its queue tells, too
                self._take_errors(sock)
                continue
            for frames, count in datagrams.frames_of(self.id):
                owner.touch(self)
                session.send_udp_frames(frames, count, self.id)
                size += len(frames)
            owner.dropped += datagrams.take_dropped()
            if drained:
                self._take_errors(sock)
                owner.owner.readiness.want_read(sock)
                return
            if size >= _ENOUGH:
                break
        owner.owner.readiness.rearm(sock)

    def take_errors(self) -> None:
        """Tell the client of the errors that have come for what was sent."""
        for sock in self._sockets.values():
            self._take_errors(sock)

    def _take_errors(self, sock: socket.socket) -> None:
        """Empty the error queue (ip(7), IP_RECVERR) into UDP_ERRORs."""
        if sys.platform != "linux":
            return
        session = self._owner.owner.session
        for _ in range(_ERRORS):
            try:
                _, ancillary, _, address = sock.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:  # EAGAIN: it is empty
                return
            for level, kind, data in ancillary:
                if (level, kind) not in ((_SOL_IP, _IP_RECVERR), (_SOL_IPV6, _IPV6_RECVERR)):
                    continue
                if len(data) < _EXTENDED_ERROR.size or not address:
                    continue
                number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
                code = error_code(OSError(number, ""))
                if origin in _ORIGINS and code in _CODES:
                    session.udp_error(self.id, code, address[0].partition("%")[0], address[1])

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


_NONE: Final[OrderedDict[int, _Association]] = OrderedDict()
"""What is open in every session that has opened none."""


class UdpAssociations:
    """All associations of one session."""

    __slots__ = ("_idle", "_open", "dropped", "owner")

    def __init__(self, owner: UdpOwner, idle: float) -> None:
        self.owner = owner
        self._idle = idle
        self._open = _NONE  # the least recently used first
        #: datagrams that were refused, or could not be sent
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def send(self, event: DatagramReceived) -> None:
        """Send a datagram of the client's, and open its association if that is not open."""
        address, reason = self.owner.policy.check_literal(event.host)
        if address is None or reason is not None:
            self._touch_id(event.association)
            self.dropped += 1
            if address is not None and event.port:
                self._tell_refusal(event)
            return
        frame = encode_udp(event.association, str(address), event.port, event.payload)
        ids = (event.association,)
        self.send_all(DatagramsReceived(memoryview(frame), 1, len(event.payload), ids))

    def send_all(self, run: DatagramsReceived) -> None:
        """Send datagrams of the client's, and open their associations if these are not open.

        What cannot be sent is dropped, with UDP_ERROR where that helps.
        """
        datagrams = self.owner.datagrams
        for id in run.associations:
            self._touch_id(id)
        frames = run.frames
        while frames:
            for index, id in enumerate(run.associations):
                association = self._open.get(id)  # None: it has given way to another one
                four = six = -1
                if association is not None:
                    four = association.fileno(socket.AF_INET)
                    six = association.fileno(socket.AF_INET6)
                datagrams.set_flow(index, id, four, six)
            sent = datagrams.send(frames, len(run.associations))
            self.dropped += sent.dropped
            for offset, number in sent.problems:
                self._tell(frames[offset:], number)
            for id in sent.with_errors:
                association = self._open.get(id)
                if association is not None:
                    association.take_errors()
            frames = frames[sent.end :]
            if sent.lacks_socket:
                frames = self._open_for(frames)

    def _touch_id(self, id: int) -> None:
        """Open an association, if it is not open, and note that it is used now."""
        association = self._open.get(id)
        if association is None:
            if self._open is _NONE:
                self._open = OrderedDict()
            association = self._open[id] = _Association(self, id)
        self.touch(association)

    def _open_for(self, frames: memoryview) -> memoryview:
        """Open a socket for the first of these frames; return those that can be sent then."""
        datagram, size = first_datagram(frames)
        association = self._open.get(datagram.association)
        try:
            if association is None:
                raise OSError(0, "its association has given way to another one")
            address, _ = self.owner.policy.check_literal(datagram.host)
            assert address is not None  # it would need no socket
            association.open(family_of(address))
        except OSError as error:
            self.dropped += 1
            self._tell_error(datagram, error)
            return frames[size:]
        return frames

    def _tell(self, frames: memoryview, number: int) -> None:
        """Tell the client that the first of these frames was not sent; 0: it is refused."""
        datagram, _ = first_datagram(frames)
        if number:
            self._tell_error(datagram, OSError(number, os.strerror(number)))
        else:
            self._tell_refusal(datagram)

    def _tell_refusal(self, datagram: DatagramReceived) -> None:
        session = self.owner.session
        session.udp_error(datagram.association, Code.POLICY, datagram.host, datagram.port)

    def _tell_error(self, datagram: DatagramReceived, error: OSError) -> None:
        code = error_code(error)
        if code in _CODES:
            session = self.owner.session
            session.udp_error(datagram.association, code, datagram.host, datagram.port)
        else:
            _log.debug("a datagram was not sent: %s", error.strerror)

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
        """Note that it is used now."""
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
        """Close every socket: the session is over."""
        for id in list(self._open):
            self.close(id)
