"""One open stream, and what supplies the bytes that it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .receive_window import ReceiveWindow

__all__ = ["Source", "Stream"]


class Source(Protocol):
    """What supplies the bytes that a stream sends."""

    def pull_into(self, view: memoryview) -> int | None:
        """Write up to ``len(view)`` bytes into ``view``, which is valid during the call only.

        The source may close its own stream here, then return 0.

        :returns: how many bytes were written; 0 if there is nothing now (call the session's
            ``mark_ready`` when there is); None at the end of the stream.
        """

    def broke(self, errno: int, *, pushing: bool) -> None:
        """Take note that C could not pull from the stream's target, which no later call may tell;
        :meth:`pull_into` follows at once.

        :param pushing: it could not push to it; the event with the bytes follows, but
            :meth:`pull_into` may come before that.
        """


class Stream:
    """One open stream of a session.

    Its state is in C, where the multiplexer has it, too: ``struct zks_mux_stream``.

    :param credit: bytes that the peer lets this end send.
    :param window: what this end lets the peer send.
    """

    __slots__ = ("_budget", "_source", "_target", "c", "id")

    def __init__(self, id: int, source: Source | None, credit: int, window: ReceiveWindow) -> None:
        self.id = id
        self._budget = window.budget
        self.c = window.c
        self.c.id = id
        self.c.credit = credit
        self._target: Any = None
        self._source = source
        self.c.supplied = source is not None

    @property
    def window(self) -> ReceiveWindow:
        """What this end lets the peer send: made anew each time, since few idle streams need it."""
        from .receive_window import ReceiveWindow  # here: options are read without what is in C

        return ReceiveWindow.of(self.c, self._budget)

    @property
    def source(self) -> Source | None:
        """What supplies its bytes, also where a target does, to begin with and in the end."""
        return self._source

    @source.setter
    def source(self, source: Source | None) -> None:
        self._source = source
        self.c.supplied = source is not None

    def bind(self, target: Any, handle: int, *, pull: bool, push: bool) -> None:
        """Have C pull from a target, or push to it, besides what it does already.

        :param target: a ``struct zks_mux_target *``, which is held as long as the stream is.
        :param handle: the target's name for what it is to pull from and push to.
        """
        c = self.c
        if c.gone:
            return
        self._target = target
        c.target = target
        c.handle = handle
        if pull:
            c.pulls = 1
        if push:
            c.pushes = 1

    def unbind(self, *, pull: bool = True) -> None:
        """Have C push no more, and pull no more either, unless ``pull`` is False."""
        self.c.pushes = 0
        if pull:
            self.c.pulls = 0

    @property
    def credit(self) -> int:
        """Bytes that the peer lets this end send."""
        return int(self.c.credit)

    @credit.setter
    def credit(self, credit: int) -> None:
        self.c.credit = credit

    @property
    def connected(self) -> bool:
        """CONNECTED has come, or been sent."""
        return bool(self.c.connected)

    @connected.setter
    def connected(self, connected: bool) -> None:
        self.c.connected = connected

    @property
    def eof_sent(self) -> bool:
        """Our EOF has been written."""
        return bool(self.c.eof_sent)

    @property
    def eof_taken(self) -> bool:
        """The peer's EOF has come."""
        return bool(self.c.eof_taken)

    @eof_taken.setter
    def eof_taken(self, eof_taken: bool) -> None:
        self.c.eof_taken = eof_taken

    @property
    def ready(self) -> bool:
        """It may have bytes to send, or its end."""
        return bool(self.c.ready)

    @property
    def gone(self) -> bool:
        """It is not open any more."""
        return bool(self.c.gone)
