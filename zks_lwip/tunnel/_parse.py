"""Reading the frames of a message (PROTOCOL.md §2).

Form only is looked at here; whether a frame may come when it comes is the session's matter.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator

from ..errors import ProtocolError
from ._frames import (
    MAX_DATAGRAM,
    MAX_DNS,
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
from ._hello import MAX_HELLO, Hello

__all__ = ["iter_frames", "parse", "parse_v1"]

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


class _Cut(Exception):
    """A length runs past the end of the message."""


def _end(position: int, length: int, size: int) -> int:
    end = position + length
    if end > size:
        raise _Cut
    return end


def _on_connect(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    stream, port, length = _read_address(view, position)
    end = _end(position + 9, length, size)
    return Connect(stream, _decode_host(view[position + 9 : end].tobytes()), port), end


def _on_close(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return Close(*_read_stream(view, position)), position + 5


def _on_connected(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return Connected(*_read_stream(view, position)), position + 5


def _on_error(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    stream, code, length = _read_address(view, position)
    end = _end(position + 9, length, size)
    return Error(stream, code, _decode_text(view[position + 9 : end])), end


_PING, _PONG = Ping(), Pong()


def _on_ping(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return _PING, position + 1


def _on_pong(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
    return _PONG, position + 1


def _dns_reader(kind: type[DnsQuery] | type[DnsResponse]) -> Callable[..., tuple[Frame, int]]:
    def read(view: memoryview, position: int, size: int) -> tuple[Frame, int]:
        request, length = _read_ids(view, position)
        end = _end(position + 9, length, size)
        if length > MAX_DNS:
            raise ProtocolError(f"{length} bytes, over {MAX_DNS}")
        return kind(request, view[position + 9 : end].tobytes()), end

    return read


_OLD: dict[int, tuple[str, Callable[[memoryview, int, int], tuple[Frame, int]]]] = {
    0x01: ("CONNECT", _on_connect),
    0x03: ("CLOSE", _on_close),
    0x04: ("ERROR", _on_error),
    0x05: ("PING", _on_ping),
    0x06: ("PONG", _on_pong),
    0x08: ("DNS_QUERY", _dns_reader(DnsQuery)),
    0x09: ("DNS_RESPONSE", _dns_reader(DnsResponse)),
    0x0A: ("CONNECTED", _on_connected),
}


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
    """The frames of one v2 message, in order. DATA and UDP payloads are views into ``message``.
    Raises ProtocolError at the first frame that is malformed, and for a message without any.
    """
    view = memoryview(message)
    size = len(view)
    if not size:
        raise ProtocolError("an empty message: it holds no frame")
    position = 0
    frame: Frame
    while position < size:
        command = view[position]
        if command == 0x02:
            start = position + 9
            if start > size:
                raise _past_end("DATA")
            stream, length = _read_ids(view, position)
            position = start + length
            if position > size:
                raise _past_end("DATA")
            yield Data(stream, view[start:position])
        elif command == 0x07:
            frame, position = _read_udp(view, position, size)
            yield frame
        elif command >= 0x40:
            frame, position = _read_new(view, position, size, command)
            yield frame
        else:
            frame, position = _read_old(view, position, size, command)
            yield frame


def parse(message: Buffer) -> list[Frame]:
    """``iter_frames`` as a list."""
    return list(iter_frames(message))


def parse_v1(message: Buffer) -> Frame:
    """The one frame of a v1 message (PROTOCOL.md §9).

    Raises ProtocolError if the message is not exactly one frame of 0x01 to 0x0A.
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
        frame, end = _read_udp(view, 0, size)
    else:
        frame, end = _read_old(view, 0, size, command)
    if end != size:
        raise ProtocolError(f"command 0x{command:02x}: {size - end} bytes follow it in its message")
    return frame


def _read_udp(view: memoryview, position: int, size: int) -> tuple[Udp, int]:
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
    return Udp(association, host, port, view[start:end]), end


def _read_old(view: memoryview, position: int, size: int, command: int) -> tuple[Frame, int]:
    entry = _OLD.get(command)
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
