"""HTTP/2 frames, as far as one has to look at them beside h2 (RFC 9113 §4 and §6)."""

from __future__ import annotations

import struct

from h2.exceptions import FrameTooLargeError

__all__ = [
    "END_HEADERS",
    "Frame",
    "Kind",
    "cut",
    "last_stream",
    "opens_block",
    "payload",
    "whole_answers",
    "window_update",
]

Frame = tuple[int, int, int, int, int]
"""Where it begins and ends, header included, in what has come; type, flags, stream."""

HEADER = 9
"""Bytes before the payload."""
MAX_PAYLOAD = 16384
"""SETTINGS_MAX_FRAME_SIZE, which we leave as it is."""
END_STREAM, END_HEADERS = 1, 4

_HEADER = struct.Struct("!HBBBI")  # length in 24 bits, type, flags, stream
_U32 = struct.Struct("!I")
_BEGUN, _WHOLE, _OTHER = range(3)


class Kind:
    """Types of frames. (No enum: they are compared with what came, several times a query.)"""

    DATA = 0
    HEADERS = 1
    PUSH_PROMISE = 5
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


def cut(data: bytes) -> list[Frame]:
    """The frames that have come whole. Raises FrameTooLargeError: h2 would keep up to 16 MiB of a
    frame before it looked.
    """
    frames = []
    position, size = 0, len(data)
    while position + HEADER <= size:
        high, low, kind, flags, number = _HEADER.unpack_from(data, position)
        length = high << 8 | low
        if length > MAX_PAYLOAD:
            raise FrameTooLargeError(f"a frame of {length} bytes")
        end = position + HEADER + length
        if end > size:
            break
        frames.append((position, end, kind, flags, number))
        position = end
    return frames


def whole_answers(frames: list[Frame]) -> set[int]:
    """The streams for which there are a HEADERS and then a DATA frame, both without more flags than
    they need, the latter ending the stream; and nothing else.

    Empty if a header block is spread over frames: h2 is to see what comes in between.
    """
    seen: dict[int, int] = {}
    for _, _, kind, flags, number in frames:
        before = seen.get(number)
        if kind == Kind.HEADERS and flags == END_HEADERS:
            seen[number] = _BEGUN if before is None else _OTHER
        elif kind == Kind.DATA and flags == END_STREAM:
            seen[number] = _WHOLE if before == _BEGUN else _OTHER
        elif opens_block(kind, flags) or kind == Kind.CONTINUATION:
            return set()
        else:
            seen[number] = _OTHER
    return {number for number, state in seen.items() if state == _WHOLE}


def opens_block(kind: int, flags: int) -> bool:
    """Whether CONTINUATION frames must follow."""
    return kind in (Kind.HEADERS, Kind.PUSH_PROMISE) and not flags & END_HEADERS


def payload(data: bytes, frame: Frame) -> bytes:
    """What a frame carries."""
    return data[frame[0] + HEADER : frame[1]]


def last_stream(goaway: bytes) -> int:
    """The last stream that a GOAWAY frame's payload names. Raises ValueError if it has none."""
    if len(goaway) < 8:
        raise ValueError("a GOAWAY frame of a wrong length")
    number: int = _U32.unpack_from(goaway)[0]
    return number & 0x7FFFFFFF


def window_update(increment: int) -> bytes:
    """A WINDOW_UPDATE frame for the connection."""
    return _HEADER.pack(0, 4, Kind.WINDOW_UPDATE, 0, 0) + _U32.pack(increment)
