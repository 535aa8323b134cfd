"""Reading the frames of a message (PROTOCOL.md §2); a single frame: :mod:`.frame_readers`.

Only the form is checked here; whether a frame may come when it comes, the session checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import ProtocolError
from .events import (
    DatagramReceived,
    DataReceived,
)
from .frame_readers import (
    V1_EVENTS,
    V1_FRAMES,
    V2_EVENTS,
    V2_FRAMES,
    past_end,
    read_ids,
    read_udp,
    read_v1,
    read_v2,
)
from .frames import (
    NAMES,
    Buffer,
    Data,
    Frame,
    Udp,
)
from .hello import Hello
from .udp_runs import RunScanner

__all__ = [
    "EventReader",
    "datagrams_of",
    "first_datagram",
    "first_hello",
    "iter_frames",
    "parse",
    "parse_v1",
]

_U = TypeVar("_U")


def iter_frames(message: Buffer) -> Iterator[Frame]:
    """Yield the frames of one v2 message, in order; DATA and UDP payloads are views into it.

    :raises ProtocolError: at the first frame that is malformed, and for a message without any.
    """
    view = memoryview(message)
    size = len(view)
    if not size:
        raise ProtocolError("an empty message: it holds no frame")
    position = 0
    while position < size:
        frame, position = _read_one(view, position, size)
        yield frame


class EventReader:
    """Reads the frames of a message: DATA, UDP, CONNECT, CONNECTED, EOF and those of DNS as the
    events they are.

    They are most of what comes, and a session need not make each twice. UDP frames behind one
    another become one event, but for those whose hosts are no IP literals.
    """

    __slots__ = ("_scanner", "_size", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._size = len(view)
        self._scanner: RunScanner | None = None

    def read(self, position: int) -> tuple[Any, int]:
        """Return what begins at ``position``, and where it ends.

        :raises ProtocolError: it is malformed.
        """
        view = self._view
        command = view[position]
        if command >= 0x40:
            return read_v2(view, position, self._size, command, V2_EVENTS)
        if command == 0x07:
            if self._scanner is None:
                self._scanner = RunScanner(view)
            run = self._scanner.run_at(position)
            if run is not None:
                return run, position + len(run.frames)
            return read_udp(view, position, self._size, DatagramReceived)
        if command == 0x02:
            return _read_data(view, position, self._size, DataReceived)
        return read_v1(view, position, self._size, command, V1_EVENTS)


def first_datagram(frames: memoryview) -> tuple[DatagramReceived, int]:
    """Return the first datagram of some UDP frames, and the bytes of its frame.

    :raises ProtocolError: there is no sound UDP frame.
    """
    return read_udp(frames, 0, len(frames), DatagramReceived)


def datagrams_of(frames: memoryview) -> Iterator[tuple[DatagramReceived, memoryview]]:
    """Yield the datagrams of UDP frames back to back, each with its frame.

    :raises ProtocolError: at the first that is no sound UDP frame.
    """
    while frames:
        datagram, size = first_datagram(frames)
        yield datagram, frames[:size]
        frames = frames[size:]


def _read_one(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    command = view[position]
    if command >= 0x40:
        return read_v2(view, position, size, command, V2_FRAMES)
    if command == 0x07:
        return read_udp(view, position, size, Udp)
    if command == 0x02:
        return _read_data(view, position, size, Data)
    return read_v1(view, position, size, command, V1_FRAMES)


def _read_data(
    view: memoryview, position: int, size: int, make: Callable[[int, memoryview], _U]
) -> tuple[_U, int]:
    start = position + 9
    if start > size:
        raise past_end("DATA")
    stream, length = read_ids(view, position)
    end = start + length
    if end > size:
        raise past_end("DATA")
    return make(stream, view[start:end]), end


def parse(message: Buffer) -> list[Frame]:
    """Return the frames of :func:`iter_frames` as a list.

    :raises ProtocolError: as :func:`iter_frames`.
    """
    return list(iter_frames(message))


def first_hello(message: Buffer) -> Hello:
    """Return the HELLO that is all of a client's first message on a WebSocket.

    A worker reads in it which session is meant, and then has that session receive the message.

    :raises ProtocolError: if the message is anything else.
    """
    frames = iter_frames(message)
    hello = next(frames)
    if not isinstance(hello, Hello):
        name = NAMES.get(type(hello), "a frame")
        raise ProtocolError(f"{name}: it came before HELLO")
    for frame in frames:
        name = NAMES.get(type(frame), "a frame")
        raise ProtocolError(f"{name}: the client sent it before our HELLO could reach it")
    return hello


def parse_v1(message: Buffer) -> Frame:
    """Return the one frame of a v1 message (PROTOCOL.md §9).

    :raises ProtocolError: if the message is not exactly one frame of 0x01 to 0x0A.
    """
    view = memoryview(message)
    size = len(view)
    if not size:
        raise ProtocolError("an empty message: it holds no frame")
    command = view[0]
    frame: Frame
    if command == 0x02:
        if size < 9:
            raise past_end("DATA")
        stream, length = read_ids(view, 0)
        end = 9 + length
        if end > size:
            raise past_end("DATA")
        frame = Data(stream, view[9:end])
    elif command == 0x07:
        frame, end = read_udp(view, 0, size, Udp)
    else:
        frame, end = read_v1(view, 0, size, command, V1_FRAMES)
    if end != size:
        raise ProtocolError(f"command 0x{command:02x}: {size - end} bytes follow it in its message")
    return frame
