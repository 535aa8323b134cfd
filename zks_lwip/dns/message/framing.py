"""DNS over a byte stream: each message after its length in two bytes (RFC 1035 §4.2.2, RFC 7766,
RFC 7858).
"""

from __future__ import annotations

from .wire import MAX_MESSAGE

__all__ = ["Deframer", "frame"]


def frame(message: bytes) -> bytes:
    """Return ``message`` with its length in front.

    :raises ValueError: it has more than 65,535 bytes.
    """
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"a DNS message of {len(message)} bytes does not fit a 16-bit length")
    return len(message).to_bytes(2, "big") + message


class Deframer:
    """Cuts a byte stream into DNS messages, however it was split.

    It holds at most one unfinished message (65,537 bytes); what :meth:`feed` returns is the
    caller's.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def partial(self) -> bool:
        """Whether the stream, if it ended now, would end within a message."""
        return bool(self._held)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next bytes; return the messages that are now whole. A length of 0 gives an
        empty message.
        """
        held = self._held
        held += data
        messages = []
        position, size = 0, len(held)
        while position + 2 <= size:
            end = position + 2 + (held[position] << 8 | held[position + 1])
            if end > size:
                break
            messages.append(bytes(held[position + 2 : end]))
            position = end
        if position:
            del held[:position]
        return messages
