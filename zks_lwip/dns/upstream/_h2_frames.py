"""The one thing that h2 cannot do: a GOAWAY that lets earlier streams end (RFC 9113 §6.8).

h2 closes the whole connection when it reads a GOAWAY, but a server that winds down still answers
the streams up to the last one that it names. So the bytes are cut into frames before h2 sees them,
GOAWAY is read here, and every other frame goes to h2 whole, one at a time.

That each frame is seen also bounds what h2 would keep: it checks the size of a frame only once the
frame, of up to 16 MiB, has come whole.
"""

from __future__ import annotations

import struct

from h2.exceptions import FrameTooLargeError

__all__ = ["FrameSplitter", "goaway_last_stream"]

MAX_PAYLOAD = 16384
"""Bytes: SETTINGS_MAX_FRAME_SIZE, which is left at its default."""

_HEADER = 9  # bytes: length in 24 bits, type, flags, stream
_GOAWAY = 7
_U32 = struct.Struct("!I")


class FrameSplitter:
    """Cuts a byte stream into HTTP/2 frames, however it was split.

    It holds at most one unfinished frame.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes.

        :returns: The frames that are now whole, each with its header.
        :raises FrameTooLargeError: A frame has more than :data:`MAX_PAYLOAD` bytes.
        """
        if self._held:
            data = self._held + data
        frames = []
        position, size = 0, len(data)
        while position + _HEADER <= size:
            length = int.from_bytes(data[position : position + 3], "big")
            if length > MAX_PAYLOAD:
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = position + _HEADER + length
            if end > size:
                break
            frames.append(data[position:end])
            position = end
        self._held = data[position:]
        return frames


def goaway_last_stream(frame: bytes) -> int | None:
    """Return the last stream that a GOAWAY frame names; None for a frame of another type.

    :param frame: A whole frame.
    :raises ValueError: The GOAWAY frame is too short.
    """
    if frame[3] != _GOAWAY:
        return None
    if len(frame) < _HEADER + 8:
        raise ValueError("a GOAWAY frame of a wrong length")
    number: int = _U32.unpack_from(frame, _HEADER)[0]
    return number & 0x7FFFFFFF
