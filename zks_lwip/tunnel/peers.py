"""The handles that a tunnel gives out: a stream, and a UDP association."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..protocol import ClientSession

__all__ = ["Association", "DatagramSink", "StreamPeer", "TunnelStream", "UdpPeer"]


class StreamChannel(Protocol):
    """What a stream needs of the channel that carries it."""

    session: ClientSession

    def close_stream(self, stream: TunnelStream, /) -> None:
        """Abort a stream."""

    def forget(self, stream: TunnelStream, /) -> None:
        """Let a stream be gone: it is in the session, too."""


class StreamPeer(Protocol):
    """The near end of a stream. Called synchronously in the trio thread; must not block.

    After ``on_end``, and after end of stream both ways, nothing is called any more.
    """

    def pull_into(self, view: memoryview, /) -> int | None:
        """Write up to ``len(view)`` bytes for the far end and say how many.

        0: none now (call ``mark_ready`` when there are); None: end of stream.
        """
        ...

    def on_connected(self) -> None:
        """The worker has connected to the far end."""
        ...

    def on_data(self, payload: memoryview, /) -> None:
        """Bytes of the far end, never empty. Valid during the call only."""
        ...

    def on_eof(self) -> None:
        """The far end sends no more."""
        ...

    def on_end(self, code: int, message: str, /) -> None:
        """Both directions are over: an ERROR's code (PROTOCOL.md §4), 0 for CLOSE.

        503 is also what happens when the session is lost, or no channel was to be had in time.
        """
        ...


class UdpPeer(Protocol):
    """The near end of a UDP association. Called synchronously in the trio thread."""

    def on_datagram(self, host: str, port: int, payload: memoryview, /) -> None:
        """A datagram came from there, an IP literal. ``payload`` is valid during the call only."""
        ...

    def on_udp_error(self, code: int, host: str, port: int, /) -> None:
        """An ICMP error came from there; the codes are those of PROTOCOL.md §5."""
        ...

    def on_udp_close(self) -> None:
        """The worker has dropped the association; sending opens it again."""
        ...


class DatagramSink(Protocol):
    """Takes the datagrams of many peers at once, called synchronously in the trio thread."""

    def deliver(self, frames: memoryview, associations: tuple[int, ...], /) -> int:
        """Datagrams came, as UDP frames (PROTOCOL.md §5) of these associations back to back.

        ``frames`` is valid during the call only.

        :returns: how many name no IP literal, and were dropped.
        """
        ...


_MAX_EARLY = 16 << 10
"""Bytes of a stream that may leave before the worker has connected: they are kept until then."""


class _Early:
    """What a stream has sent before it was connected, to be sent again on another channel."""

    __slots__ = ("data", "ended", "sent")

    def __init__(self) -> None:
        self.data = bytearray()
        self.sent = 0  # so much of it on this channel
        self.ended = False  # the peer's end of stream is behind it


class StreamRequest:
    """What a stream asks a channel for: it is kept until the worker has connected."""

    __slots__ = ("deadline", "host", "port", "refusal", "refusals")

    def __init__(self, host: str, port: int, deadline: float) -> None:
        self.host = host
        self.port = port
        self.deadline = deadline  #: until which it may wait for a channel
        self.refusals = 0  #: how many channels had no room for it
        self.refusal = 503, "no channel to the worker"  #: the last one's code and message


class TunnelStream:
    """One TCP stream of a tunnel. Everything is harmless after its end."""

    __slots__ = (
        "_early",
        "_pool_forget",
        "_request",
        "channel",
        "eof_received",
        "eof_sent",
        "identifier",
        "marked",
        "over",
        "peer",
    )

    def __init__(
        self,
        host: str,
        port: int,
        peer: StreamPeer,
        deadline: float,
        pool_forget: Callable[[TunnelStream], None],
        *,
        marked: bool = True,
    ) -> None:
        self._request: StreamRequest | None = StreamRequest(host, port, deadline)
        self.peer = peer
        self.marked = marked  #: the peer may have bytes, as far as it has said
        self.channel: StreamChannel | None = None
        self.identifier = 0  #: its id on the channel
        self.eof_sent = False
        self.eof_received = False
        self.over = False
        self._early: _Early | None = None
        self._pool_forget = pool_forget

    @property
    def request(self) -> StreamRequest:
        """What it asks a channel for, unless it is connected."""
        assert self._request is not None
        return self._request

    @property
    def connected(self) -> bool:
        """The worker has connected to the far end."""
        return self._request is None

    # for the owner

    def mark_ready(self) -> None:
        """Say that the peer has bytes again, or its end of stream."""
        self.marked = True
        if self.channel is not None:
            self.channel.session.mark_ready(self.identifier)

    def consumed(self, n: int) -> None:
        """Say that ``n`` bytes of ``on_data`` were passed on; the far end may send as many more."""
        if self.channel is not None:
            self.channel.session.consumed(self.identifier, n)

    def bind(self, target: Any, handle: int, *, pull: bool = False, push: bool = False) -> None:
        """Have C move the bytes, and not the peer; see :meth:`~zks_lwip.protocol.Session.bind`.

        It does nothing while what the peer sends may have to be sent again.
        """
        pull = pull and self._early is None
        if self.channel is not None and self.connected and (pull or push):
            self.channel.session.bind(self.identifier, target, handle, pull=pull, push=push)

    def unbind(self) -> None:
        """Have the peer move the bytes again."""
        if self.channel is not None:
            self.channel.session.unbind(self.identifier)

    def close(self) -> None:
        """Abort both directions: the far end sees a reset. ``on_end`` is not called."""
        if self.over:
            return
        self.over = True
        if self.channel is None:
            self._pool_forget(self)
        else:
            self.channel.close_stream(self)

    @property
    def untouched(self) -> bool:
        """It is not connected, as far as is known, and nothing of it has been sent."""
        early = self._early
        return not self.connected and (early is None or not (early.sent or early.ended))

    @property
    def ended(self) -> bool:
        """Both directions have ended by themselves."""
        return self.eof_sent and self.eof_received

    # for the session and the channel

    def pull_into(self, view: memoryview) -> int | None:
        if self.over:
            return 0
        if self._request is None and self._early is None:
            count = self.peer.pull_into(view)
        else:
            count = self._pull_early(view)
        if count is None:
            self.eof_sent = True
            if self.eof_received and self.channel is not None:
                self.channel.forget(self)
        return count

    def _pull_early(self, view: memoryview) -> int | None:
        """Pull what may have to be sent again, or is."""
        early = self._early
        if early is None:
            early = self._early = _Early()
        if early.sent == len(early.data):
            if early.ended:
                return None
            if self.connected:
                self._early = None
                return self.peer.pull_into(view)
            room = min(len(view), _MAX_EARLY - len(early.data))
            count = self.peer.pull_into(view[:room]) if room else 0
            if count is None:
                early.ended = True
                return None
            early.data += view[:count]
        else:
            count = min(len(view), len(early.data) - early.sent)
            view[:count] = early.data[early.sent : early.sent + count]
        early.sent += count
        return count

    def broke(self, errno: int, *, pushing: bool) -> None:
        """Take no note: the stack tells the peer itself how a connection ends."""

    def on_connected(self) -> None:
        """Take note that the worker has connected to the far end."""
        self._request = None
        if self._early is not None:  # there may be more than was allowed to leave
            self.mark_ready()
        self.peer.on_connected()

    def on_refused(self, code: int, message: str) -> None:
        """Take note that a channel has no room for it: what it was given goes to another."""
        self.channel = None
        self.eof_sent = False
        self.request.refusals += 1
        self.request.refusal = code, message
        if self._early is not None:
            self._early.sent = 0

    def end(self, code: int, message: str) -> None:
        """Tell the peer that it is over, once."""
        if not self.over:
            self.over = True
            self.channel = None
            self.peer.on_end(code, message)


class Association:
    """One local UDP address of the client (PROTOCOL.md §5)."""

    __slots__ = ("_forget", "_send", "identifier", "peer", "sink")

    def __init__(
        self,
        identifier: int,
        peer: UdpPeer,
        sink: DatagramSink | None,
        send: Callable[[int, str, int, memoryview | bytes], bool],
        forget: Callable[[int], None],
    ) -> None:
        self.identifier = identifier
        self.peer = peer
        self.sink = sink
        self._send = send
        self._forget = forget

    def send(self, host: str, port: int, payload: memoryview | bytes) -> bool:
        """Send a datagram to an IP literal; False if it was dropped (no channel, congestion)."""
        return self._send(self.identifier, host, port, payload)

    def close(self) -> None:
        """Drop it here and at the worker. Harmless a second time."""
        self._forget(self.identifier)
