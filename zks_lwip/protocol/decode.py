"""Reading the frames of a message (PROTOCOL.md §2).

Only the form is checked here; whether a frame may come when it comes, the session checks.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from ..errors import ProtocolError
from .events import (
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    StreamConnected,
    StreamOpened,
)
from .frames import (
    MAX_DATAGRAM,
    MAX_DNS,
    NAMES,
    Ack,
    Buffer,
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    Error,
    Frame,
    GoAway,
    Ping,
    Pong,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
)
from .hello import MAX_HELLO, Hello
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

_read_ids = struct.Struct(">xII").unpack_from
_read_stream = struct.Struct(">xI").unpack_from
_read_address = struct.Struct(">xIHH").unpack_from
_read_u16 = struct.Struct(">H").unpack_from
_read_u32 = struct.Struct(">I").unpack_from
_read_u64 = struct.Struct(">Q").unpack_from
_read_coded = struct.Struct(">HHH").unpack_from


@functools.lru_cache(maxsize=4096)
def _decode_host(encoded: bytes) -> str:
    if not 1 <= len(encoded) <= 255:
        raise ProtocolError(f"its host has {len(encoded)} bytes, not 1 to 255")
    if 0 in encoded:
        raise ProtocolError("its host has a NUL")
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("its host is not UTF-8") from error


def _decode_text(encoded: memoryview) -> str:
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("its text is not UTF-8") from error


# A reader of 0x01 to 0x0A takes (view, position, size) and returns the frame and the position
# after it; it raises struct.error or _Cut where the message ends too early. A reader from 0x40 up
# takes (id, body) and returns the frame.


_Reader: TypeAlias = Callable[[memoryview, int, int], tuple[_U, int]]
_Readers: TypeAlias = dict[int, tuple[str, _Reader[_U]]]
"""The name of each command, and its reader."""


class _Cut(Exception):
    """A length runs past the end of the message."""


def _end(position: int, length: int, size: int) -> int:
    end = position + length
    if end > size:
        raise _Cut
    return end


def _connect_reader(make: Callable[[int, str, int], _U]) -> _Reader[_U]:
    def read(view: memoryview, position: int, size: int) -> tuple[_U, int]:
        stream, port, length = _read_address(view, position)
        end = _end(position + 9, length, size)
        return make(stream, _decode_host(view[position + 9 : end].tobytes()), port), end

    return read


def _on_close(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return Close(*_read_stream(view, position)), position + 5


def _connected_reader(make: Callable[[int], _U]) -> _Reader[_U]:
    def read(view: memoryview, position: int, size: int) -> tuple[_U, int]:
        return make(*_read_stream(view, position)), position + 5

    return read


def _on_error(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    stream, code, length = _read_address(view, position)
    end = _end(position + 9, length, size)
    return Error(stream, code, _decode_text(view[position + 9 : end])), end


_PING, _PONG = Ping(), Pong()


def _on_ping(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return _PING, position + 1


def _on_pong(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return _PONG, position + 1


def _dns_reader(kind: type[DnsQuery] | type[DnsResponse]) -> _Reader[Frame]:
    def read(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
        request, length = _read_ids(view, position)
        end = _end(position + 9, length, size)
        if length > MAX_DNS:
            raise ProtocolError(f"{length} bytes, over {MAX_DNS}")
        return kind(request, view[position + 9 : end].tobytes()), end

    return read


_OLD: _Readers[Frame] = {
    0x01: ("CONNECT", _connect_reader(Connect)),
    0x03: ("CLOSE", _on_close),
    0x04: ("ERROR", _on_error),
    0x05: ("PING", _on_ping),
    0x06: ("PONG", _on_pong),
    0x08: ("DNS_QUERY", _dns_reader(DnsQuery)),
    0x09: ("DNS_RESPONSE", _dns_reader(DnsResponse)),
    0x0A: ("CONNECTED", _connected_reader(Connected)),
}
_OLD_EVENTS: _Readers[Frame | StreamOpened | StreamConnected] = _OLD | {
    0x01: ("CONNECT", _connect_reader(StreamOpened)),
    0x0A: ("CONNECTED", _connected_reader(StreamConnected)),
}
"""The same, but what is an event as it is becomes one at once."""


def _fixed(length: int, body: memoryview) -> None:
    if len(body) != length:
        raise ProtocolError(f"its length is {len(body)}, not {length}")


def _no_id(identifier: int) -> None:
    if identifier:
        raise ProtocolError(f"its id is {identifier}, not 0")


def _on_hello(identifier: int, body: memoryview) -> Frame:
    _no_id(identifier)
    if len(body) > MAX_HELLO:
        raise ProtocolError(f"{len(body)} bytes of JSON, over {MAX_HELLO}")
    return Hello.decode(body.tobytes())


def _on_eof(stream: int, body: memoryview) -> Frame:
    _fixed(0, body)
    return Eof(stream)


def _on_window(stream: int, body: memoryview) -> Frame:
    _fixed(4, body)
    return Window(stream, *_read_u32(body))


def _on_ack(identifier: int, body: memoryview) -> Frame:
    _no_id(identifier)
    _fixed(8, body)
    return Ack(*_read_u64(body))


def _on_udp_close(association: int, body: memoryview) -> Frame:
    _fixed(0, body)
    return UdpClose(association)


def _on_echo(request: int, body: memoryview) -> Frame:
    (length,) = _read_u16(body)
    end = _end(2, length, len(body))
    return Echo(request, _decode_host(body[2:end].tobytes()), body[end:].tobytes())


def _on_echo_reply(request: int, body: memoryview) -> Frame:
    return EchoReply(request, body.tobytes())


def _on_goaway(identifier: int, body: memoryview) -> Frame:
    _no_id(identifier)
    (code,) = _read_u16(body)
    return GoAway(code, _decode_text(body[2:]))


def _on_udp_error(association: int, body: memoryview) -> Frame:
    code, port, length = _read_coded(body)
    _fixed(6 + length, body)
    return UdpError(association, code, _decode_host(body[6:].tobytes()), port)


_NEW: dict[int, tuple[str, Callable[[int, memoryview], Frame]]] = {
    0x40: ("HELLO", _on_hello),
    0x41: ("EOF", _on_eof),
    0x42: ("WINDOW", _on_window),
    0x43: ("ACK", _on_ack),
    0x44: ("UDP_CLOSE", _on_udp_close),
    0x45: ("ECHO", _on_echo),
    0x46: ("ECHO_REPLY", _on_echo_reply),
    0x47: ("GOAWAY", _on_goaway),
    0x48: ("UDP_ERROR", _on_udp_error),
}


def _past_end(name: str) -> ProtocolError:
    return ProtocolError(f"{name}: it runs past the end of its message")


def iter_frames(message: Buffer) -> Iterator[Frame]:
    """Yield the frames of one v2 message, in order; DATA and UDP payloads are views into it.

    :raises ProtocolError: at the first frame that is malformed, and for a message without any.
    """
    return _read(message, Data, Udp, _OLD)


class EventReader:
    """Reads the frames of a message, DATA, UDP, CONNECT and CONNECTED as the events they are.

    They are most of what comes, and a session need not make each twice. UDP frames behind one
    another become one event, but for those whose hosts are no IP literals.
    """

    __slots__ = ("_scanner", "_size", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._size = len(view)
        self._scanner: RunScanner | None = None

    def read(
        self, position: int
    ) -> tuple[
        Frame
        | DataReceived
        | DatagramReceived
        | DatagramsReceived
        | StreamOpened
        | StreamConnected,
        int,
    ]:
        """Return what begins at ``position``, and where it ends.

        :raises ProtocolError: it is malformed.
        """
        view = self._view
        if view[position] == 0x07:
            if self._scanner is None:
                self._scanner = RunScanner(view)
            run = self._scanner.run_at(position)
            if run is not None:
                return run, position + len(run.frames)
        return _read_one(view, position, self._size, DataReceived, DatagramReceived, _OLD_EVENTS)


def first_datagram(frames: memoryview) -> tuple[DatagramReceived, int]:
    """Return the first datagram of some UDP frames, and the bytes of its frame.

    :raises ProtocolError: there is no sound UDP frame.
    """
    return _read_udp(frames, 0, len(frames), DatagramReceived)


def datagrams_of(frames: memoryview) -> Iterator[tuple[DatagramReceived, memoryview]]:
    """Yield the datagrams of UDP frames back to back, each with its frame.

    :raises ProtocolError: at the first that is no sound UDP frame.
    """
    while frames:
        datagram, size = first_datagram(frames)
        yield datagram, frames[:size]
        frames = frames[size:]


def _read(
    message: Buffer,
    data: Callable[[int, memoryview], Any],
    udp: Callable[[int, str, int, memoryview], Any],
    old: _Readers[Any],
) -> Iterator[Any]:
    view = memoryview(message)
    size = len(view)
    if not size:
        raise ProtocolError("an empty message: it holds no frame")
    position = 0
    while position < size:
        frame, position = _read_one(view, position, size, data, udp, old)
        yield frame


def _read_one(
    view: memoryview,
    position: int,
    size: int,
    data: Callable[[int, memoryview], Any],
    udp: Callable[[int, str, int, memoryview], Any],
    old: _Readers[Any],
) -> tuple[Any, int]:
    command = view[position]
    if command == 0x07:
        return _read_udp(view, position, size, udp)
    if command >= 0x40:
        return _read_new(view, position, size, command)
    if command != 0x02:
        return _read_old(view, position, size, command, old)
    start = position + 9
    if start > size:
        raise _past_end("DATA")
    stream, length = _read_ids(view, position)
    end = start + length
    if end > size:
        raise _past_end("DATA")
    return data(stream, view[start:end]), end


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
            raise _past_end("DATA")
        stream, length = _read_ids(view, 0)
        end = 9 + length
        if end > size:
            raise _past_end("DATA")
        frame = Data(stream, view[9:end])
    elif command == 0x07:
        frame, end = _read_udp(view, 0, size, Udp)
    else:
        frame, end = _read_old(view, 0, size, command, _OLD)
    if end != size:
        raise ProtocolError(f"command 0x{command:02x}: {size - end} bytes follow it in its message")
    return frame


def _read_udp(
    view: memoryview,
    position: int,
    size: int,
    make: Callable[[int, str, int, memoryview], _U],
) -> tuple[_U, int]:
    middle = position + 9
    if middle > size:
        raise _past_end("UDP")
    association, port, length = _read_address(view, position)
    start = middle + length + 4
    if start > size:
        raise _past_end("UDP")
    (length,) = _read_u32(view, start - 4)
    end = start + length
    if end > size:
        raise _past_end("UDP")
    if length > MAX_DATAGRAM:
        raise ProtocolError(f"UDP: {length} bytes, over {MAX_DATAGRAM}")
    try:
        host = _decode_host(view[middle : start - 4].tobytes())
    except ProtocolError as error:
        raise ProtocolError(f"UDP: {error}") from error
    return make(association, host, port, view[start:end]), end


def _read_old(
    view: memoryview, position: int, size: int, command: int, readers: _Readers[_U]
) -> tuple[_U, int]:
    entry = readers.get(command)
    if entry is None:
        raise ProtocolError(f"command 0x{command:02x} is unknown")
    name, read = entry
    try:
        return read(view, position, size)
    except (_Cut, struct.error) as error:
        raise _past_end(name) from error
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}") from error


def _read_new(view: memoryview, position: int, size: int, command: int) -> tuple[Frame, int]:
    if command >= 0x80:
        raise ProtocolError(f"command 0x{command:02x} is unknown")
    entry = _NEW.get(command)
    name = entry[0] if entry else f"command 0x{command:02x}"
    start = position + 9
    if start > size:
        raise _past_end(name)
    identifier, length = _read_ids(view, position)
    end = start + length
    if end > size:
        raise _past_end(name)
    body = view[start:end]
    if entry is None:
        return Unknown(command, identifier, body), end
    try:
        return entry[1](identifier, body), end
    except (_Cut, struct.error) as error:
        raise ProtocolError(f"{name}: its body of {length} bytes is cut short") from error
    except ProtocolError as error:
        text = str(error)
        raise ProtocolError(text if text.startswith("HELLO:") else f"{name}: {text}") from error
