"""The codec of every frame of the tunnel protocol (PROTOCOL.md §2), v1's and v2's.

Each frame is a frozen dataclass with ``encode() -> bytes``; ``iter_frames`` and ``parse`` read a
message of one or more frames, ``parse_v1`` reads the one frame of a v1 message. Reading raises
ProtocolError, which names the frame; it looks at form only, the order of frames is the session's
matter. Encoding raises ValueError (struct.error, where a number does not fit) for what no frame can
hold.
"""

from __future__ import annotations

from ._frames import (
    DATA_HEADER,
    MAX_DATAGRAM,
    MAX_DNS,
    Ack,
    Buffer,
    Close,
    Code,
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
    encode_host,
    encode_udp,
)
from ._hello import MAX_HELLO, MAX_WINDOW, VERSION, Hello
from ._parse import iter_frames, parse, parse_v1

__all__ = [
    "DATA_HEADER",
    "MAX_DATAGRAM",
    "MAX_DNS",
    "MAX_HELLO",
    "MAX_WINDOW",
    "VERSION",
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
    "Hello",
    "Ping",
    "Pong",
    "Udp",
    "UdpClose",
    "UdpError",
    "Unknown",
    "Window",
    "encode_host",
    "encode_udp",
    "iter_frames",
    "parse",
    "parse_v1",
]
