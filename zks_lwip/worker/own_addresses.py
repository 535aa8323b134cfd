"""Which addresses are the worker's own machine, as its kernel tells at this moment.

What comes to a machine from itself passes its firewall as loopback does: an address of its own,
public as it may be, is a door that is open to this machine alone. Nothing is listed in advance: an
address that has come or gone since, one of another interface and a whole network that is routed to
this machine (``ip route add local``) are all known to the routing table. What it has said holds
until it says that something has changed (rtnetlink(7)), which it does before the change is over for
the one that makes it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from functools import lru_cache
from ipaddress import IPv4Address

from ..net.sockets import family_of, sockaddr
from .policy import IPAddress

__all__ = ["OwnAddresses"]

_log = logging.getLogger(__name__)

#: Seconds that an answer may be used again where each datagram needs one.
KEEP_SECONDS = 1.0
#: Answers that are kept; they are few, or soon gone.
MAX_KEPT = 4096

# linux/netlink.h, linux/rtnetlink.h
_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, …, type
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NLM_F_REQUEST, _NLMSG_ERROR = 1, 2
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_MARK = 1, 16
_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST = 2, 3, 4
_OWN = (_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST)
# The groups that are told of links, and of addresses, routes and rules of IPv4 and IPv6
_GROUPS = sum(1 << group - 1 for group in (1, 5, 7, 8, 9, 11, 19))
#: What is taken of such news at a time. Where there is more, nothing holds.
_MAX_NEWS = 64
#: Bytes of an answer that are taken; what is used of one are the first.
_MAX_ANSWER = 4096
#: What the kernel says of an address that it has no route to: whatever it is, it is not ours.
_NO_ROUTE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.ESRCH)
)
#: What bind() says of an address that is not this machine's, or of a family that it lacks.
_NOT_OURS = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


@lru_cache(maxsize=MAX_KEPT)
def _question(address: IPAddress, mark: int | None) -> bytes:
    """Return the body of a question for the route to an address."""
    packed = address.packed
    body = _RTMSG.pack(family_of(address), len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    if mark is not None:
        body += _ATTRIBUTE.pack(8, _RTA_MARK) + struct.pack("=I", mark)
    return body


class OwnAddresses:
    """Asks the kernel, by a socket that is best opened while descriptors are plenty.

    :param mark: SO_MARK of the worker's sockets, by which rules may route.
    """

    def __init__(self, mark: int | None = None, *, netlink: bool = sys.platform == "linux") -> None:
        self._mark = mark
        self._netlink = netlink
        self._socket: socket.socket | None = None
        self._news: socket.socket | None = None
        self._known: dict[IPAddress, bool] = {}  # until there are news
        self._sequence = 0
        self._kept: dict[IPAddress, bool] = {}
        self._kept_since = 0.0

    def open(self) -> None:
        """Take the socket; harmless a second time, and where the system lets us have none."""
        if sys.platform == "linux" and self._netlink and self._socket is None:
            try:
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            except OSError as error:
                _log.debug("rtnetlink: %s; bind() tells instead", error.strerror)
                return
            sock.setblocking(False)
            self._socket = sock
            self._subscribe()

    def _subscribe(self) -> None:
        """Have the kernel tell of changes; where it does not, it is asked each time."""
        if sys.platform == "linux":
            news: socket.socket | None = None
            try:
                news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
                news.setblocking(False)
                news.bind((0, _GROUPS))
            except OSError as error:
                _log.debug("rtnetlink tells no news: %s", error.strerror)
                if news is not None:
                    news.close()
            else:
                self._news = news

    def _has_news(self) -> bool:
        """Return whether what the kernel has said may hold no more."""
        if self._news is None:
            return True
        for taken in range(_MAX_NEWS):
            try:
                self._news.recv(1)
            except BlockingIOError:
                return taken > 0
            except OSError:  # ENOBUFS: some were lost
                return True
        return True

    def owns(self, address: IPAddress) -> bool:
        """Return whether a packet to ``address`` would stay here, or go to all of a subnet.

        True also where the system does not tell: then nothing connects to it.
        """
        if self._socket is None:
            self.open()
        if self._socket is not None:
            if self._has_news() or len(self._known) >= MAX_KEPT:
                self._known.clear()
            known = self._known.get(address)
            if known is not None:
                return known
            try:
                known = self._known[address] = self._route_type(address) in _OWN
                return known
            except OSError as error:  # a sandbox without AF_NETLINK, for one
                self.close()
                _log.debug("rtnetlink: %s; bind() tells instead", error.strerror or error)
        return self._can_bind(address)

    def owned_lately(self, address: IPAddress) -> bool:
        """Return as :meth:`owns`, maybe as of :data:`KEEP_SECONDS` ago: datagrams ask each way."""
        now = time.monotonic()
        if now - self._kept_since >= KEEP_SECONDS or len(self._kept) >= MAX_KEPT:
            self._kept.clear()
            self._kept_since = now
        known = self._kept.get(address)
        if known is None:
            known = self._kept[address] = self.owns(address)
        return known

    def close(self) -> None:
        """Give the sockets back; harmless a second time. The next question takes others."""
        for sock in (self._socket, self._news):
            if sock is not None:
                sock.close()
        self._socket = self._news = None
        self._known.clear()

    def _route_type(self, address: IPAddress) -> int:
        """Return the type (RTN_…) of the route that a packet would take; 0: none.

        The kernel answers before the request has been sent, so nothing waits.

        :raises OSError: the kernel cannot be asked.
        """
        body = _question(address, self._mark)
        assert self._socket is not None
        sequence = self._sequence = self._sequence % 0xFFFF_FFFF + 1
        size = _NLMSG.size + len(body)
        self._socket.sendto(
            _NLMSG.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST, sequence, 0) + body, (0, 0)
        )
        while True:
            answer = self._socket.recv(_MAX_ANSWER)
            if len(answer) < _NLMSG.size + 4:
                raise OSError(errno.EPROTO, "a short answer")
            _, kind, _, echoed, _ = _NLMSG.unpack_from(answer)
            if echoed != sequence:
                continue  # of a question before that was given up
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", answer, _NLMSG.size)[0]
                if number in _NO_ROUTE:
                    return 0
                raise OSError(number, os.strerror(number))
            if kind != _RTM_NEWROUTE or len(answer) < _NLMSG.size + _RTMSG.size:
                raise OSError(errno.EPROTO, "an answer of another kind")
            return int(answer[_NLMSG.size + 7])

    @staticmethod
    def _can_bind(address: IPAddress) -> bool:
        """Return whether a socket can be bound to it: a system allows only its own addresses."""
        try:
            with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
                if not isinstance(address, IPv4Address):
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(sockaddr(address, 0))
        except OSError as error:
            return error.errno not in _NOT_OURS
        return True
