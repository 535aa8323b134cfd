"""The frames of the tunnel protocol as dataclasses, and their encoding (PROTOCOL.md §2)."""

from __future__ import annotations

import enum
import functools
import struct
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from .hello import Hello

__all__ = [
    "DATA_HEADER",
    "MAX_DATAGRAM",
    "MAX_DNS",
    "NAMES",
    "Ack",
    "Buffer",
    "Close",
    "Code",
    "Connect",
    "Connected",
    "Data",
    "DnsQuery",
    "DnsResponse",
    "Echo",
    "EchoReply",
    "Eof",
    "Error",
    "Frame",
    "GoAway",
    "Ping",
    "Pong",
    "Udp",
    "UdpClose",
    "UdpError",
    "Unknown",
    "Window",
    "cut",
    "encode_ack",
    "encode_connect",
    "encode_host",
    "encode_udp",
    "encode_window",
]

MAX_DATAGRAM = 65507
"""Most payload bytes of a UDP frame."""
MAX_DNS = 65535
"""Most bytes of a DNS message."""

DATA_HEADER = struct.Struct(">BII")
"""command, stream, length: what precedes a DATA payload, and every body from 0x40 up."""
_STREAM = struct.Struct(">BI")
_ADDRESS = struct.Struct(">BIHH")  # command, id, port or code, length of the text that follows
_SHORT = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_WINDOW = struct.Struct(">BIII")
_ACK = struct.Struct(">BIIQ")
_CODED = struct.Struct(">HHH")  # code, port, host length
_MAX_TEXT = 200

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Code(enum.IntEnum):
    """Codes of ERROR and UDP_ERROR (PROTOCOL.md §4, §5); the low ones are Linux's errno."""

    TOO_BIG = 90
    NETWORK_UNREACHABLE = 101
    RESET = 104
    TIMED_OUT = 110
    REFUSED = 111
    HOST_UNREACHABLE = 113
    POLICY = 403
    TOO_MANY_STREAMS = 429
    FAILED = 502
    GOING_AWAY = 503


@functools.lru_cache(maxsize=4096)
def encode_host(host: str) -> bytes:
    """Return a host as its bytes.

    :raises ValueError: for an empty one, one with a NUL, or one over 255 bytes.
    """
    encoded = host.encode()
    if not 1 <= len(encoded) <= 255 or 0 in encoded:
        raise ValueError(f"{host!r} is not a host: 1 to 255 bytes of UTF-8 without a NUL")
    return encoded


@dataclass(frozen=True, slots=True)
class Connect:
    """Open ``stream`` to ``host`` (an IP literal or a name) and ``port``."""

    command: ClassVar[int] = 0x01
    counted: ClassVar[bool] = True
    stream: int
    host: str
    port: int

    def encode(self) -> bytes:
        return encode_connect(self.stream, self.host, self.port)


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream. Read from a message, ``payload`` is a view into that message."""

    command: ClassVar[int] = 0x02
    counted: ClassVar[bool] = True
    stream: int
    payload: Buffer

    def encode(self) -> bytes:
        return b"".join((DATA_HEADER.pack(0x02, self.stream, len(self.payload)), self.payload))


@dataclass(frozen=True, slots=True)
class Close:
    """Abort of both directions of a stream."""

    command: ClassVar[int] = 0x03
    counted: ClassVar[bool] = True
    stream: int

    def encode(self) -> bytes:
        return _STREAM.pack(0x03, self.stream)


@dataclass(frozen=True, slots=True)
class Error:
    """The end of a stream, with the reason (``Code``)."""

    command: ClassVar[int] = 0x04
    counted: ClassVar[bool] = True
    stream: int
    code: int
    message: str = ""

    def encode(self) -> bytes:
        text = self.message.encode()
        return _ADDRESS.pack(0x04, self.stream, self.code, len(text)) + text


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a PONG at once."""

    command: ClassVar[int] = 0x05
    counted: ClassVar[bool] = False

    def encode(self) -> bytes:
        return b"\x05"


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING."""

    command: ClassVar[int] = 0x06
    counted: ClassVar[bool] = False

    def encode(self) -> bytes:
        return b"\x06"


@dataclass(frozen=True, slots=True)
class Udp:
    """A datagram to, or from, ``host`` (an IP literal). Read, ``payload`` views the message."""

    command: ClassVar[int] = 0x07
    counted: ClassVar[bool] = False
    association: int
    host: str
    port: int
    payload: Buffer

    def encode(self) -> bytes:
        return encode_udp(self.association, self.host, self.port, self.payload)


@dataclass(frozen=True, slots=True)
class DnsQuery:
    """A DNS message of up to ``MAX_DNS`` bytes, to be resolved under a request id."""

    command: ClassVar[int] = 0x08
    counted: ClassVar[bool] = False
    request: int
    message: bytes

    def encode(self) -> bytes:
        return _encode_dns(0x08, self.request, self.message)


@dataclass(frozen=True, slots=True)
class DnsResponse:
    """The answer to the DNS query of a request id."""

    command: ClassVar[int] = 0x09
    counted: ClassVar[bool] = False
    request: int
    message: bytes

    def encode(self) -> bytes:
        return _encode_dns(0x09, self.request, self.message)


@dataclass(frozen=True, slots=True)
class Connected:
    """The far end of a stream is connected."""

    command: ClassVar[int] = 0x0A
    counted: ClassVar[bool] = True
    stream: int

    def encode(self) -> bytes:
        return _STREAM.pack(0x0A, self.stream)


@dataclass(frozen=True, slots=True)
class Eof:
    """No more DATA from the sender on this stream."""

    command: ClassVar[int] = 0x41
    counted: ClassVar[bool] = True
    stream: int

    def encode(self) -> bytes:
        return DATA_HEADER.pack(0x41, self.stream, 0)


@dataclass(frozen=True, slots=True)
class Window:
    """``credit`` more bytes that the receiver of this frame may send on ``stream``."""

    command: ClassVar[int] = 0x42
    counted: ClassVar[bool] = True
    stream: int
    credit: int

    def encode(self) -> bytes:
        return encode_window(self.stream, self.credit)


@dataclass(frozen=True, slots=True)
class Ack:
    """Counted frames taken so far, from the start of the session."""

    command: ClassVar[int] = 0x43
    counted: ClassVar[bool] = False
    count: int

    def encode(self) -> bytes:
        return encode_ack(self.count)


@dataclass(frozen=True, slots=True)
class UdpClose:
    """The end of an association."""

    command: ClassVar[int] = 0x44
    counted: ClassVar[bool] = False
    association: int

    def encode(self) -> bytes:
        return DATA_HEADER.pack(0x44, self.association, 0)


@dataclass(frozen=True, slots=True)
class Echo:
    """An ICMP echo request to ``host``, an IP literal."""

    command: ClassVar[int] = 0x45
    counted: ClassVar[bool] = False
    request: int
    host: str
    payload: Buffer

    def encode(self) -> bytes:
        host = encode_host(self.host)
        length = 2 + len(host) + len(self.payload)
        header = DATA_HEADER.pack(0x45, self.request, length)
        return b"".join((header, _SHORT.pack(len(host)), host, self.payload))


@dataclass(frozen=True, slots=True)
class EchoReply:
    """The payload of the reply to an ECHO."""

    command: ClassVar[int] = 0x46
    counted: ClassVar[bool] = False
    request: int
    payload: Buffer

    def encode(self) -> bytes:
        return b"".join((DATA_HEADER.pack(0x46, self.request, len(self.payload)), self.payload))


@dataclass(frozen=True, slots=True)
class GoAway:
    """The sender will answer CONNECT with 503 from now on."""

    command: ClassVar[int] = 0x47
    counted: ClassVar[bool] = False
    code: int
    reason: str = ""

    def encode(self) -> bytes:
        text = self.reason.encode()
        header = DATA_HEADER.pack(0x47, 0, 2 + len(text))
        return b"".join((header, _SHORT.pack(self.code), text))


@dataclass(frozen=True, slots=True)
class UdpError:
    """An ICMP error (``Code``) that came for what the association sent to ``host`` and ``port``."""

    command: ClassVar[int] = 0x48
    counted: ClassVar[bool] = False
    association: int
    code: int
    host: str
    port: int

    def encode(self) -> bytes:
        host = encode_host(self.host)
        header = DATA_HEADER.pack(0x48, self.association, 6 + len(host))
        return b"".join((header, _CODED.pack(self.code, self.port, len(host)), host))


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame of 0x40 to 0x7F that this end does not know: skipped, yet counted from 0x60 up."""

    command: int
    id: int
    body: Buffer

    @property
    def counted(self) -> bool:
        return self.command >= 0x60

    def encode(self) -> bytes:
        return b"".join((DATA_HEADER.pack(self.command, self.id, len(self.body)), self.body))


Frame: TypeAlias = (
    Connect | Data | Close | Error | Ping | Pong | Udp | DnsQuery | DnsResponse | Connected | Hello
    | Eof | Window | Ack | UdpClose | Echo | EchoReply | GoAway | UdpError | Unknown
)  # fmt: skip


# Without making their dataclasses, those of which there is one for every connection or message:


def encode_connect(stream: int, host: str, port: int) -> bytes:
    """Return a CONNECT.

    :raises ValueError: for what is no host.
    """
    name = encode_host(host)
    return _ADDRESS.pack(0x01, stream, port, len(name)) + name


def encode_window(stream: int, credit: int) -> bytes:
    """Return a WINDOW."""
    return _WINDOW.pack(0x42, stream, 4, credit)


def encode_ack(count: int) -> bytes:
    """Return an ACK."""
    return _ACK.pack(0x43, 0, 8, count)


def encode_udp(association: int, host: str, port: int, payload: Buffer) -> bytes:
    """Return a UDP frame.

    :raises ValueError: for a payload over ``MAX_DATAGRAM`` bytes or what is no host.
    """
    size = len(payload)
    if size > MAX_DATAGRAM:
        raise ValueError(f"a datagram of {size} bytes is over {MAX_DATAGRAM}")
    name = encode_host(host)
    header = _ADDRESS.pack(0x07, association, port, len(name))
    return b"".join((header, name, _LENGTH.pack(size), payload))


def _encode_dns(command: int, request: int, message: bytes) -> bytes:
    if len(message) > MAX_DNS:
        raise ValueError(f"a DNS message of {len(message)} bytes is over {MAX_DNS}")
    return b"".join((DATA_HEADER.pack(command, request, len(message)), message))


def cut(text: str) -> str:
    """Return as much of a text as an ERROR or a GOAWAY of ours says: 200 bytes."""
    return text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")


NAMES: dict[type, str] = {
    Connect: "CONNECT",
    Data: "DATA",
    Close: "CLOSE",
    Error: "ERROR",
    Ping: "PING",
    Pong: "PONG",
    Udp: "UDP",
    DnsQuery: "DNS_QUERY",
    DnsResponse: "DNS_RESPONSE",
    Connected: "CONNECTED",
    Hello: "HELLO",
    Eof: "EOF",
    Window: "WINDOW",
    Ack: "ACK",
    UdpClose: "UDP_CLOSE",
    Echo: "ECHO",
    EchoReply: "ECHO_REPLY",
    GoAway: "GOAWAY",
    UdpError: "UDP_ERROR",
}
"""The protocol's name of each frame that it has."""
