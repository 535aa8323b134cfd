"""What the UDP sockets of a worker share: many datagrams a call, and what the policy has decided.

The work is C's (``native/udp``). It asks the policy, through here, for each host that it does not
know, once a second at most: the machine's own addresses may change.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .._lwip import ffi, lib
from ..protocol import first_datagram
from .own_addresses import KEEP_SECONDS
from .policy import Policy

__all__ = ["DatagramSockets", "SentDatagrams", "tune"]

_BYTES = ffi.typeof("uint8_t[]")
_LINUX = sys.platform == "linux"
_MAX_FLOWS = 64
_MAX_FRAMES = 256
_FRAMES = 1 << 18
"""Bytes of frames that are made at a time of what has come."""

_RECEIVE_BUFFER = 4 << 20
"""Bytes; Linux counts twice as many, with what a datagram costs besides: some 3,600 of 1,200 bytes,
which come in 28 ms where 130,000 a second do. What all sockets hold is bounded by udp(7)'s udp_mem.
"""
_SEND_BUFFER = 1 << 20
# asm-generic/socket.h, linux/udp.h: not in the socket module
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104


def tune(sock: socket.socket) -> None:
    """Give a UDP socket room for bursts, and have the system put together what comes at once."""
    if _LINUX:
        _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER)
        try:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:  # before Linux 5.0
            return
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        # (macOS sends at most 9,216 bytes otherwise, and allows less than Linux.)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER >> 2)


def _set_buffer(sock: socket.socket, force: int, option: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)  # up to the system's limit


def _cuts_segments() -> bool:
    """Return whether the system knows UDP_SEGMENT (Linux 4.18): older ones overlook it."""
    if not _LINUX:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class SentDatagrams:
    """What came of some frames."""

    end: int
    """Bytes of the frames that were worked on."""
    dropped: int
    """Datagrams that were not sent; those of ``problems`` are among them."""
    problems: list[tuple[int, int]]
    """Where the frames begin that were not sent, and the errno, or 0: refused by the policy."""
    with_errors: list[int]
    """Associations for which errors of earlier datagrams have come."""
    lacks_socket: bool
    """The first frame that was not worked on has no socket of its family."""


class DatagramSockets:
    """Sends and receives for all UDP sockets of a worker, in one trio thread.

    :param one_by_one: a system call for each datagram, as on systems that have no others.
    """

    def __init__(self, policy: Policy, *, one_by_one: bool = False) -> None:
        self._policy = policy
        self._one_by_one = one_by_one
        self._flags = 0
        self._decided = -1.0  # since when what was decided holds
        self._inbox = None
        self._dropped = 0

    def _set_up(self) -> None:
        """Take the memory that is needed; most workers carry no UDP for most of the time."""
        if self._one_by_one:
            self._flags = lib.ZKS_UDP_ONE_BY_ONE
        elif not _cuts_segments():
            self._flags = lib.ZKS_UDP_NO_SEGMENTS
        seed = int.from_bytes(os.urandom(4), "big")
        hosts, inbox = lib.zks_udp_hosts_new(seed), lib.zks_udp_inbox_new()
        if ffi.NULL in (hosts, inbox):
            lib.zks_udp_hosts_free(hosts)
            lib.zks_udp_inbox_free(inbox)
            raise MemoryError
        self._hosts = ffi.gc(hosts, lib.zks_udp_hosts_free)
        self._inbox = ffi.gc(inbox, lib.zks_udp_inbox_free)
        self._flows = ffi.new("struct zks_udp_flow[]", _MAX_FLOWS)
        self._problems = ffi.new("struct zks_udp_problem[]", _MAX_FRAMES)
        self._sent = ffi.new("struct zks_udp_sent *")
        self._received = ffi.new("struct zks_udp_received *")
        self._drained = ffi.new("int *")
        self._out = ffi.new(_BYTES, _FRAMES)

    def _begin(self) -> None:
        if self._inbox is None:
            self._set_up()
        now = time.monotonic()
        if now - self._decided >= KEEP_SECONDS:
            self._decided = now
            lib.zks_udp_hosts_clear(self._hosts)

    # to the far ends

    def set_flow(self, index: int, association: int, four: int, six: int) -> None:
        """Name the descriptors of an association's sockets for :meth:`send`; -1: there is none.

        :param index: 0 to 63.
        """
        if self._inbox is None:
            self._set_up()
        flow = self._flows[index]
        flow.association, flow.fd4, flow.fd6, flow.errors = association, four, six, 0

    def send(self, frames: memoryview, flows: int) -> SentDatagrams:
        """Send the datagrams of some frames, as far as their sockets are there.

        :param flows: those that :meth:`set_flow` has named.
        """
        self._begin()
        sent = self._sent
        end = dropped = 0
        problems: list[tuple[int, int]] = []
        state = lib.ZKS_UDP_HOST
        while state == lib.ZKS_UDP_HOST:
            state = lib.zks_udp_send(
                self._hosts,
                ffi.from_buffer(_BYTES, frames[end:]),
                len(frames) - end,
                self._flows,
                flows,
                self._flags,
                sent,
                self._problems,
            )
            if state == lib.ZKS_UDP_DONE and not sent.offset:
                raise ValueError("these are no UDP frames for IP literals")
            for problem in self._problems[0 : sent.problems]:
                problems.append((end + problem.offset, problem.error))
            end += sent.offset
            dropped += sent.dropped
            if state == lib.ZKS_UDP_HOST:
                self._decide(first_datagram(frames[end:])[0].host)
        with_errors = [flow.association for flow in self._flows[0:flows] if flow.errors]
        return SentDatagrams(end, dropped, problems, with_errors, state == lib.ZKS_UDP_SOCKET)

    def _decide(self, host: str) -> None:
        """Have the policy judge a destination."""
        address, reason = self._policy.check_literal(host)
        verdict, family, packed = lib.ZKS_UDP_NONSENSE, 4, bytes(4)
        if address is not None:
            verdict = lib.ZKS_UDP_REFUSED if reason else lib.ZKS_UDP_ALLOWED
            family, packed = address.version, address.packed
        text = host.encode()
        lib.zks_udp_hosts_put(self._hosts, text, len(text), verdict, family, packed)

    # from the far ends

    def receive(self, descriptor: int) -> bool | None:
        """Take what has come for a socket; :meth:`frames_of` gives it.

        :returns: whether nothing more waits; None: there was nothing but an error.
        """
        self._begin()
        count = lib.zks_udp_receive(self._inbox, descriptor, self._flags, self._drained)
        return None if count < 0 else bool(self._drained[0])

    def frames_of(self, association: int) -> Iterator[tuple[bytes, int]]:
        """Yield what was received as UDP frames of an association: pieces, and their number."""
        received = self._received
        state = lib.ZKS_UDP_FULL
        while state != lib.ZKS_UDP_DONE:
            state = lib.zks_udp_inbox_frames(
                self._inbox, self._hosts, association, self._out, _FRAMES, received
            )
            self._dropped += received.dropped
            if received.datagrams:
                yield ffi.buffer(self._out, received.size)[:], received.datagrams
            if state == lib.ZKS_UDP_HOST:
                self._decide_source(received.family, bytes(received.address))

    def _decide_source(self, family: int, address: bytes) -> None:
        """Have the policy judge a source."""
        if family == 4:
            host = socket.inet_ntop(socket.AF_INET, address[:4])
        else:
            host = socket.inet_ntop(socket.AF_INET6, address)
        verdict = lib.ZKS_UDP_ALLOWED if self._policy.permits(host) else lib.ZKS_UDP_REFUSED
        text = host.encode()
        lib.zks_udp_hosts_put_source(self._hosts, family, address, verdict, text, len(text))

    def take_dropped(self) -> int:
        """Return how many datagrams were dropped since this was asked last."""
        dropped, self._dropped = self._dropped, 0
        return dropped
