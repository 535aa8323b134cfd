"""The stream that trio-websocket is given: its reader runs as long as its owner wants to read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from .framing import FED, Buffer
from .inbox import Inbox
from .transport import Wire

__all__ = ["OwnedStream"]


class _PausedError(Exception):
    """The reader has read enough for now."""


class OwnedStream(trio.abc.Stream):
    """What trio-websocket reads and writes: a wire, until the connection ends.

    :param send: sends a whole frame in its turn.
    """

    __slots__ = ("_enough", "_inbox", "_send", "_wire")

    def __init__(self, wire: Wire, inbox: Inbox, send: Callable[[Buffer], Awaitable[None]]) -> None:
        self._wire = wire
        self._inbox = inbox
        self._send: Callable[[Buffer], Awaitable[None]] | None = send
        self._enough: Callable[[], bool] | None = None

    async def run(self, reader: Callable[[], Awaitable[None]], enough: Callable[[], bool]) -> bool:
        """Run a reader of this stream until, where it would read on, ``enough()``.

        :returns: False: it has ended by itself.
        """
        self._enough = enough
        try:
            await reader()
        except _PausedError:
            return True
        finally:
            self._enough = None
        return False

    def detach(self) -> None:
        """Let go of the connection: nothing is read or sent any more."""
        self._inbox.closed = True
        self._send = None

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        if self._inbox.closed:
            return b""
        if self._enough is not None and self._enough():
            raise _PausedError
        return FED if await self._wire.receive() else b""

    async def send_all(self, data: Any) -> None:
        if self._send is None:
            raise trio.ClosedResourceError("the WebSocket has ended")
        await self._send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()  # what is sent waits for its turn

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()  # the owner closes the stream below
