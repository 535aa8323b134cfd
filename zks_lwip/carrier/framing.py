"""wsproto's framing within bounds of time and of bytes, whatever the peer's bytes look like.

wsproto parses all that it was given before another task runs, and leaves it to its owner to keep
the pieces of a fragmented message: a peer that sends frames without a payload by the million would
stop every task, and fill the memory. Here the parser pauses after :data:`SLICE` seconds, pieces are
joined as they come, and empty fragments are counted.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeAlias

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from ..net.rounds import ROUND
from .handshake import check_answer

__all__ = ["FED", "MAX_EMPTY_FRAGMENTS", "SLICE", "BoundedConnection", "Buffer", "OnChange"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"
OnChange: TypeAlias = "Callable[[Callable[[bytearray], None]], None]"
"""Takes what changes a message back that was changed in place."""

_log = logging.getLogger(__name__)

SLICE = 0.003
"""Seconds for the frames of one WebSocket before other tasks run: far less than a person notices,
and a hundred times what a pass through the scheduler costs."""
MAX_EMPTY_FRAGMENTS = 64
"""Fragments of one message that may hold nothing. One at its start or its end is usual, where a
sender streams; more than that say nothing and cost as much as full ones."""

_HEAD_END = re.compile(rb"\n\r?\n")
_MAX_HEAD = 64 * 1024
_HTTP = b"HTTP/"  # every answer begins so (RFC 9112 §4)
_KEY = re.compile(rb"(?i)^sec-websocket-key:[ \t]*(\S+)", re.MULTILINE)


class _Over:
    """What stands for the opening handshake of wsproto once it is over."""

    def events(self) -> Iterable[Event]:
        return ()


_OVER: Final[Any] = _Over()


class _Fed:
    """What stands for received bytes that the protocol has been given already."""

    def __len__(self) -> int:
        return 1  # trio-websocket takes 0 for the end of the stream


FED: Final = _Fed()
"""Given to :meth:`BoundedConnection.receive_data`: there is nothing new, or older bytes are to be
parsed yet. trio-websocket keeps what it received while it waits, so that it gets no buffers."""


class BoundedConnection(WSConnection):
    """A ``WSConnection`` that parses for a slice of time at once, and gives whole messages only.

    While :attr:`unfinished`, ask :meth:`events` again after other tasks ran. A message of more than
    ``max_message`` bytes is given out as far as it came, and nothing after it: trio-websocket then
    closes with 1009.
    """

    def __init__(self, connection_type: ConnectionType, max_message: int = 1 << 20) -> None:
        super().__init__(connection_type)
        self.max_message = max_message
        #: Seconds after which :meth:`events` pauses, between two frames.
        self.slice = SLICE
        #: While set, called with every binary message instead of that being an event.
        self.on_message: Callable[[memoryview], None] | None = None
        #: While set, called with the payload of every ping instead of that being an event.
        self.on_ping: Callable[[bytes], None] | None = None
        #: What is parsed at once is one round (:mod:`zks_lwip.net.rounds`), before its first event.
        self.in_rounds = False
        #: The slice was over before all that had come was parsed.
        self.unfinished = False
        #: The answer that was no upgrade, once it has come (client).
        self.rejection: RejectConnection | None = None
        #: Why the opening handshake failed, if the answer broke the rules.
        self.handshake_error: str | None = None
        self._head = bytearray()
        self._key = b""  # what our request said (client)
        self._offered: tuple[str, ...] = ()
        self._pieces = bytearray()  # of the fragmented message in progress
        self._empty = 0  # of its fragments, how many held nothing
        self._dead = False  # nothing that comes from here on counts
        self._breach = False  # the peer broke RFC 6455, and has not been told yet

    @property
    def opened(self) -> bool:
        """The opening handshake is over, and its events have been taken."""
        return self.handshake is _OVER

    @property
    def state(self) -> ConnectionState:
        """As ``WSConnection.state``; REMOTE_CLOSING once the peer broke RFC 6455.

        wsproto leaves the state OPEN then, and trio-websocket says nothing to the peer. In this
        state it answers with the status that wsproto gave (RFC 6455 §7.1.7).
        """
        if self._breach:
            return ConnectionState.REMOTE_CLOSING
        return super().state

    def send(self, event: Event) -> Any:
        """As ``WSConnection.send``."""
        if isinstance(event, CloseConnection):
            self._breach = False
        data = super().send(event)
        if isinstance(event, Request):
            self._offered = tuple(event.subprotocols)
            found = _KEY.search(data)
            self._key = found[1] if found is not None else b""
        elif isinstance(event, AcceptConnection):
            self._forget_handshake()
        return data

    def frame_message(
        self, message: Buffer, *, gather: bool = False, on_change: OnChange | None = None
    ) -> tuple[Buffer, ...]:
        """Return the frame of one binary message, in parts that follow each other.

        :param gather: the message may be one of them; otherwise there is one part.
        :param on_change: the message is writable and may be changed in place; when it is, this is
            called with what changes it back.
        :raises LocalProtocolError: nothing may be sent any more.
        """
        return (self.send(BytesMessage(data=message)),)  # type: ignore[arg-type]

    def _forget_handshake(self) -> None:
        """Drop the parsers and headers of a handshake that is over, which take kilobytes."""
        self.handshake = _OVER

    def receive_data(self, data: Any) -> None:
        """As ``WSConnection.receive_data``; takes :data:`FED` too."""
        if data is FED or self._dead:
            return
        if data is None or self.connection is not None:
            self._receive_frames(data)
        else:
            self._receive_handshake(data)

    def _receive_frames(self, data: Any) -> None:
        super().receive_data(data if data is None else bytes(data))

    def _receive_handshake(self, data: bytes) -> None:
        """Give wsproto the HTTP head alone, so that the frames that follow it come to us."""
        searched = max(0, len(self._head) - 2)
        self._head += data
        found = _HEAD_END.search(self._head, searched)
        if self.client and not self._head.startswith(_HTTP[: len(self._head)]):
            # Who speaks something else, and first, may wait for the next word without end.
            self.handshake_error = "what it says is no HTTP"
            raise RemoteProtocolError(self.handshake_error)
        if found is None and len(self._head) < _MAX_HEAD:
            return
        end = len(self._head) if found is None else found.end()
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        try:
            if self.client:
                head = check_answer(head, self._key, self._offered)
            super().receive_data(head)
        except (RemoteProtocolError, ValueError) as error:
            self.handshake_error = str(error)
            raise RemoteProtocolError(str(error)) from None
        if rest and self.connection is not None:
            self._receive_frames(rest)

    def events(self) -> Generator[Event, None, None]:
        """As ``WSConnection.events``, for a slice of time."""
        self.unfinished = False
        if not self.opened:
            for event in self.handshake.events():
                if isinstance(event, RejectConnection):
                    # The status is all that is wanted; a body may be without end.
                    self.rejection = event
                    yield RejectConnection(event.status_code, event.headers, has_body=False)
                elif not isinstance(event, RejectData):
                    yield event
            if self.connection is not None:
                self._forget_handshake()
        if self.opened and not self._dead:
            events: Iterable[Event] = self._frames(time.perf_counter() + self.slice)
            if self.in_rounds:
                with ROUND:
                    events = [*events]
            yield from events

    def end(self) -> None:
        """Nothing will be received any more: hold nothing of what was."""
        self._pieces = bytearray()

    def _frames(self, deadline: float) -> Generator[Event, None, None]:
        """The events of what has been received, until ``deadline`` (``time.perf_counter``)."""
        assert self.connection is not None
        for event in self.connection.events():
            yield from self._bounded((event,))
            if self._dead:
                return
            if time.perf_counter() > deadline:
                self.unfinished = True
                return

    def _bounded(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """What is left of wsproto's events: whole messages, and pings that are to be answered."""
        connection = self.connection
        assert connection is not None
        for event in events:
            if self._dead:
                return
            if isinstance(event, (BytesMessage, TextMessage)):
                yield from self._collect(event)
            elif isinstance(event, CloseConnection):
                self._dead = True
                self._breach = connection.state is ConnectionState.OPEN
                yield event
            elif not isinstance(event, Ping):
                yield event
            elif connection.state is not ConnectionState.OPEN:
                _log.debug("ping after our Close: not answered")
            elif self.on_ping is not None:
                self.on_ping(bytes(event.payload))
            else:
                yield event

    def _collect(self, event: BytesMessage | TextMessage) -> Generator[Event, None, None]:
        """Join the pieces of a message; a text too, though no use is made of it."""
        data = event.data.encode() if isinstance(event, TextMessage) else event.data
        if not data and not event.message_finished:
            self._empty += 1
            if self._empty > MAX_EMPTY_FRAGMENTS:
                self._dead = self._breach = True
                reason = f"more than {MAX_EMPTY_FRAGMENTS} fragments of a message are empty"
                yield CloseConnection(code=1002, reason=reason)
                return
        self._pieces += data
        too_big = len(self._pieces) > self.max_message
        if not too_big and not event.message_finished:
            return
        whole, self._pieces, self._empty = self._pieces, bytearray(), 0
        if too_big:
            self._dead = True  # trio-websocket closes with 1009
        if isinstance(event, TextMessage):
            yield TextMessage(data=whole.decode(errors="replace"))
        elif too_big or self.on_message is None:
            yield BytesMessage(data=bytes(whole))
        else:
            self.on_message(memoryview(whole))
