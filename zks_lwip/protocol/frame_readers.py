"""Reading a single frame of each command (PROTOCOL.md §2): its form, and every length in it."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from ..errors import ProtocolError
from .events import (
    DnsAnswerReceived,
    DnsQueryReceived,
    EofReceived,
    StreamConnected,
    StreamOpened,
)
from .frames import (
    MAX_DATAGRAM,
    MAX_DNS,
    Ack,
    Close,
    Connect,
    Connected,
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
    UdpClose,
    UdpError,
    Unknown,
    Window,
)
from .hello import MAX_HELLO, Hello

__all__ = [
    "V1_EVENTS",
    "V1_FRAMES",
    "V2_EVENTS",
    "V2_FRAMES",
    "BodyReaders",
    "Readers",
    "past_end",
    "read_ids",
    "read_udp",
    "read_v1",
    "read_v2",
]

_U = TypeVar("_U")

read_ids = struct.Struct(">xII").unpack_from
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
Readers: TypeAlias = dict[int, tuple[str, _Reader[_U]]]
"""The name of each command, and its reader."""
BodyReaders: TypeAlias = dict[int, tuple[str, Callable[[int, memoryview], _U]]]
"""The same of those from 0x40 up."""


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


def _dns_reader(make: Callable[[int, bytes], _U]) -> _Reader[_U]:
    def read(view: memoryview, position: int, size: int) -> tuple[_U, int]:
        request, length = read_ids(view, position)
        end = _end(position + 9, length, size)
        if length > MAX_DNS:
            raise ProtocolError(f"{length} bytes, over {MAX_DNS}")
        return make(request, view[position + 9 : end].tobytes()), end

    return read


V1_FRAMES: Readers[Frame] = {
    0x01: ("CONNECT", _connect_reader(Connect)),
    0x03: ("CLOSE", _on_close),
    0x04: ("ERROR", _on_error),
    0x05: ("PING", _on_ping),
    0x06: ("PONG", _on_pong),
    0x08: ("DNS_QUERY", _dns_reader(DnsQuery)),
    0x09: ("DNS_RESPONSE", _dns_reader(DnsResponse)),
    0x0A: ("CONNECTED", _connected_reader(Connected)),
}
V1_EVENTS: Readers[Any] = V1_FRAMES | {
    0x01: ("CONNECT", _connect_reader(StreamOpened)),
    0x08: ("DNS_QUERY", _dns_reader(DnsQueryReceived)),
    0x09: ("DNS_RESPONSE", _dns_reader(DnsAnswerReceived)),
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


def _eof_reader(make: Callable[[int], _U]) -> Callable[[int, memoryview], _U]:
    def read(stream: int, body: memoryview) -> _U:
        if body:
            _fixed(0, body)
        return make(stream)

    return read


def _on_window(stream: int, body: memoryview) -> Frame:
    _fixed(4, body)
    return Window(stream, *_read_u32(body))


def _on_ack(identifier: int, body: memoryview) -> Frame:
    if identifier or len(body) != 8:
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


V2_FRAMES: BodyReaders[Frame] = {
    0x40: ("HELLO", _on_hello),
    0x41: ("EOF", _eof_reader(Eof)),
    0x42: ("WINDOW", _on_window),
    0x43: ("ACK", _on_ack),
    0x44: ("UDP_CLOSE", _on_udp_close),
    0x45: ("ECHO", _on_echo),
    0x46: ("ECHO_REPLY", _on_echo_reply),
    0x47: ("GOAWAY", _on_goaway),
    0x48: ("UDP_ERROR", _on_udp_error),
}
V2_EVENTS: BodyReaders[Any] = V2_FRAMES | {0x41: ("EOF", _eof_reader(EofReceived))}
"""The same, with events likewise."""


def past_end(name: str) -> ProtocolError:
    """Return the error for a frame that is longer than what is left of its message."""
    return ProtocolError(f"{name}: it runs past the end of its message")


def read_udp(
    view: memoryview,
    position: int,
    size: int,
    make: Callable[[int, str, int, memoryview], _U],
) -> tuple[_U, int]:
    """Return what ``make`` makes of the UDP frame at ``position``, and where that ends."""
    middle = position + 9
    if middle > size:
        raise past_end("UDP")
    association, port, length = _read_address(view, position)
    start = middle + length + 4
    if start > size:
        raise past_end("UDP")
    (length,) = _read_u32(view, start - 4)
    end = start + length
    if end > size:
        raise past_end("UDP")
    if length > MAX_DATAGRAM:
        raise ProtocolError(f"UDP: {length} bytes, over {MAX_DATAGRAM}")
    try:
        host = _decode_host(view[middle : start - 4].tobytes())
    except ProtocolError as error:
        raise ProtocolError(f"UDP: {error}") from error
    return make(association, host, port, view[start:end]), end


def read_v1(
    view: memoryview, position: int, size: int, command: int, readers: Readers[_U]
) -> tuple[_U, int]:
    """Return the frame of 0x01 to 0x0A at ``position``, but DATA and UDP, and where it ends."""
    entry = readers.get(command)
    if entry is None:
        raise ProtocolError(f"command 0x{command:02x} is unknown")
    name, read = entry
    try:
        return read(view, position, size)
    except (_Cut, struct.error) as error:
        raise past_end(name) from error
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}") from error


def read_v2(
    view: memoryview, position: int, size: int, command: int, readers: BodyReaders[_U]
) -> tuple[_U | Unknown, int]:
    """Return the frame of 0x40 or above at ``position``, and where it ends."""
    if command >= 0x80:
        raise ProtocolError(f"command 0x{command:02x} is unknown")
    entry = readers.get(command)
    name = entry[0] if entry else f"command 0x{command:02x}"
    start = position + 9
    if start > size:
        raise past_end(name)
    identifier, length = read_ids(view, position)
    end = start + length
    if end > size:
        raise past_end(name)
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
