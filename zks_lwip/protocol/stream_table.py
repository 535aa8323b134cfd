"""Which streams of a session are idle, open or gone, and what changes that (PROTOCOL.md §4)."""

from __future__ import annotations

from ..errors import ProtocolError
from .credit import Budget
from .frames import Close, Connected, encode_connect, encode_window
from .multiplexer import Multiplexer
from .outbox import Outbox
from .receive_window import ReceiveWindow
from .settings import Role
from .stats import SessionStats
from .stream import Source, Stream
from .wakeup import Wakeup

__all__ = ["StreamTable"]


class StreamTable:
    """The open streams of a session; adding and forgetting one keeps all its parts in step.

    :param window: bytes that the peer may send on each stream at its start.
    :param max_data: most payload bytes of a DATA frame that comes.
    :param budget: bounds how far the windows of all streams grow, together.
    """

    __slots__ = (
        "_budget",
        "_client",
        "_outbox",
        "_stats",
        "_wakeup",
        "_window",
        "going_away",
        "highest",
        "mux",
        "open",
    )

    def __init__(
        self,
        role: Role,
        window: int,
        max_data: int,
        budget: Budget,
        *,
        outbox: Outbox,
        stats: SessionStats,
        wakeup: Wakeup,
    ) -> None:
        self.mux = Multiplexer(role is Role.CLIENT, max_data, self._on_eof_sent)
        """Has them in C, and the order in which they send."""
        self.open = self.mux.open
        """The open streams by their ids; to be changed by :meth:`add` and :meth:`forget` only."""
        self.highest = 0
        """Client: the last id that was used; worker: the highest that was seen."""
        self.going_away = False
        """GOAWAY was sent or has come: there are no new streams."""
        self._client = role is Role.CLIENT
        self._window = window
        self._budget = budget
        self._outbox = outbox
        self._stats = stats
        self._wakeup = wakeup

    def find(self, frame: str, identifier: int) -> Stream | None:
        """Return the open stream that a frame is for; None if it is gone.

        :param frame: the frame's name, for the error.
        :raises ProtocolError: for a stream that is idle; at a client it is so until its CONNECT has
            left.
        """
        used = self._outbox.highest if self._client else self.highest
        if not 0 < identifier <= used:
            raise ProtocolError(f"{frame}: stream {identifier} is idle")
        return self.open.get(identifier)

    def add(self, identifier: int, source: Source | None, credit: int) -> Stream:
        """Open a stream whose peer has granted ``credit`` bytes."""
        window = ReceiveWindow(self._window, self._budget)
        stream = Stream(identifier, source, credit, window)
        self.highest = identifier
        self.mux.add(stream)
        self._stats.streams_opened += 1
        return stream

    def forget(self, stream: Stream) -> None:
        """Let an open stream be gone: it sends, receives and holds nothing more."""
        self.mux.remove(stream)
        stream.window.release()
        self._outbox.windows.pop(stream.id, None)

    # The calls of the session, where the methods of ``Session`` have the details

    def connect(self, host: str, port: int, source: Source, credit: int) -> int:
        """Open a stream at a client; return its id."""
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        identifier = self.highest + 1
        frame = encode_connect(identifier, host, port)
        more = self.add(identifier, source, credit).window.open_up()
        if more:
            frame += encode_window(identifier, more)
        self._outbox.add_control(identifier, frame)
        return identifier

    def accept(self, identifier: int, source: Source) -> None:
        """Name the source of a stream at a worker."""
        stream = self.open.get(identifier)
        if stream is None:
            return
        stream.source = source
        if stream.ready:
            self.schedule(stream)

    def connected(self, identifier: int) -> None:
        """Send CONNECTED."""
        stream = self.open.get(identifier)
        if stream is None:
            return
        if stream.connected:
            raise RuntimeError(f"stream {identifier} is connected already")
        stream.connected = True
        self._outbox.add_control(identifier, Connected(identifier).encode())
        if stream.ready:
            self.schedule(stream)

    def error(self, identifier: int, code: int, message: str) -> None:
        """End a stream with ERROR."""
        stream = self.open.get(identifier)
        if stream is not None:
            self.forget(stream)
            self._outbox.add_error(identifier, code, message)

    def close(self, identifier: int) -> None:
        """End a stream with CLOSE, or with nothing where its CONNECT has not left."""
        stream = self.open.get(identifier)
        if stream is None:
            return
        self.forget(stream)
        if not self._outbox.forget(identifier):
            self._outbox.add_control(identifier, Close(identifier).encode())

    def clear(self) -> None:
        """Forget all streams."""
        for stream in list(self.open.values()):
            self.forget(stream)

    def schedule(self, stream: Stream) -> None:
        """Let a ready stream send, if it has a source, credit, and (worker) is connected."""
        if self.mux.schedule(stream) and not self._wakeup.told:
            self._wakeup()

    def _on_eof_sent(self, stream: Stream) -> None:
        if stream.c.eof_taken:
            self.forget(stream)
