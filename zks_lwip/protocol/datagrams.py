"""What a session sends that is lost with its WebSocket: UDP, DNS and ICMP (PROTOCOL.md §5)."""

from __future__ import annotations

from .frames import (
    Buffer,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    UdpClose,
    UdpError,
    encode_udp,
)
from .outbox import Outbox
from .receiver import Receiver
from .sender import Sender
from .settings import Role
from .stats import SessionStats

__all__ = ["Datagrams"]


class Datagrams:
    """The calls of a session for these; the methods of :class:`Session` of the same names have the
    details. Nothing is taken while the session is not ready."""

    __slots__ = ("_client", "_outbox", "_receiver", "_sender", "_stats")

    def __init__(
        self, role: Role, *, outbox: Outbox, sender: Sender, receiver: Receiver, stats: SessionStats
    ) -> None:
        self._client = role is Role.CLIENT
        self._outbox = outbox
        self._sender = sender
        self._receiver = receiver
        self._stats = stats

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """Send a datagram; False: it is dropped."""
        if not self._may_send(association):
            self._stats.datagrams_dropped += 1
            return False
        self._outbox.add_datagram(encode_udp(association, host, port, payload))
        self._stats.datagrams_out += 1
        return True

    def send_udp_frames(self, frames: Buffer, count: int, association: int) -> bool:
        """Send datagrams that are UDP frames already; False: all are dropped."""
        if not self._may_send(association):
            self._stats.datagrams_dropped += count
            return False
        self._outbox.add_datagrams(frames, count)
        self._stats.datagrams_out += count
        return True

    def _may_send(self, association: int) -> bool:
        peer = self._sender.peer
        if peer is None:
            return False
        if self._client:
            return peer.udp
        associations = self._receiver.associations
        if association not in associations:
            return False
        associations.move_to_end(association)
        return True

    def udp_close(self, association: int) -> None:
        """End an association."""
        if not self._client and self._receiver.associations.pop(association, 0) == 0:
            return
        if self._sender.peer is not None:
            self._outbox.add_datagram(UdpClose(association).encode())

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Send UDP_ERROR, at a worker."""
        if self._sender.peer is not None and association in self._receiver.associations:
            self._outbox.add_datagram(UdpError(association, code, host, port).encode())

    def dns_query(self, request: int, message: bytes) -> bool:
        """Send a DNS query, at a client; False: it is not taken."""
        peer = self._sender.peer
        if peer is None or not peer.dns:
            return False
        if not self._outbox.add_dns(DnsQuery(request, message).encode(), in_flight=False):
            self._stats.dns_refused += 1
            return False
        return True

    def dns_response(self, request: int, message: bytes) -> None:
        """Answer a DNS query that is in flight, at a worker."""
        answer = self._receiver.queries.answer(request, message)
        if answer is not None:
            self._stats.dns_refused += answer is not message
            self._outbox.add_dns(DnsResponse(request, answer).encode(), in_flight=True)

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """Have the worker send an ICMP echo request; False: it sends none."""
        peer = self._sender.peer
        if peer is None or not peer.icmp:
            return False
        self._outbox.add_datagram(Echo(request, host, payload).encode())
        return True

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """Send the reply to an echo, at a worker."""
        if self._sender.peer is not None:
            self._outbox.add_datagram(EchoReply(request, payload).encode())
