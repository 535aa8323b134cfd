"""What a session is to its owner, whichever version of the protocol it speaks.

The version is chosen once, when the WebSocket has been opened. The owner of a session sees it only
as ``flow_controlled`` here, and as the fields of ``carrier.versions.Version``.
:class:`.session.Session` is v2 at either end, :class:`.v1.ClientV1` and :class:`.v1.WorkerV1` are
v1; their docstrings have the details of the calls below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .events import Event
from .frames import Buffer
from .hello import Hello
from .settings import Settings
from .stats import SessionStats
from .stream import Source

__all__ = ["AnySession", "ClientSession", "WorkerSession"]


class AnySession(Protocol):
    """A session at either end. A call that names a stream which is gone does nothing."""

    settings: Settings
    stats: SessionStats

    def attach(
        self, wake: Callable[[], None] | None = ..., unblock: Callable[[], None] | None = ...
    ) -> None:
        """Go on over a WebSocket that has been opened; v1: once.

        :param wake: called, and must only take note, whenever ``has_output`` becomes true.
        :param unblock: called likewise when ``may_receive`` becomes true again.
        :raises RuntimeError: while it is attached, or once it is over.
        """

    def detach(self) -> bool:
        """Let go of the WebSocket, which is lost.

        :returns: whether the session can be resumed (``attach``); if not, it is over.
        """

    @property
    def attached(self) -> bool:
        """It has a WebSocket."""

    def announced(self, hello: Hello) -> None:
        """Note that the request of the WebSocket that it goes on over has said this HELLO."""

    @property
    def resumable(self) -> bool:
        """It outlives the loss of its WebSocket."""

    @property
    def resume_seconds(self) -> int:
        """Seconds for which it outlives its WebSocket, as both ends agreed; 0: never."""

    @property
    def resumes(self) -> int:
        """How often it has been resumed."""

    @property
    def id(self) -> str | None:
        """Its id, once that is known. Never log it."""

    @property
    def unacknowledged(self) -> int:
        """Bytes of counted frames that the peer has not acknowledged; 0 where it never does."""

    @property
    def unacknowledged_since(self) -> float | None:
        """When, by the session's clock, the oldest of these was sent; None: there are none."""

    @property
    def kept_limit(self) -> int:
        """Bytes that may be unacknowledged at present before streams are held up."""

    @property
    def flow_controlled(self) -> bool:
        """Streams have credit, so that the WebSocket can always be read; ``may_receive`` is true.

        Where they have none, not reading the WebSocket is all the backpressure there is.
        """

    @property
    def may_receive(self) -> bool:
        """Whether the owner may read another message."""

    @property
    def deadline(self) -> float | None:
        """When, by the session's clock, to ask for events and output at the latest."""

    @property
    def finished(self) -> bool:
        """Nothing more can come of this session: close the WebSocket (1000)."""

    @property
    def ready(self) -> bool:
        """SessionReady has come, and the session is not over."""

    @property
    def peer(self) -> Hello | None:
        """What the peer can carry, once that is known."""

    @property
    def has_output(self) -> bool:
        """There may be something to send now, or an event to take."""

    @property
    def open_streams(self) -> int:
        """How many streams are open."""

    @property
    def round_trip(self) -> float:
        """Smoothed round trip in seconds; 0.0 while none was measured."""

    def is_open(self, stream: int) -> bool:
        """Return whether a stream is open."""

    def receive(self, message: Buffer) -> list[Event]:
        """Take one WebSocket message, and return what it has brought.

        :raises ProtocolError: if the peer has broken the protocol; the session is then over.
        """

    def work_through(self, message: Buffer) -> Iterator[Event | None]:
        """Take one message an event at a time; None is an opportunity to pause."""

    def take_events(self) -> list[Event]:
        """Return the events that no message has brought. To be called before ``next_message``."""

    def next_message(self, limit: int = ...) -> bytearray | None:
        """Return the next message to send, of ``limit`` bytes or so; None if there is none."""

    def message_changed(self, restore: Callable[[bytearray], None]) -> None:
        """Say that the last message is changed in place, to be sent, and what changes it back."""

    def mark_ready(self, stream: int) -> None:
        """Say that the source of a stream has bytes, or has reached its end."""

    def consumed(self, stream: int, size: int) -> None:
        """Say that ``size`` bytes of a stream's DATA were passed on: the peer may send more."""

    def bind(
        self, stream: int, target: Any, handle: int, *, pull: bool = ..., push: bool = ...
    ) -> None:
        """Have C move the bytes of a stream, where the version can, and not Python."""

    def unbind(self, stream: int) -> None:
        """Have Python move the bytes of a stream again."""

    def close(self, stream: int) -> None:
        """Abort both directions of a stream."""

    def send_udp(self, association: int, host: str, port: int, payload: Buffer) -> bool:
        """Send a datagram to, or (worker) from, ``host``; False if it is dropped."""

    def send_udp_frames(self, frames: Buffer, count: int, association: int = ...) -> bool:
        """Send ``count`` datagrams that are UDP frames already; False if all are dropped."""

    def udp_close(self, association: int) -> None:
        """End an association."""

    def goaway(self, code: int, reason: str = ...) -> None:
        """Open no new stream, or (worker) answer CONNECT with 503 from now on."""

    def ping(self) -> None:
        """Have the round trip measured, where the version can."""

    def end(self) -> None:
        """Forget all streams and all that waits: the session is over."""


class ClientSession(AnySession, Protocol):
    """A client's end."""

    def resumption(self) -> Hello | None:
        """Return the HELLO for the request of another WebSocket; None: it cannot be resumed."""

    @property
    def can_connect(self) -> bool:
        """Another stream may be opened now."""

    def connect(self, host: str, port: int, source: Source) -> int:
        """Open a stream, and return its id."""

    def dns_query(self, request: int, message: bytes) -> bool:
        """Send a DNS query; False if it is not taken."""

    def echo(self, request: int, host: str, payload: Buffer) -> bool:
        """Have the worker send an ICMP echo request; False if it sends none."""


class WorkerSession(AnySession, Protocol):
    """A worker's end."""

    def accept(self, stream: int, source: Source) -> None:
        """Say who supplies the DATA of a stream that was opened."""

    def connected(self, stream: int) -> None:
        """Tell the client that the far end is connected."""

    def error(self, stream: int, code: int, message: str = ...) -> None:
        """End a stream, in both directions, at once, with a ``Code``."""

    def udp_error(self, association: int, code: int, host: str, port: int) -> None:
        """Tell the client of an ICMP error that came for an association."""

    def dns_response(self, request: int, message: bytes) -> None:
        """Answer a DNS query; for one that is not in flight, do nothing."""

    def echo_reply(self, request: int, payload: Buffer) -> None:
        """Send the reply to an echo."""
