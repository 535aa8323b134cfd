"""What a session carries that is lost with its WebSocket: UDP, DNS and ICMP (PROTOCOL.md §5).

The calls that send it are here, and what each frame of it that comes does, with every check of
their order; which associations are open and which queries are in flight, both need.
"""

from __future__ import annotations

from ..errors import ProtocolError
from .associations import OpenAssociations
from .decode import datagrams_of
from .dns_refusal import no_query_now
from .events import (
    DatagramReceived,
    DatagramsReceived,
    DnsAnswerReceived,
    DnsQueryReceived,
    EchoReceived,
    EchoReplyReceived,
    Event,
    UdpClosed,
    UdpErrorReceived,
)
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
from .in_flight import QueriesInFlight
from .outbox import Outbox
from .sender import Sender
from .settings import Role, Settings
from .stats import SessionStats

__all__ = ["Datagrams"]


class Datagrams:
    """The UDP, DNS and ICMP of a session. Nothing is sent while the session is not ready."""

    __slots__ = ("_client", "_outbox", "_sender", "_settings", "_stats", "associations", "queries")

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        outbox: Outbox,
        sender: Sender,
        queries: QueriesInFlight,
        stats: SessionStats,
    ) -> None:
        self.associations = OpenAssociations(settings.associations)
        """Worker: those that are open."""
        self.queries = queries
        """Worker: the DNS queries without an answer that has left."""
        self._client = role is Role.CLIENT
        self._settings = settings
        self._outbox = outbox
        self._sender = sender
        self._stats = stats

    def detach(self) -> None:
        """Let go of the WebSocket: queries and their answers are lost."""
        self.queries.clear()

    def stop(self) -> None:
        """Forget all: the session is over."""
        self.queries.clear()
        self.associations.clear()

    # The calls of the session, where the methods of ``Session`` have the details

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
        return self.associations.use(association)

    def udp_close(self, association: int) -> None:
        """End an association."""
        if not self._client and not self.associations.end(association):
            return
        if self._sender.peer is not None:
            self._outbox.add_datagram(UdpClose(association).encode())

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Send UDP_ERROR, at a worker."""
        if self._sender.peer is not None and association in self.associations:
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
        answer = self.queries.answer(request, message)
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

    # The frames that come, and the events they give

    def on_udp(self, datagram: DatagramReceived, events: list[Event]) -> None:
        identifier = datagram.association
        if not identifier:
            raise ProtocolError("UDP: association 0 does not exist")
        if not self._client:
            if not self._settings.udp:
                return
            if not self.associations.use(identifier) and not self._admit(identifier, events):
                return
        self._stats.datagrams_in += 1
        events.append(datagram)

    def on_udp_run(self, run: DatagramsReceived, events: list[Event]) -> None:
        if not self._client:
            if not self._settings.udp:
                return
            if not self.associations.use_all(run.associations):
                # One of them opens an association, which may cost another one of them
                for datagram, _ in datagrams_of(run.frames):
                    self.on_udp(datagram, events)
                return
        self._stats.datagrams_in += run.count
        events.append(run)

    def _admit(self, identifier: int, events: list[Event]) -> bool:
        """Open an association at a worker, at the cost of the least recently used one."""
        if not self.associations.most:
            return False
        evicted = self.associations.admit(identifier)
        if evicted is not None:
            self._outbox.add_datagram(UdpClose(evicted).encode())
            self._stats.associations_evicted += 1
            events.append(UdpClosed(evicted))
        return True

    def on_udp_close(self, frame: UdpClose, events: list[Event]) -> None:
        if self._client:
            events.append(UdpClosed(frame.association))
        elif self.associations.end(frame.association):
            events.append(UdpClosed(frame.association))

    def on_udp_error(self, frame: UdpError, events: list[Event]) -> None:
        events.append(UdpErrorReceived(frame.association, frame.code, frame.host, frame.port))

    def on_dns_query(self, event: DnsQueryReceived, events: list[Event]) -> None:
        request = event.request
        if not request:
            raise ProtocolError("DNS_QUERY: request 0 does not exist")
        settings = self._settings
        if settings.dns and self.queries.take(request, len(event.message)):
            events.append(event)
            return
        self._stats.dns_refused += 1
        refusal = no_query_now(event.message, settings.dns, settings.requests)
        if not self._outbox.add_dns(DnsResponse(request, refusal).encode(), in_flight=False):
            raise ProtocolError("DNS_QUERY: the client asks, but does not read the answers")

    def on_dns_response(self, event: DnsAnswerReceived, events: list[Event]) -> None:
        events.append(event)

    def on_echo(self, frame: Echo, events: list[Event]) -> None:
        if not frame.request:
            raise ProtocolError("ECHO: request 0 does not exist")
        if self._settings.icmp:
            events.append(EchoReceived(frame.request, frame.host, bytes(frame.payload)))

    def on_echo_reply(self, frame: EchoReply, events: list[Event]) -> None:
        events.append(EchoReplyReceived(frame.request, bytes(frame.payload)))
