"""The handles that a tunnel gives out: a stream, and a UDP association."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Association", "StreamPeer", "TunnelStream", "UdpPeer"]


class StreamPeer(Protocol):
    """Who is at this end of a stream. Called synchronously in the trio thread; must not block.

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
    """Who is at this end of a UDP association. Called synchronously in the trio thread."""

    def on_datagram(self, host: str, port: int, payload: memoryview, /) -> None:
        """A datagram came from there, an IP literal. ``payload`` is valid during the call only."""
        ...

    def on_udp_error(self, code: int, host: str, port: int, /) -> None:
        """An ICMP error came from there; the codes are those of PROTOCOL.md §5."""
        ...

    def on_udp_close(self) -> None:
        """The worker has dropped the association; sending opens it again."""
        ...


class TunnelStream:
    """One TCP stream of a tunnel. Everything is harmless after its end."""

    __slots__ = (
        "_pool_forget",
        "channel",
        "connected",
        "deadline",
        "eof_received",
        "eof_sent",
        "host",
        "identifier",
        "over",
        "peer",
        "port",
        "pulled",
        "tries",
    )

    def __init__(
        self,
        host: str,
        port: int,
        peer: StreamPeer,
        deadline: float,
        pool_forget: Callable[[TunnelStream], None],
    ) -> None:
        self.host = host
        self.port = port
        self.peer = peer
        self.deadline = deadline  #: until which it may wait for a channel
        self.channel: Channel | None = None
        self.identifier = 0  #: its id on the channel
        self.connected = False
        self.pulled = False  #: the peer's bytes are on their way: no other channel can have it
        self.eof_sent = False
        self.eof_received = False
        self.over = False
        self.tries = 0
        self._pool_forget = pool_forget

    # for the owner

    def mark_ready(self) -> None:
        """The peer has bytes again, or its end of stream."""
        if self.channel is not None:
            self.channel.session.mark_ready(self.identifier)

    def consumed(self, n: int) -> None:
        """``n`` bytes of ``on_data`` have been passed on; the far end may send as many more."""
        if self.channel is not None:
            self.channel.session.consumed(self.identifier, n)

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
    def ended(self) -> bool:
        """Both directions have ended by themselves."""
        return self.eof_sent and self.eof_received

    # for the session and the channel

    def pull_into(self, view: memoryview) -> int | None:
        if self.over:
            return 0
        count = self.peer.pull_into(view)
        if count is None:
            self.pulled = True
            self.eof_sent = True
            if self.eof_received and self.channel is not None:
                self.channel.forget(self)
        elif count:
            self.pulled = True
        return count

    def end(self, code: int, message: str) -> None:
        """Tell the peer that it is over, once."""
        if not self.over:
            self.over = True
            self.channel = None
            self.peer.on_end(code, message)


class Association:
    """One local UDP address of the client (PROTOCOL.md §5)."""

    __slots__ = ("_forget", "_send", "identifier", "peer")

    def __init__(
        self,
        identifier: int,
        peer: UdpPeer,
        send: Callable[[int, str, int, memoryview | bytes], bool],
        forget: Callable[[int], None],
    ) -> None:
        self.identifier = identifier
        self.peer = peer
        self._send = send
        self._forget = forget

    def send(self, host: str, port: int, payload: memoryview | bytes) -> bool:
        """Send a datagram to an IP literal; False if it was dropped (no channel, congestion)."""
        return self._send(self.identifier, host, port, payload)

    def close(self) -> None:
        """Drop it here and at the worker. Harmless a second time."""
        self._forget(self.identifier)
