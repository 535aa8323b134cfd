"""What a session tells its owner (PROTOCOL.md §3 to §5, §9).

Events say what happened to a stream, an association or a request. Frames say how it is written, and
not every frame is an event: PING, PONG, WINDOW and ACK are the session's own business. Sessions of
both versions of the protocol give the same events.

Ids are those of the frames: ``stream``, ``association`` and ``request`` are 1 to 2^32-1. A payload
is a view into the message that brought it: copy what is to outlive the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .hello import Hello

__all__ = [
    "DataReceived",
    "DatagramReceived",
    "DatagramsReceived",
    "DnsAnswerReceived",
    "DnsQueryReceived",
    "EchoReceived",
    "EchoReplyReceived",
    "EofReceived",
    "Event",
    "GoAwayReceived",
    "SessionReady",
    "SessionResumed",
    "StreamClosed",
    "StreamConnected",
    "StreamOpened",
    "StreamReset",
    "UdpClosed",
    "UdpErrorReceived",
]


@dataclass(slots=True)
class SessionReady:
    """The session may be used. It is the first event of each session, and comes once.

    At a client that wanted to resume a session which the worker does not hold any more it comes
    again, behind a StreamReset for each stream: all starts afresh.
    """

    peer: Hello
    """What the peer can carry: its HELLO, or what a peer that speaks v1 is known to carry."""


@dataclass(slots=True)
class SessionResumed:
    """The session goes on over another WebSocket, with all its streams.

    What is not counted was lost with the old one: datagrams, echoes, and DNS queries and their
    answers. At a client: ask them again.
    """


@dataclass(slots=True)
class StreamOpened:
    """Worker: the client wants a stream. Answer by ``accept`` and ``connected``, or ``error``."""

    stream: int
    host: str
    """An IP literal or a name, 1 to 255 bytes of UTF-8; not checked against any policy."""
    port: int
    """0 to 65535."""


@dataclass(slots=True)
class StreamConnected:
    """Client: the worker has connected to the far end of a stream."""

    stream: int


@dataclass(slots=True)
class DataReceived:
    """Bytes of a stream. Pass their number to ``consumed`` once they have been passed on."""

    stream: int
    payload: memoryview
    """1 byte to our ``max_data``."""


@dataclass(slots=True)
class EofReceived:
    """The peer sends no more DATA on a stream; the other direction goes on."""

    stream: int


@dataclass(slots=True)
class StreamClosed:
    """Worker: the client wants nothing more of a stream, and has sent all that it had.

    The stream is gone. Deliver what came, then close in order.
    """

    stream: int


@dataclass(slots=True)
class StreamReset:
    """A stream was aborted, in both directions: it is gone, and undelivered bytes may go too."""

    stream: int
    code: int = 0
    """The worker's reason (``Code``, 1 to 65535); 0: none was given."""
    message: str = ""
    """The worker's words, up to 64 KiB: cut and quote them before they are shown."""


@dataclass(slots=True)
class DatagramReceived:
    """A UDP datagram. At the worker it opens its association, if that is not open."""

    association: int
    host: str
    """Where it goes to (worker) or came from (client). Should be an IP literal; not validated."""
    port: int
    """0 to 65535."""
    payload: memoryview
    """0 to 65507 bytes."""


@dataclass(slots=True)
class DatagramsReceived:
    """UDP datagrams that came behind one another, all for IP literals, as the frames that they are.

    They stand for a :class:`DatagramReceived` each (:func:`~.decode.datagrams_of`). At the worker
    they open their associations, if these are not open.
    """

    frames: memoryview
    """Whole UDP frames, back to back."""
    count: int
    """How many."""
    size: int
    """Bytes of their payloads."""
    associations: tuple[int, ...]
    """Those that they are of, each once: at most 64."""


@dataclass(slots=True)
class UdpClosed:
    """The peer has ended an association, or the worker's limit has (the least recently used)."""

    association: int


@dataclass(slots=True)
class UdpErrorReceived:
    """Client: an ICMP error came for what an association has sent to ``host`` and ``port``."""

    association: int
    code: int
    """One of ``Code``; others are to be ignored."""
    host: str
    """Should be an IP literal; not validated."""
    port: int
    """0 to 65535."""


@dataclass(slots=True)
class DnsQueryReceived:
    """Worker: a DNS query, to be answered by ``dns_response``."""

    request: int
    message: bytes
    """0 to 65535 bytes, not parsed."""


@dataclass(slots=True)
class DnsAnswerReceived:
    """Client: the answer to a ``dns_query``, or SERVFAIL in place of one that is late."""

    request: int
    message: bytes
    """0 to 65535 bytes, not parsed."""


@dataclass(slots=True)
class EchoReceived:
    """Worker: an ICMP echo request is to be sent; its reply goes to ``echo_reply``."""

    request: int
    host: str
    """Should be an IP literal; not validated."""
    payload: bytes


@dataclass(slots=True)
class EchoReplyReceived:
    """Client: the reply to an ``echo``."""

    request: int
    payload: bytes


@dataclass(slots=True)
class GoAwayReceived:
    """The peer ends the session soon; a worker refuses every new stream from now on."""

    code: int
    """0 to 65535."""
    reason: str
    """The peer's words: cut and quote them before they are shown."""


Event: TypeAlias = (
    SessionReady | SessionResumed | StreamOpened | StreamConnected | DataReceived | EofReceived
    | StreamClosed | StreamReset | DatagramReceived | DatagramsReceived | UdpClosed
    | UdpErrorReceived | DnsQueryReceived | DnsAnswerReceived | EchoReceived | EchoReplyReceived
    | GoAwayReceived
)  # fmt: skip
