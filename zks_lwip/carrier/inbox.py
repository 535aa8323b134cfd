"""Where trio-websocket puts the messages of one WebSocket."""

from __future__ import annotations

from collections import deque

from .._util import EMPTY

__all__ = ["Inbox"]


class Inbox:
    """The messages that came and were not taken yet.

    It takes the place of trio-websocket's channel of messages, which would end with a reader that
    only pauses, and takes kilobytes.
    """

    __slots__ = ("closed", "messages", "text")

    def __init__(self) -> None:
        self.messages: deque[bytes] = EMPTY
        #: A text message came behind them.
        self.text = False
        #: Nothing more will come.
        self.closed = False

    def put(self, message: bytes | str) -> None:
        """Take a message; nothing after a text."""
        if isinstance(message, str):
            self.text = True
        elif not self.text:
            if self.messages is EMPTY:
                self.messages = deque()
            self.messages.append(message)

    async def aclose(self) -> None:
        """Take note that nothing more will come: the peer has said Close, or the stream broke."""
        self.closed = True

    async def __aenter__(self) -> Inbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The reader may only have paused."""
